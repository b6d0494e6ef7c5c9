"""The jobs, commands, events and results that the trainer and the gate exchange with their node, one JSON
line each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from paris_p2p.errors import TrainError
from paris_p2p.records import MAX_LOWERED, Count, Hash, Loss, Slot

MAX_LINE_BYTES = 4 << 20  # a job names up to 16384 shards


class Message(BaseModel):
    """Frozen and finite; a field nobody knows is a mistake, because both ends are of one version."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_line(self) -> str:
        return self.model_dump_json() + "\n"


class SlotJob(Message):
    """What both jobs need: a slot of a run, and verified local shards in the RunSpec's order."""

    run: Hash
    slot: Slot
    spec_path: Path  # the RunSpec's envelope bytes
    shard_paths: tuple[Path, ...] = Field(min_length=1, max_length=16384)
    shard_clusters: tuple[Annotated[int, Field(ge=0, le=999)], ...]
    device: str = "auto"  # auto, cpu, cuda or cuda:<n>
    threads: Annotated[int, Field(ge=0, le=1024)] = 0  # 0: torch's own choice

    @model_validator(mode="after")
    def _one_cluster_per_shard(self) -> Self:
        if len(self.shard_paths) != len(self.shard_clusters):
            raise ValueError(f"{len(self.shard_paths)} shards but {len(self.shard_clusters)} clusters")
        return self


class TrainJob(SlotJob):
    """Train one slot from its beginning, or from a resume state whose counters the card tells."""

    resume_path: Path | None = None
    resume_steps: Count = 0
    resume_clips: Count = 0
    # how often the learning rate was lowered, as the card says
    lowered: Annotated[int, Field(ge=0, le=MAX_LOWERED)] = 0
    # the run's first weights, where it has some; not used with a resume state
    initial_path: Path | None = None
    out_dir: Path  # checkpoints are written here; whoever started the trainer removes them
    micro_batch_clips: Annotated[int, Field(ge=0)] = 0  # 0: chosen to fit the memory
    compile: bool = True  # fuse blocks with torch.compile where that pays (Device.compiles)
    max_memory_bytes: Annotated[int, Field(ge=0)] = 0  # main memory of the trainer; 0: no limit of ours
    max_vram_bytes: Annotated[int, Field(ge=0)] = 0  # of the GPU that trains; 0: all of it
    checkpoint_s: Annotated[float, Field(ge=0)] = 600.0  # 0: only when told to, and at the end
    max_steps: Count = 0  # stop, with a checkpoint, at this step of the lineage; 0: until told to


class GateJob(SlotJob):
    """Check one card's checkpoint; `card` is the card's id and seeds the gate's clips, noise and times."""

    card: Hash
    steps: Count  # steps and clips are the card's
    clips: Count
    weights_path: Path
    resume_path: Path
    # the best attested ancestor's; None: the zero predictor is the reference
    best_weights_path: Path | None = None


class GateResult(Message):
    """The gate's verdict; `ok` is False, with a reason, for anything that must not be attested."""

    ok: bool
    reason: str = ""
    code: str = ""  # the reason's, as in rules/refusals.py
    loss: Loss = 0.0
    reference_loss: Loss = 0.0
    gate_clips: Count = 0
    # on the slot's fixed clips and noise: what may be compared from card to card
    fixed_loss: Loss | None = None


class Command(Message):
    """What the node may tell a running trainer."""

    command: Literal["checkpoint", "stop", "kill"]


class Started(Message):
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
    """Memory did not suffice: from now on fewer clips go through the network at once, or activations are
    computed twice.
    """

    event: Literal["shrunk"] = "shrunk"
    micro_batch_clips: Count
    recomputes: bool
    why: str


class StepEvent(Message):
    event: Literal["step"] = "step"
    steps: Count
    clips: Count
    loss: Loss  # mean over the steps since the last such event
    clips_per_s: Annotated[float, Field(ge=0)]
    wait_share: Annotated[float, Field(ge=0, le=1)]  # of the time since the last such event, waiting for data
    memory_bytes: Count  # resident memory, plus the device's peak


class CheckpointReady(Message):
    event: Literal["checkpoint_ready"] = "checkpoint_ready"
    weights_path: Path
    resume_path: Path
    steps: Count
    clips: Count
    train_loss: Loss  # mean since the last checkpoint


class Stopped(Message):
    event: Literal["stopped"] = "stopped"
    reason: str


class Failed(Message):
    event: Literal["failed"] = "failed"
    error: str  # the error's name in errors.py
    message: str


Event = Started | Shrunk | StepEvent | CheckpointReady | Stopped | Failed
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(line: bytes | str) -> Event:
    """The event on one line of the trainer's stdout; TrainError when it is none."""
    try:
        return _EVENTS.validate_json(line)
    except ValidationError as error:
        text = line if isinstance(line, str) else line.decode(errors="replace")
        raise TrainError(
            f"the trainer printed {text[:120]!r}, which is no event; this is a bug in it"
        ) from error
