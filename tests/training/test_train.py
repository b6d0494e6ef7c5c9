"""Tests training's identities: schedule, average, micro-batches, resuming, limits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from paris_p2p.data.batches import ClipOrder, Draws, make_batch
from paris_p2p.device import Device, pick_device
from paris_p2p.errors import CheckpointError, DataError, DivergedError, MemoryLimitError, UsageError
from paris_p2p.spec import TrainingSpec
from paris_p2p.training import learner as learner_module
from paris_p2p.training import train as training
from paris_p2p.training.learner import Learner
from paris_p2p.training.memory import fit_micro_batch, saved_bytes_per_clip
from paris_p2p.training.messages import CheckpointReady, Command, Event, Started, StepEvent, TrainJob
from paris_p2p.training.objective import open_clips
from paris_p2p.training.schedule import ema_decay, learning_rate
from paris_p2p.training.train import train
from tests.made.tiny_run import TinyRun, checkpoint_of, train_here

SPEC = TrainingSpec(batch_clips=4, learning_rate=1e-2, warmup_steps=10, total_steps=100, decay_steps=20)


def run(job: TrainJob, *commands: str | None) -> tuple[list[Event], str]:
    """Trains in this process; takes one of `commands`, if any, after each step."""
    events: list[Event] = []
    waiting = iter(commands)

    def next_command() -> Command | None:
        word = next(waiting, None)
        return Command(command=word) if word else None  # type: ignore[arg-type]

    return events, train(job, events.append, next_command)


def test_the_rate_warms_up_stays_and_decays_to_nothing() -> None:
    rates = [learning_rate(SPEC, "expert-0", step) for step in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert all(rate == pytest.approx(1e-2) for rate in rates[9:80])
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[80:]))
    assert rates[100] == 0
    assert learning_rate(SPEC, "router", 50) == SPEC.router_learning_rate


def test_a_lowered_rate_is_the_schedules_own_times_a_factor_at_every_step() -> None:
    for step in (0, 5, 50, 99):
        plain = learning_rate(SPEC, "expert-0", step)
        assert [learning_rate(SPEC, "expert-0", step, lowered) for lowered in (1, 2)] == pytest.approx(
            [0.3 * plain, 0.09 * plain]
        )


def test_a_trainer_given_a_lowered_rate_takes_smaller_steps_from_the_same_checkpoint(tiny: TinyRun) -> None:
    from_here = tiny.resume(checkpoint_of(train_here(tiny.train_job(out="lowered-from", max_steps=6))))
    start = load_file(from_here["resume_path"])

    def moved(lowered: int) -> float:
        job = tiny.train_job(out=f"lowered-{lowered}", max_steps=8, lowered=lowered, **from_here)
        end = load_file(checkpoint_of(train_here(job)).resume_path)
        return sum(
            float((end[name] - start[name]).abs().sum()) for name in end if name.startswith("weights.")
        )

    assert moved(2) < 0.5 * moved(1) < 0.25 * moved(0)


@given(st.integers(0, 10**9))
def test_without_a_last_step_the_rate_never_decays(step: int) -> None:
    open_ended = SPEC.model_copy(update={"total_steps": 0})
    assert learning_rate(open_ended, "expert-0", step) == pytest.approx(1e-2 * min(1, (step + 1) / 10))


def test_the_average_forgets_the_initialisation_before_it_slows_down() -> None:
    decays = [ema_decay(0.999, step) for step in range(20_000)]
    assert decays[0] == 0.1
    assert all(a <= b for a, b in pairwise(decays))
    assert decays[-1] == 0.999
    share = 1.0
    for decay in decays[:100]:
        share *= decay
    assert share < 1e-6


@pytest.mark.parametrize("slot", ["expert-1", "router"])
def test_the_micro_batch_does_not_change_the_maths(tiny: TinyRun, slot: str) -> None:
    clips, draws = open_clips(tiny.train_job(slot), tiny.spec), Draws.of(tiny.run, slot)
    order = ClipOrder(draws, len(clips))
    moments, losses = [], []
    for micro in (4, 3, 1):
        # bf16 would round away what is compared
        learner = Learner(tiny.run, tiny.spec, slot, Device(torch.device("cpu"), bf16=False))
        learner.micro_batch_clips = micro
        losses.append([learner.step(make_batch(clips, order, draws, first, 4)) for first in (0, 4, 8)])
        moments.append(learner.state().exp_avg)
    assert losses[1] == pytest.approx(losses[0])
    assert losses[2] == pytest.approx(losses[0])
    for other in moments[1:]:
        for name, moment in moments[0].items():
            assert torch.allclose(moment, other[name], rtol=1e-3, atol=2e-7), name


def test_checkpoints_on_command_and_stopping_ends_with_one(tiny: TinyRun) -> None:
    events, reason = run(tiny.train_job(out="commands", max_steps=0), None, "checkpoint", None, None, "stop")
    assert reason == "asked to stop"
    assert [event.steps for event in events if isinstance(event, CheckpointReady)] == [2, 5]
    assert isinstance(events[0], Started)
    assert sum(isinstance(event, StepEvent) for event in events) == 2
    for event in events:
        if isinstance(event, CheckpointReady):
            assert event.clips == 4 * event.steps
            assert event.weights_path.is_file()
            assert event.resume_path.is_file()


def test_a_run_with_a_last_step_ends_there_and_writes_no_second_checkpoint_of_it(tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path, SPEC.model_copy(update={"total_steps": 3, "router_batch_clips": 4}))
    events, reason = run(tiny.train_job(max_steps=0))
    ready = checkpoint_of(events)
    assert ready.steps == 3
    assert "step 3" in reason
    again, _ = run(tiny.train_job(max_steps=0, out="again", **tiny.resume(ready)))
    assert [type(event) for event in again] == [Started]


def test_the_same_state_makes_the_same_files(tiny: TinyRun) -> None:
    first, second = (checkpoint_of(run(tiny.train_job(out=f"same-{i}"))[0]) for i in range(2))
    assert first.resume_path.read_bytes() == second.resume_path.read_bytes()
    assert first.weights_path.read_bytes() == second.weights_path.read_bytes()


def test_a_diverged_step_is_an_error_and_leaves_the_last_checkpoint(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Event] = []
    real = learner_module.train_losses

    def losses(*arguments: object) -> torch.Tensor:
        result: torch.Tensor = real(*arguments)  # type: ignore[arg-type]
        return result * float("nan") if any(isinstance(event, CheckpointReady) for event in seen) else result

    monkeypatch.setattr(learner_module, "train_losses", losses)
    job = tiny.train_job(out="diverged", max_steps=9)
    with pytest.raises(DivergedError, match="diverged at step 1: loss nan"):
        train(job, seen.append, lambda: Command(command="checkpoint"))
    assert len(list(job.out_dir.iterdir())) == 2


def test_weights_that_are_not_finite_are_never_written(tiny: TinyRun) -> None:
    job = tiny.train_job(out="never")
    learner = Learner(tiny.run, tiny.spec, "expert-1", pick_device("cpu"))
    next(iter(learner.ema.values())).view(-1)[0] = float("inf")
    with pytest.raises(DivergedError, match="not finite"):
        learner.write_checkpoint(job.out_dir)
    assert list(job.out_dir.iterdir()) == []


def test_when_memory_runs_out_the_micro_batch_is_halved_and_no_step_is_lost(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = learner_module.train_losses, []

    def losses(spec: object, slot: str, network: object, batch: learner_module.Batch) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(spec, slot, network, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(learner_module, "train_losses", losses)
    events, _ = run(tiny.train_job(out="oom", micro_batch_clips=4, max_steps=1))
    assert sizes == [4, 2, 1, 1, 1, 1]
    monkeypatch.undo()
    straight, _ = run(tiny.train_job(out="no-oom", micro_batch_clips=1, max_steps=1))
    assert checkpoint_of(events).resume_path.read_bytes() == checkpoint_of(straight).resume_path.read_bytes()


def test_a_network_that_does_not_fit_one_clip_at_a_time_says_so(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(*arguments: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(learner_module, "train_losses", losses)
    with pytest.raises(MemoryLimitError, match="one clip at a time"):
        run(tiny.train_job(out="oom-all", micro_batch_clips=4))


def test_weights_that_do_not_fit_are_a_matter_of_memory_so_that_a_peer_takes_another_slot(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learner(*arguments: object) -> Learner:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(training, "Learner", learner)
    with pytest.raises(MemoryLimitError, match="expert-1 does not fit on cpu"):
        run(tiny.train_job(out="oom-state"))


def test_computing_activations_twice_changes_nothing(tiny: TinyRun) -> None:
    clips, draws = open_clips(tiny.train_job(), tiny.spec), Draws.of(tiny.run, "expert-1")
    batch = make_batch(clips, ClipOrder(draws, len(clips)), draws, 0, 4)
    plain, frugal = (Learner(tiny.run, tiny.spec, "expert-1", pick_device("cpu")) for _ in range(2))
    before = saved_bytes_per_clip(frugal, batch)
    assert frugal.recompute()
    assert not frugal.recompute()
    assert saved_bytes_per_clip(frugal, batch) < before / 2
    assert plain.step(batch) == frugal.step(batch)
    assert all(
        torch.equal(a, b) for a, b in zip(plain.weights.values(), frugal.weights.values(), strict=True)
    )


def test_passing_the_memory_limit_shrinks_micro_batches_then_ends_with_a_checkpoint(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    monkeypatch.setattr(training, "resident_bytes", lambda: 1 << 50)
    with pytest.raises(MemoryLimitError, match="stopped with a checkpoint"):
        train(
            tiny.train_job(out="limit", max_memory_bytes=1 << 40, micro_batch_clips=4),
            events.append,
            lambda: None,
        )
    assert checkpoint_of(events).steps == 4  # micro-batches of 4, 2, 1, and activations computed twice


def test_a_memory_limit_below_what_training_takes_is_refused_with_words(tiny: TinyRun) -> None:
    with pytest.raises(MemoryLimitError, match="1 MiB are allowed"):
        run(tiny.train_job(max_memory_bytes=1 << 20))


@given(st.integers(1, 512), st.integers(1, 1000), st.integers(0, 10_000))
def test_the_micro_batch_fits_and_is_an_even_share(batch: int, clip_bytes: int, spare_bytes: int) -> None:
    if spare_bytes < clip_bytes:
        with pytest.raises(MemoryLimitError):
            fit_micro_batch(batch, 500, clip_bytes, 500 + spare_bytes)
        return
    micro = fit_micro_batch(batch, 500, clip_bytes, 500 + spare_bytes)
    assert 1 <= micro <= batch
    assert micro * clip_bytes <= spare_bytes
    parts = -(-batch // micro)
    assert -(-batch // parts) == micro


def test_what_a_clip_takes_is_counted(tiny: TinyRun) -> None:
    job = tiny.train_job()
    clips, draws = open_clips(job, tiny.spec), Draws.of(tiny.run, job.slot)
    learner = Learner(tiny.run, tiny.spec, job.slot, pick_device("cpu"))
    batch = make_batch(clips, ClipOrder(draws, len(clips)), draws, 0, 4)
    assert saved_bytes_per_clip(learner, batch) > clips.stored(0).size_bytes


@pytest.mark.parametrize(("steps", "clips"), [(5, 24), (6, 20)])
def test_a_resume_state_with_other_counters_than_its_card_is_refused(
    tiny: TinyRun, steps: int, clips: int
) -> None:
    ready = checkpoint_of(run(tiny.train_job(out="counters"))[0])
    with pytest.raises(CheckpointError, match="its card and run say"):
        run(tiny.train_job(resume_path=ready.resume_path, resume_steps=steps, resume_clips=clips))


def test_a_resume_state_of_another_slot_is_refused(tiny: TinyRun) -> None:
    ready = checkpoint_of(run(tiny.train_job(out="slots"))[0])
    with pytest.raises(CheckpointError, match="slot"):
        run(tiny.train_job("expert-0", **tiny.resume(ready)))


def test_shards_that_are_not_the_slots_are_refused(tiny: TinyRun) -> None:
    job = tiny.train_job()
    with pytest.raises(DataError, match="clusters must agree"):
        run(job.model_copy(update={"shard_clusters": (0,)}))
    with pytest.raises(DataError, match="hold 6 clips, the RunSpec says 10"):
        run(job.model_copy(update={"shard_paths": (tiny.shards["gate"][1],)}))


def test_a_slot_that_the_run_does_not_have_is_refused(tiny: TinyRun) -> None:
    with pytest.raises(UsageError, match="no slot expert-7"):
        run(tiny.train_job().model_copy(update={"slot": "expert-7"}))
