"""Tests that the benchmark of growth says, trains and measures what it claims to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.growth.lineage import Trained, Word, go_on
from bench.growth.measure import mixture_loss
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared
from paris_p2p.owner_records import Extend
from tests.made.made_growth import both
from tests.made.made_prepared import make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("growth") / "run"
    make_run(folder, experts=2)
    return folder


def test_what_is_said_is_signed_by_the_owner_and_changes_the_run(folder: Path) -> None:
    from paris_p2p.preparation.create import load_run

    word = Word(folder, load_run(folder))
    assert word.state().number == 0
    state = word.say([Extend(total_steps=7), *both(1, 2)])
    assert state.number == len(word.said) == 4
    assert state.spec.training.total_steps == 7
    assert state.spec.experts == 3
    assert {notice.signer for notice in word.chain.notices} == {word.run.signer}


def test_slots_go_on_from_their_checkpoints_and_the_mixture_is_measured_as_routed(folder: Path) -> None:
    from paris_p2p.preparation.create import load_run

    torch.set_num_threads(1)
    state = Word(folder, load_run(folder)).state()
    first = go_on(folder, state, Trained(), dict.fromkeys(state.spec.slots, 2), "first")
    second = go_on(folder, state, first, {"expert-0": 4}, "second")
    assert {slot: ready.steps for slot, ready in second.checkpoints.items()} == {
        "expert-0": 4,
        "expert-1": 2,
        "router": 2,
    }
    shard = Prepared.load(folder).shards_for("gate")[0]
    clips = ClipSet([folder / shard.path], [0])
    alone = mixture_loss(state.spec, second.weights, clips, (1,))
    assert alone.chosen == {0: 1.0}  # the other is left out
    mixed = mixture_loss(state.spec, second.weights, clips)
    assert mixed == mixture_loss(state.spec, second.weights, clips)
    assert mixed.loss != alone.loss
