"""Tests a run that keeps two averages: generated from as published, exported with one of any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from paris_p2p.errors import UsageError
from paris_p2p.generation.export import export
from paris_p2p.generation.exported import open_export, weights_path
from paris_p2p.generation.generate import generate
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.model.checkpoint import TWO_AVERAGES, Counters
from paris_p2p.model.power_average import share_of_first
from tests.made.made_run import PROMPTS, MadeRun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    run = MadeRun(tmp_path_factory.mktemp("power"), ema_profile="power")
    for slot, path in run.weights.items():
        short = load_file(path)
        both = short | {f"long.{name}": 0.5 * value for name, value in short.items()}
        save_file(both, path, Counters(run.run, slot, 1, 1).metadata("weights") | TWO_AVERAGES)
    return run


def test_clips_are_made_of_the_average_that_an_export_takes_by_itself(made: MadeRun, tmp_path: Path) -> None:
    generate(made.fetched(), made.job(tmp_path / "clips.npy", guidance=2.0))
    export(made.fetched(), tmp_path / "model")
    pipeline = ParisPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "uint8"}
    assert np.array_equal(pipeline(PROMPTS, **how, rng_seed=0).frames, np.load(tmp_path / "clips.npy"))


def test_an_export_with_another_length_holds_plain_weights_of_both(made: MadeRun, tmp_path: Path) -> None:
    export(made.fetched(), tmp_path / "model", 0.08)
    share = share_of_first(0.08)
    for slot, path in made.weights.items():
        both, chosen = load_file(path), load_file(weights_path(tmp_path / "model", slot))
        assert {f"long.{name}" for name in chosen} | set(chosen) == set(both)
        for name, value in chosen.items():
            mixed = share * both[name].float() + (1 - share) * both[f"long.{name}"].float()
            assert torch.equal(value, mixed.bfloat16())
    opened = open_export(tmp_path / "model")
    generate(opened, made.job(tmp_path / "clips.npy"))


def test_a_length_that_cannot_be_had_leaves_no_folder(made: MadeRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"choose one from 0\.04"):
        export(made.fetched(), tmp_path / "model", 0.3)
    (plain := tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match="keeps one average"):
        export(MadeRun(plain).fetched(), tmp_path / "model", 0.08)
    assert not list(tmp_path.glob("*model*"))
