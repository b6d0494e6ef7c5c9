"""Tests training with compact checkpoints: who goes on and who resumes are alike, and the gate knows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from paris_p2p.data.batches import ClipOrder, Draws, make_batch
from paris_p2p.device import pick_device
from paris_p2p.errors import CheckpointError
from paris_p2p.model.checkpoint import load_weights_into
from paris_p2p.spec import ROUTER, NetworkSpec, RunSpec, open_run
from paris_p2p.training.gate import check_card
from paris_p2p.training.gate_losses import mean_loss
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import CheckpointReady, Command, Event, TrainJob
from paris_p2p.training.needs import checkpoint_bytes
from paris_p2p.training.objective import build_network, network_shapes, open_clips
from paris_p2p.training.train import train
from tests.made.tiny_run import EXPERTS, TRAINING, TinyRun, checkpoint_of, train_here, train_in_process

COMPACT = TRAINING.model_copy(update={"compact": True})
SLOTS = ["expert-1", ROUTER]
CPU = replace(pick_device("cpu"), bf16=False)  # no rounding but that of checkpoints


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return TinyRun(tmp_path_factory.mktemp("compact"), COMPACT)


def checkpoints(job: TrainJob, at: tuple[int, ...]) -> list[CheckpointReady]:
    """Trains in this process with a checkpoint after each of these steps of the job's, and at the end."""
    events: list[Event] = []
    taken = 0

    def next_command() -> Command | None:
        nonlocal taken
        taken += 1
        return Command(command="checkpoint") if job.resume_steps + taken in at else None

    train(job, events.append, next_command)
    return [event for event in events if isinstance(event, CheckpointReady)]


def files_of(ready: CheckpointReady) -> tuple[bytes, bytes]:
    return ready.resume_path.read_bytes(), ready.weights_path.read_bytes()


@pytest.mark.parametrize("slot", SLOTS)
def test_resuming_at_any_checkpoint_equals_not_stopping_bit_for_bit(compact: TinyRun, slot: str) -> None:
    at = (3, 4, 9)
    straight = checkpoints(compact.train_job(slot, out=f"straight-{slot}", max_steps=12), at)
    assert [ready.steps for ready in straight] == [3, 4, 9, 12]
    killed: list[CheckpointReady] = []
    for steps in (*at, 12):  # each time a new trainer goes on from what the killed one had written
        more = compact.resume(killed[-1]) if killed else {}
        job = compact.train_job(slot, out=f"killed-{slot}", max_steps=steps, **more)
        trained = train_in_process if steps == 12 else train_here  # the last one knows nothing else
        killed.append(checkpoint_of(trained(job)))
    assert [files_of(ready) for ready in killed] == [files_of(ready) for ready in straight]


def test_the_learner_itself_has_what_a_successor_reads(compact: TinyRun, tmp_path: Path) -> None:
    ready = checkpoint_of(train_here(compact.train_job(out="itself", max_steps=5)))
    going_on, successor = (
        Learner(compact.run, compact.spec, "expert-1", pick_device("cpu")) for _ in range(2)
    )
    going_on.restore(ready.resume_path, ready.steps, ready.clips)
    for tensor in going_on.weights.values():
        tensor.data.add_(1e-4 * torch.randn_like(tensor))
    _, resume = going_on.write_checkpoint(tmp_path)
    successor.restore(resume, ready.steps, ready.clips)
    for (name, one), (_, other) in zip(going_on.state().tensors(), successor.state().tensors(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("slot", SLOTS)
def test_compact_checkpoints_are_attested(compact: TinyRun, slot: str) -> None:
    ready = checkpoints(compact.train_job(slot, out=f"gate-{slot}", max_steps=60), tuple(range(5, 60, 5)))[-1]
    result = check_card(compact.gate_job(ready, slot))
    assert result.ok, result.reason


def test_a_checkpoint_every_third_step_trains_the_same_clips_as_well(tiny: TinyRun, tmp_path: Path) -> None:
    losses = []
    for training in (TRAINING, COMPACT):
        spec = tiny.spec.model_copy(update={"training": training})
        learner = Learner(tiny.run, spec, "expert-1", CPU)
        clips, draws = open_clips(tiny.train_job(), spec), Draws.of(tiny.run, "expert-1")
        order = ClipOrder(draws, len(clips))
        for _ in range(60):
            learner.step(make_batch(clips, order, draws, learner.clips, 4))
            if learner.steps % 3 == 0:
                ready = learner.write_checkpoint(tmp_path)
        network = build_network(tiny.run, spec, "expert-1").eval()
        load_weights_into(ready[0], dict(network.named_parameters()))
        batch, t = (
            make_batch(clips, order, Draws.of(tiny.run, "measure"), 0, 12),
            torch.linspace(0.05, 0.95, 12),
        )
        losses.append(mean_loss(network, spec, "expert-1", batch, t, CPU))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_resume_state_of_the_other_kind_is_malformed_at_the_gate(compact: TinyRun, tiny: TinyRun) -> None:
    job, other = (run.train_job(out="kind", max_steps=2) for run in (compact, tiny))
    ready, foreign = checkpoint_of(train_here(job)), checkpoint_of(train_here(other))
    result = check_card(compact.gate_job(ready).model_copy(update={"resume_path": foreign.resume_path}))
    assert (result.ok, result.code) == (False, "malformed")
    assert "they differ in" in result.reason
    result = check_card(tiny.gate_job(foreign).model_copy(update={"resume_path": ready.resume_path}))
    assert (result.ok, result.code) == (False, "malformed")
    with pytest.raises(CheckpointError, match="they differ in"):
        train_here(compact.train_job(out="kind", max_steps=4, **compact.resume(foreign)))


def grown(compact: TinyRun) -> RunSpec:
    """Returns the run's RunSpec after expert-1 was split."""
    router = NetworkSpec(preset="nano", config={**compact.spec.router.config, "experts": EXPERTS + 1})
    return compact.spec.model_copy(update={"experts": EXPERTS + 1, "parents": (1,), "router": router})


def test_a_router_that_gets_an_output_goes_on_from_its_compact_state(
    compact: TinyRun, tmp_path: Path
) -> None:
    ready = checkpoint_of(train_here(compact.train_job(ROUTER, out="growing", max_steps=30)))
    learner = Learner(compact.run, grown(compact), ROUTER, pick_device("cpu"))
    learner.restore(ready.resume_path, ready.steps, ready.clips, experts=EXPERTS)
    before = Learner(compact.run, compact.spec, ROUTER, pick_device("cpu"))
    before.restore(ready.resume_path, ready.steps, ready.clips)
    assert torch.equal(learner.weights["out.weight"][:EXPERTS], before.weights["out.weight"])
    assert torch.equal(learner.weights["out.weight"][-1], before.weights["out.weight"][1])
    _, resume = learner.write_checkpoint(tmp_path)
    learner.restore(resume, ready.steps, ready.clips)


def test_a_child_starts_from_the_weights_of_a_compact_checkpoint(compact: TinyRun) -> None:
    parent = checkpoint_of(train_here(compact.train_job(out="parent", max_steps=4)))
    child = Learner(compact.run, grown(compact), f"expert-{EXPERTS}", pick_device("cpu"))
    child.start_as_child(parent.weights_path)
    attested = load_file(parent.weights_path)
    assert all(torch.equal(tensor.bfloat16(), attested[name]) for name, tensor in child.weights.items())


@pytest.mark.parametrize("slot", SLOTS)
def test_needs_know_the_sizes_of_compact_files(compact: TinyRun, slot: str) -> None:
    ready = checkpoint_of(train_here(compact.train_job(slot, out=f"size-{slot}", max_steps=1)))
    bytes_here = [path.stat().st_size for path in (ready.weights_path, ready.resume_path)]
    headers = [
        int.from_bytes(path.read_bytes()[:8], "little") for path in (ready.weights_path, ready.resume_path)
    ]
    needed = checkpoint_bytes(compact.spec, slot)
    few = 6 * len(network_shapes(compact.spec, slot))  # a last, shorter block of each parameter
    assert needed <= sum(bytes_here) - sum(headers) - 16 <= needed + few


def test_the_run_says_so_to_readers_that_know_it(compact: TinyRun, tiny: TinyRun) -> None:
    old, new = (open_run(run.spec_path.read_bytes()) for run in (tiny, compact))
    assert (old.record.training.compact, old.record.oldest_reader) == (False, 1)
    assert (new.record.training.compact, new.record.oldest_reader) == (True, 5)
    assert b"compact" in new.payload
    assert b"compact" not in old.payload
