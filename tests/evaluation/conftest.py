"""One world for all tests of this room, measured once; and one thread for torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paris_p2p.evaluation.evidence import Evidence
from paris_p2p.evaluation.gather import gather
from paris_p2p.evaluation.report import write_evaluation
from paris_p2p.evaluation.suitable import Baseline
from tests.evaluation.world import OPTIONS, PLAN, World, make_world
from tests.made.fixtures import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def evidence(world: World) -> Evidence:
    return gather(
        world.model,
        world.data,
        world.folder / "report",
        OPTIONS,
        Baseline(world.model),
        lambda stage, done, total: None,
    )


@pytest.fixture(scope="session")
def report(world: World, evidence: Evidence) -> Path:
    losses = world.folder / "losses.jsonl"
    losses.write_text(
        "".join(json.dumps({"model": "expert 0", "clips": n, "loss": 1 / n}) + "\n" for n in (4, 2, 1))
    )
    made = {"command": "made here"}
    write_evaluation(world.folder / "report", evidence, losses, made, lambda stage, done, total: None, PLAN)
    return world.folder / "report"
