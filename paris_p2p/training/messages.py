"""Defines what the trainer and the gate exchange with their node: jobs, commands, events, results.

Each is one line of JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from paris_p2p.errors import DeviceError, DivergedError, MachineError, MemoryLimitError, TrainError
from paris_p2p.records import MAX_LOWERED, Count, Hash, Loss, Slot

MAX_LINE_BYTES = 4 << 20  # a job names up to 16384 shards


class Message(BaseModel):
    """Refuses changes, unknown fields and numbers that are not finite: both ends are of one version."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_line(self) -> str:
        return self.model_dump_json() + "\n"


class ShardSpan(Message):
    """Says of a shard from which notice on it belongs to the run, and from which on no more.

    `since` is 0 for the RunSpec's own shards, `until` 0 for a shard that is there.
    """

    clips: Count
    since: Count = 0
    until: Count = 0


class SlotJob(Message):
    """Holds what both jobs need: a slot of a run, and verified local shards in the RunSpec's order."""

    run: Hash
    slot: Slot
    spec_path: Path  # the RunSpec's envelope bytes
    effective_path: Path | None = None  # the RunSpec with what notices changed in it, where they did
    shard_paths: tuple[Path, ...] = Field(min_length=1, max_length=16384)
    shard_clusters: tuple[Annotated[int, Field(ge=0, le=999)], ...]
    notices: Count = 0  # the number of the notices that the job knows; a card's at the gate
    # All train shards that the slot ever had, in their order; empty where no notice changed them.
    spans: tuple[ShardSpan, ...] = Field(default=(), max_length=65536)
    device: str = "auto"  # auto, cpu, cuda or cuda:<n>
    threads: Annotated[int, Field(ge=0, le=1024)] = 0  # 0: torch's own choice

    @model_validator(mode="after")
    def _one_cluster_per_shard(self) -> Self:
        if len(self.shard_paths) != len(self.shard_clusters):
            raise ValueError(f"{len(self.shard_paths)} shards but {len(self.shard_clusters)} clusters")
        return self


class TrainJob(SlotJob):
    """Asks to train one slot from its beginning, or from a resume state at the card's counters."""

    resume_path: Path | None = None
    resume_steps: Count = 0
    resume_clips: Count = 0
    # Of a router whose resume state is older than its newest outputs: how many it has; 0: all.
    resume_experts: Annotated[int, Field(ge=0, le=256)] = 0
    # How often the learning rate was lowered, as the card says.
    lowered: Annotated[int, Field(ge=0, le=MAX_LOWERED)] = 0
    # The run's first weights, where it has some; they are not used with a resume state.
    initial_path: Path | None = None
    # Of an expert that was split from another: that one's weights, which it starts from.
    parent_path: Path | None = None
    # Of a router: the run's calibration shards, in the RunSpec's order, or none.
    calibration_shard_paths: tuple[Path, ...] = Field(default=(), max_length=256)
    out_dir: Path  # checkpoints are written here; the process that started the trainer removes them
    micro_batch_clips: Annotated[int, Field(ge=0)] = 0  # 0: chosen to fit the memory
    compile: bool = True  # fuse blocks with torch.compile where that pays (Device.compiles)
    max_memory_bytes: Annotated[int, Field(ge=0)] = 0  # main memory of the trainer; 0: no limit of ours
    max_vram_bytes: Annotated[int, Field(ge=0)] = 0  # of the GPU that trains; 0: all of it
    checkpoint_s: Annotated[float, Field(ge=0)] = 600.0  # 0: only on command, and at the end
    max_steps: Count = 0  # stop, with a checkpoint, at this step of the lineage; 0: on command


class SpeedJob(Message):
    """Asks how fast a slot trains here, for as many seconds; the limits are those of a TrainJob."""

    run: Hash
    slot: Slot
    spec_path: Path  # the RunSpec's envelope bytes
    effective_path: Path | None = None
    trial_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    device: str = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    micro_batch_clips: Annotated[int, Field(ge=0)] = 0
    max_memory_bytes: Annotated[int, Field(ge=0)] = 0
    max_vram_bytes: Annotated[int, Field(ge=0)] = 0


class SpeedResult(Message):
    """Holds what a trial showed, or in `error` why there was none."""

    error: str = ""
    clips_per_s: Annotated[float, Field(ge=0)] = 0.0
    steps: Count = 0
    micro_batch_clips: Count = 0
    batch_clips: Count = 0
    recomputes: bool = False
    device: str = ""
    precision: str = ""
    memory_bytes: Count = 0


class GateJob(SlotJob):
    """Asks to check one card's checkpoint; `card`, the card's id, seeds the gate's clips, noise and times."""

    card: Hash
    steps: Count  # steps and clips are the card's
    clips: Count
    weights_path: Path
    resume_path: Path
    # Those of the best attested ancestor; None: the zero predictor is the reference.
    best_weights_path: Path | None = None
    # Where that one is of a crew and this machine computed its state: the file, and the state's hash.
    best_state_path: Path | None = None
    best_merged: Hash | Literal[""] = ""
    # Of a router whose best ancestor has fewer outputs: how many; 0: as many as this one.
    best_experts: Annotated[int, Field(ge=0, le=256)] = 0


class GateResult(Message):
    """Holds the gate's verdict; `ok` is False, with a reason, for anything that must not be attested."""

    ok: bool
    reason: str = ""
    code: str = ""  # of the reason, from rules/refusals.py
    loss: Loss = 0.0
    reference_loss: Loss = 0.0
    gate_clips: Count = 0
    # On the slot's fixed clips and noise, so that it may be compared from card to card.
    fixed_loss: Loss | None = None


class Command(Message):
    """Asks a running trainer for something."""

    command: Literal["checkpoint", "stop", "kill"]


class Started(Message):
    """Says that training begins, where, and with how many clips at once."""

    event: Literal["started"] = "started"
    steps: Count
    clips: Count
    parameters: Count
    device: str
    precision: str
    micro_batch_clips: Count
    batch_clips: Count = 0
    recomputes: bool = False  # activations are computed twice


class Shrunk(Message):
    """Says that memory did not suffice.

    From now on fewer clips go through the network at once, or activations are computed twice.
    """

    event: Literal["shrunk"] = "shrunk"
    micro_batch_clips: Count
    recomputes: bool
    why: str


class StepEvent(Message):
    """Reports the steps since the event before."""

    event: Literal["step"] = "step"
    steps: Count
    clips: Count
    loss: Loss  # mean over the steps since the last such event
    clips_per_s: Annotated[float, Field(ge=0)]
    wait_share: Annotated[float, Field(ge=0, le=1)]  # of the time since the last such event, waiting for data
    memory_bytes: Count  # resident memory, plus the device's peak


class CheckpointReady(Message):
    """Names a checkpoint that was written."""

    event: Literal["checkpoint_ready"] = "checkpoint_ready"
    weights_path: Path
    resume_path: Path
    steps: Count
    clips: Count
    train_loss: Loss  # mean since the last checkpoint


class Stopped(Message):
    """Says that training ended, and why."""

    event: Literal["stopped"] = "stopped"
    reason: str


class Failed(Message):
    """Says that training failed."""

    event: Literal["failed"] = "failed"
    error: str  # its name in errors.py
    message: str


_KINDS: Final[dict[str, type[TrainError]]] = {
    **{kind.__name__: kind for kind in (MachineError, MemoryLimitError, DeviceError, DivergedError)},
    **dict.fromkeys(("StoreError", "DiskFullError", "ReadOnlyError"), MachineError),
}


def error_of(failed: Failed) -> TrainError:
    """Returns the error that a trainer's process ended with, as one of those that others tell apart."""
    return _KINDS.get(failed.error, TrainError)(failed.message)


Event = Started | Shrunk | StepEvent | CheckpointReady | Stopped | Failed
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(line: bytes | str) -> Event:
    """Parses one line of the trainer's stdout; TrainError when it is not an event."""
    try:
        return _EVENTS.validate_json(line)
    except ValidationError as error:
        text = line if isinstance(line, str) else line.decode(errors="replace")
        raise TrainError(
            f"the trainer printed {text[:120]!r}, which is not an event; this is a bug in it"
        ) from error
