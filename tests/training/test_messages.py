"""Messages survive their line, and what is no message is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from paris_p2p.errors import DivergedError, MachineError, ParisError, TrainError
from paris_p2p.training.messages import (
    CheckpointReady,
    Event,
    Failed,
    Started,
    StepEvent,
    Stopped,
    TrainJob,
    error_of,
    parse_event,
)


def _kinds(base: type[ParisError]) -> list[type[ParisError]]:
    return [base, *(one for kind in base.__subclasses__() for one in _kinds(kind))]


EVENTS: list[Event] = [
    Started(steps=0, clips=0, parameters=9, device="cpu", precision="fp32", micro_batch_clips=4),
    StepEvent(steps=1, clips=4, loss=0.5, clips_per_s=2.0, wait_share=0.0, memory_bytes=1),
    CheckpointReady(weights_path=Path("/w"), resume_path=Path("/r"), steps=1, clips=4, train_loss=0.5),
    Stopped(reason="asked to stop"),
    Failed(error="DataError", message="what happened\nand what to do"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_an_event_survives_its_line(event: Event) -> None:
    line = event.to_line()
    assert line.count("\n") == 1
    assert parse_event(line.encode()) == event


@pytest.mark.parametrize("line", [b"", b"loading...", b'{"event":"other"}', b'{"event":"stopped"}', b"\xff"])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(TrainError, match="which is not an event"):
        parse_event(line)


def test_a_loss_that_is_not_finite_is_no_event() -> None:
    with pytest.raises(ValidationError):
        StepEvent(steps=1, clips=4, loss=float("nan"), clips_per_s=2.0, wait_share=0.0, memory_bytes=1)


def test_a_job_needs_a_cluster_for_each_shard(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="1 shards but 2 clusters"):
        TrainJob(
            run="ab" * 32,
            slot="router",
            spec_path=tmp_path,
            shard_paths=(tmp_path,),
            shard_clusters=(0, 1),
            out_dir=tmp_path,
        )


@pytest.mark.parametrize("name", sorted(kind.__name__ for kind in _kinds(ParisError)))
def test_what_a_machine_failed_a_trainer_in_is_told_from_what_it_began_with(name: str) -> None:
    error = error_of(Failed(error=name, message="what happened"))
    assert str(error) == "what happened"
    machine = {
        "MachineError",
        "MemoryLimitError",
        "DeviceError",
        "StoreError",
        "DiskFullError",
        "ReadOnlyError",
    }
    assert isinstance(error, MachineError) == (name in machine)
    assert isinstance(error, DivergedError) == (name == "DivergedError")


def test_an_unknown_name_is_a_train_error() -> None:
    assert type(error_of(Failed(error="NoSuchError", message="x"))) is TrainError
