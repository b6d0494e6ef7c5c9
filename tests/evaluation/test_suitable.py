"""Clips that a model may have seen are refused before anything is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paris_p2p.errors import DataError, UsageError
from paris_p2p.evaluation.gather import gather
from paris_p2p.evaluation.suitable import Baseline
from paris_p2p.generation.exported import open_export
from tests.evaluation.world import OPTIONS, World, exported, other_data


def test_clips_of_another_preparation_are_refused_before_anything_is_made(world: World, tmp_path: Path):
    again, out = other_data(world, tmp_path), tmp_path / "out"
    with pytest.raises(UsageError, match=r"is not what run .* was made of"):
        gather(world.model, again, out, OPTIONS, None, lambda *_: None)
    other = tmp_path / "other"
    shutil.copytree(again, other / "data")
    exported(other, other / "model")
    model = open_export(other / "model")
    with pytest.raises(UsageError, match=r"of the baseline: .*--baseline-data"):
        gather(world.model, world.data, out, OPTIONS, Baseline(model), lambda *_: None)
    with pytest.raises(UsageError, match="are train or gate clips in"):
        gather(world.model, world.data, out, OPTIONS, Baseline(model, again), lambda *_: None)
    assert not out.exists()


def test_a_folder_mixed_from_two_preparations_is_refused(world: World, tmp_path: Path):
    shutil.copytree(world.data, tmp_path / "data", ignore=shutil.ignore_patterns("node", "cache"))
    path = tmp_path / "data" / "splits.json"
    lists = json.loads(path.read_text())
    swapped = {"train": "test", "test": "train"}
    clips = [clip | {"split": swapped.get(clip["split"], clip["split"])} for clip in lists["clips"]]
    path.write_text(json.dumps({"clips": clips}))
    with pytest.raises(DataError, match="mixed from two preparations"):
        gather(world.model, tmp_path / "data", tmp_path / "out", OPTIONS, None, lambda *_: None)
