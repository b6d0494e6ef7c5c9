"""Tests training with two averages: resuming equals not stopping, the gate, growth, sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from paris_p2p.crew_records import CrewSpec
from paris_p2p.device import pick_device
from paris_p2p.model.power_average import power_decays
from paris_p2p.peer.summary import checkpoint_limits
from paris_p2p.spec import ROUTER, NetworkSpec, RunSpec, TrainingSpec
from paris_p2p.training.gate import check_card
from paris_p2p.training.learner import Learner
from paris_p2p.training.needs import checkpoint_bytes
from paris_p2p.training.objective import network_shapes
from tests.made.tiny_run import EXPERTS, TRAINING, TinyRun, checkpoint_of, train_here

SLOTS = ["expert-1", ROUTER]


@pytest.fixture(scope="module", params=[False, True], ids=["full", "compact"])
def power(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    training = TRAINING.model_copy(update={"ema_profile": "power", "compact": request.param})
    return TinyRun(tmp_path_factory.mktemp("power"), training)


@pytest.mark.parametrize("slot", SLOTS)
def test_resuming_equals_not_stopping_and_the_gate_attests(power: TinyRun, slot: str) -> None:
    if power.spec.training.compact:  # it goes on from what a checkpoint holds
        first = checkpoint_of(train_here(power.train_job(slot, out=f"first-{slot}", max_steps=9)))
        runs = [
            power.train_job(slot, out=f"{n}-{slot}", max_steps=40, **power.resume(first)) for n in range(2)
        ]
        straight, resumed = (checkpoint_of(train_here(job)) for job in runs)
    else:
        straight = checkpoint_of(train_here(power.train_job(slot, out=f"straight-{slot}", max_steps=40)))
        first = checkpoint_of(train_here(power.train_job(slot, out=f"first-{slot}", max_steps=9)))
        job = power.train_job(slot, out=f"resumed-{slot}", max_steps=40, **power.resume(first))
        resumed = checkpoint_of(train_here(job))
    assert resumed.resume_path.read_bytes() == straight.resume_path.read_bytes()
    assert resumed.weights_path.read_bytes() == straight.weights_path.read_bytes()
    result = check_card(power.gate_job(straight, slot))
    assert result.ok, result.reason
    paths = straight.weights_path, straight.resume_path
    sizes = [path.stat().st_size for path in paths]
    assert all(size <= most for size, most in zip(sizes, checkpoint_limits(power.spec, slot), strict=True))
    here = sum(path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little") for path in paths)
    needed = checkpoint_bytes(power.spec, slot)
    few = 10 * len(network_shapes(power.spec, slot)) if power.spec.training.compact else 0
    assert needed <= here <= needed + few


def test_averages_are_those_of_all_steps_by_their_powers(power: TinyRun) -> None:
    learner = Learner(power.run, power.spec, "expert-1", pick_device("cpu"))
    seen = []
    for step in range(4):
        for weight in learner.weights.values():
            weight.data.add_(0.01 * (step + 1))
        learner.steps = step
        learner._average()
        seen.append({name: weight.detach().clone() for name, weight in learner.weights.items()})
    for which, average in enumerate((learner.ema, learner.ema_long)):
        for name, value in average.items():
            wanted = torch.zeros_like(value)
            for step, weights in enumerate(seen):
                wanted.lerp_(weights[name], 1 - power_decays(step)[which])
            assert torch.equal(value, wanted), name


def test_a_router_that_gets_an_output_keeps_both(power: TinyRun, tmp_path: Path) -> None:
    ready = checkpoint_of(train_here(power.train_job(ROUTER, out="growing", max_steps=10)))
    router = NetworkSpec(preset="nano", config={**power.spec.router.config, "experts": EXPERTS + 1})
    grown = power.spec.model_copy(update={"experts": EXPERTS + 1, "parents": (1,), "router": router})
    learner = Learner(power.run, grown, ROUTER, pick_device("cpu"))
    learner.restore(ready.resume_path, ready.steps, ready.clips, experts=EXPERTS)
    assert torch.equal(learner.ema_long["out.weight"][-1], learner.ema_long["out.weight"][1])
    _, resume = learner.write_checkpoint(tmp_path)
    learner.restore(resume, ready.steps, ready.clips)


def test_it_goes_with_neither_crews_nor_an_average_by_clips(power: TinyRun) -> None:
    with pytest.raises(ValidationError, match="a crew keeps one average"):
        RunSpec(**(power.spec.model_dump() | {"crew": CrewSpec(peers=8, least_steps=1, most_steps=100)}))
    with pytest.raises(ValidationError, match="ema_clips cannot go with it"):
        TrainingSpec(batch_clips=4, learning_rate=1e-3, ema_clips=100, ema_profile="power")
