"""Defines what a trainer in a crew, and a gate that checks a crew's card, exchange with their node, beside
messages.py. Each is one line of JSON; the node has verified all records, files are checked by who reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from paris_p2p.crew_records import MAX_COUNTED, MAX_LATE, MAX_PEERS, SCALE_ONE, CrewSpec, UpdateStep
from paris_p2p.errors import TrainError
from paris_p2p.records import MAX_ROUNDS, Count, Hash, Loss, PeerId
from paris_p2p.training.messages import Event, GateJob, Message, TrainJob


class UpdateFile(Message):
    """Names an update with its file; the numbers are those of its verified record.

    `notices` and `train_loss` are only looked at in candidates.
    """

    update: Hash  # the record's id
    signer: PeerId
    path: Path
    steps: Count
    clips: Count
    first_clip: Count
    late: Annotated[int, Field(ge=0, le=MAX_LATE)] = 0
    scale: Annotated[int, Field(ge=1, le=SCALE_ONE)] = SCALE_ONE  # as a round says; a candidate has none yet
    notices: Count = 0
    train_loss: Loss = 0.0


class RoundFiles(Message):
    """Holds what one round did, for a machine that does it again: from which numbers, with which updates in
    which order, to which state.
    """

    steps_before: Count
    clips_before: Count
    steps: Count
    clips: Count
    full: bool
    merged: Hash
    updates: Annotated[tuple[UpdateFile, ...], Field(min_length=1, max_length=MAX_PEERS)]  # by signer


class Basis(Message):
    """Names the files that a card's state is made of: a full card's, and the rounds since.

    Where `merged_start` is empty the full card is one lead's alone: its momentum begins at zero.
    """

    card: Hash  # whose state it is
    weights_path: Path
    resume_path: Path
    start_steps: Count  # of the full card
    start_clips: Count
    merged_start: Hash | Literal[""] = ""
    rounds: Annotated[tuple[RoundFiles, ...], Field(max_length=MAX_ROUNDS)] = ()
    state_path: Path | None = None  # of the state itself, recomputed here before; then nothing else is read

    @property
    def steps(self) -> int:
        return self.rounds[-1].steps if self.rounds else self.start_steps

    @property
    def clips(self) -> int:
        return self.rounds[-1].clips if self.rounds else self.start_clips

    @property
    def merged(self) -> str:
        """Returns the hash of the state; empty for a card of one lead alone."""
        return self.rounds[-1].merged if self.rounds else self.merged_start


class CrewJob(TrainJob):
    """Asks to train one slot as a member of its crew, from the state of the tip.

    `resume_path` is not used; `resume_steps` and `resume_clips` are the basis's. Where this machine may read
    the gate's clips, the job names them: others' updates are tried on them, else on clips of the job's own.
    """

    crew: CrewSpec
    basis: Basis
    peer: PeerId  # this machine's: its clips are of its own stream
    first_clip: Count = 0  # of that stream, where it goes on
    alone: bool = False  # a lead without workers: rounds with its own update only
    # A lead that trained alone goes on with its own optimizer: its newest resume state, not older than the
    # basis.
    own_resume_path: Path | None = None
    own_resume_steps: Count = 0
    own_resume_clips: Count = 0
    gate_shard_paths: Annotated[tuple[Path, ...], Field(max_length=4096)] = ()  # all of the slot's, or none
    gate_shard_clusters: tuple[Annotated[int, Field(ge=0, le=999)], ...] = ()

    @model_validator(mode="after")
    def _one_cluster_per_gate_shard(self) -> Self:
        paths, clusters = len(self.gate_shard_paths), len(self.gate_shard_clusters)
        if paths != clusters:
            raise ValueError(f"{paths} gate shards but {clusters} clusters")
        return self


# what a node asks


class MakeUpdate(Message):
    """Asks for an update of what was learned since the base.

    `part` says which of the run's `parts` of the network it holds: all who start from one card must send the
    same, and one card after the other the next one (the card's `seq` modulo `parts`).
    """

    command: Literal["update"] = "update"
    step: UpdateStep
    part: Annotated[int, Field(ge=0, le=63)] = 0


class Adopt(Message):
    """Says that another card is the tip: its state is what training goes on from.

    `rounds` lead there from the state that the trainer has, where `from_card` is that one's card; else the
    whole `basis` is read. `own` says what became of this machine's last update. A lead's trainer that merged
    a state itself only learns its card's name so: what it has by its hash is not computed again.
    """

    command: Literal["adopt"] = "adopt"
    card: Hash
    from_card: Hash | Literal[""] = ""
    rounds: Annotated[tuple[RoundFiles, ...], Field(max_length=MAX_ROUNDS)] = ()
    basis: Basis | None = None
    own: Literal["merged", "waits", "late", "lost"] = "merged"


class Merge(Message):
    """Asks a lead's trainer to merge candidates into the state of card `parent`.

    That is the state that it has, or, while no card with its last merge was adopted, the one before that
    merge: then the merge is made anew, of other candidates or `without` some. Candidates come in the order in
    which they were heard of: the later one of two alike is the copy.
    """

    command: Literal["merge"] = "merge"
    parent: Hash
    candidates: Annotated[tuple[UpdateFile, ...], Field(max_length=4 * MAX_PEERS)]
    full: bool = False
    usual_norm: Annotated[float, Field(ge=0)] = 0.0  # the median of the rounds before; 0: not known
    without: tuple[Hash, ...] = ()  # updates that the gate refused the last merge for
    compare: bool = False  # measure too whether this machine's own update alone would be better


class GoSolo(Message):
    """Asks for a checkpoint of this machine alone, and the end of the session.

    `counted` is what the last round counted, peer by peer; the checkpoint keeps it (counted_note.py).
    """

    command: Literal["solo"] = "solo"
    counted: Annotated[dict[PeerId, Count], Field(max_length=MAX_COUNTED)] = {}


class Plain(Message):
    """Asks for what every trainer does: stop, or end at once. Work that no update holds is given up."""

    command: Literal["stop", "kill"]


CrewCommand = MakeUpdate | Adopt | Merge | GoSolo | Plain

# what a trainer tells


class UpdateReady(Message):
    """Names an update that was written."""

    event: Literal["update_ready"] = "update_ready"
    path: Path
    base: Hash  # the card it started from
    steps: Count
    clips: Count
    first_clip: Count
    train_loss: Loss  # mean over its steps
    step: UpdateStep


class NothingLearned(Message):
    """Says that no update was made, since no step was."""

    event: Literal["nothing_learned"] = "nothing_learned"


class Adopted(Message):
    """Says that training goes on from another card's state."""

    event: Literal["adopted"] = "adopted"
    card: Hash
    steps: Count
    clips: Count
    step_s: Annotated[float, Field(ge=0)] = 0.0  # of one step, as measured lately


class LeftOut(Message):
    """Names an update that was not merged, with a code of rules/rounds.py and what was measured."""

    update: Hash
    signer: PeerId
    reason: Annotated[str, Field(pattern=r"^[a-z]{1,24}$")]
    measured: str = ""  # in words


class MergedReady(Message):
    """Names a state that was merged, and how it came about."""

    event: Literal["merged"] = "merged"
    parent: Hash
    round: RoundFiles  # with the scales of what was merged
    left_out: tuple[LeftOut, ...] = ()
    train_loss: Loss  # mean of the merged updates', by clips
    norm: Annotated[float, Field(ge=0)]  # the median of the merged updates'
    # Where it was asked to compare: by how many standard errors the merged average is worse on the probe's
    # clips than the average after this machine's own update alone; below 0 it is better.
    worse_z: float | None = None
    weights_path: Path | None = None  # of a full round
    resume_path: Path | None = None


class NotMerged(Message):
    """Says that no candidate could be merged."""

    event: Literal["not_merged"] = "not_merged"
    parent: Hash
    left_out: tuple[LeftOut, ...] = ()


CrewEvent = UpdateReady | NothingLearned | Adopted | MergedReady | NotMerged


class CrewGateJob(GateJob):
    """Asks to recompute and measure a card of a crew.

    `basis` is the state that the card's new `rounds` merge into, the tip's; of a card that goes back there
    are none, and `basis` is the older card's state. Of a full card `weights_path` and `resume_path` are its
    own files, which must hold the recomputed state; of a light one they are not read. Where the best
    ancestor's numbers are not given, the basis is what the card is measured against. The recomputed state is
    written to `state_out` when the card may be attested.
    """

    crew: CrewSpec
    basis: Basis
    rounds: Annotated[tuple[RoundFiles, ...], Field(max_length=MAX_ROUNDS)]
    merged: Hash
    light: bool
    state_out: Path
    # Updates that the lead left out and this attestor has, with the lead's reason, of rules/left_out.py; ""
    # for none that can hold.
    disputed: Annotated[tuple[tuple[UpdateFile, str], ...], Field(max_length=MAX_PEERS)] = ()


_EVENTS: TypeAdapter[Event | CrewEvent] = TypeAdapter(
    Annotated[Event | CrewEvent, Field(discriminator="event")]
)
_COMMANDS: TypeAdapter[CrewCommand] = TypeAdapter(Annotated[CrewCommand, Field(discriminator="command")])


def is_crew_job(line: bytes | str) -> bool:
    """Tells whether a job's line asks to train in a crew; of what is no job, False."""
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and "crew" in found


def parse_crew_command(line: bytes | str) -> CrewCommand:
    """Parses one line of the node's; TrainError when it is not a command."""
    try:
        return _COMMANDS.validate_json(line)
    except ValidationError as error:
        text = line if isinstance(line, str) else line.decode(errors="replace")
        raise TrainError(f"the trainer was sent {text[:120]!r}, which is not a command") from error


def parse_crew_event(line: bytes | str) -> Event | CrewEvent:
    """Parses one line of the stdout of a trainer in a crew; TrainError when it is not an event."""
    try:
        return _EVENTS.validate_json(line)
    except ValidationError as error:
        text = line if isinstance(line, str) else line.decode(errors="replace")
        raise TrainError(
            f"the trainer printed {text[:120]!r}, which is not an event; this is a bug in it"
        ) from error
