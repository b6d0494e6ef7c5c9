"""What the peers that train one slot together tell each other: updates, who works there, and rounds
(docs/protocol.md, "Crews").

A round is a blob, not a signed record: a lead's signed card names it, and it holds the signed updates.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from paris_p2p.records import BlobRef, Count, Hash, Loss, PeerId, Record, Seconds, Signed, Slot

MAX_PEERS = 64  # of a crew
MAX_LATE = 2  # rounds by which an update may be late
MAX_COUNTED = 2048  # peers that ever contributed to a slot
MAX_REFUSED = 128  # updates that one round names as refused
MAX_ROUND_BYTES = 512 << 10  # of a round blob
STREAM_CLIPS_END = 1 << 53  # no stream of clips is counted so far: what Count can say
SCALE_ONE = 1 << 16  # scales are counted in 1/65536

MOST_STEP = 8.0

Share = Annotated[float, Field(ge=0, le=1)]
# of an update's levels, in root mean squares of the chunk that it should say
UpdateStep = Annotated[float, Field(gt=0.25, le=MOST_STEP)]


class CrewSpec(Record):
    """How several peers train one slot: the same for all, because everybody computes the merged weights."""

    peers: Annotated[int, Field(ge=2, le=MAX_PEERS)] = 8  # of one slot, its lead among them
    # optimizer steps that the median member makes in a round
    least_steps: Annotated[int, Field(ge=1, le=100_000)] = 30
    most_steps: Annotated[int, Field(ge=1, le=100_000)] = 250
    step: UpdateStep = 2.0  # the finest that updates have
    parts: Annotated[int, Field(ge=1, le=64)] = 1  # a round moves one chunk in so many
    feedback: Share = 0.95  # of what was not sent, what is kept for the next update
    outer_rate: Annotated[float, Field(gt=0, le=2)] = 0.9
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.8  # of the outer step (Nesterov)
    full_rounds: Annotated[int, Field(ge=1, le=16)] = 16  # full weights go out at least so often


class UpdateRecord(Signed):
    """Says what its signer learned in a round, for the slot's lead to merge."""

    kind: Literal["update"] = "update"
    slot: Slot
    base: Hash  # the id of the card that it started from
    blob: BlobRef  # paris-update/1
    steps: Count  # its optimizer steps that went in
    clips: Count
    first_clip: Count  # of its own stream of clips: the update used [first_clip, first_clip + clips)
    train_loss: Loss
    notices: Count = 0  # the number of the owner's newest notice that its training knew


class WorkerRecord(Signed):
    """Says that the signer works, or (`released`) works no longer, in a slot's crew; `seq` counts its own."""

    kind: Literal["worker"] = "worker"
    slot: Slot
    joined_at: Seconds  # stays the same over renewals
    released: bool = False
    step_s: Annotated[float, Field(ge=0, le=1e6)] = 0.0  # of one optimizer step, as it measured; 0: not yet
    upload_bytes_per_s: Annotated[float, Field(ge=0, le=1e12)] = 0.0  # as it measured; 0: not yet


class MergedUpdate(Record):
    """Names an update that a round merged."""

    envelope: Annotated[bytes, Field(min_length=1, max_length=2048)]  # of the UpdateRecord, as it was signed
    late: Annotated[int, Field(ge=0, le=MAX_LATE)]  # rounds
    scale: Annotated[int, Field(ge=1, le=SCALE_ONE)]  # of its weight, in 1/65536


class RefusedUpdate(Record):
    """Names an update that a round left out for a reason."""

    update: Hash
    peer: PeerId
    reason: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,24}$")]  # a code of rules/rounds.py


class Counted(Record):
    """Says up to where a peer's own stream of clips has been merged."""

    peer: PeerId
    next: Count


class CrewRound(Record):
    """Says how a merged state came of the one before it."""

    kind: Literal["round"] = "round"
    oldest_reader: Annotated[int, Field(ge=1, le=1000)] = 5
    run: Hash
    slot: Slot
    # the card whose state was merged into, and up to two before it, the newest first
    lineage: Annotated[tuple[Hash, ...], Field(min_length=1, max_length=MAX_LATE + 1)]
    steps_before: Count
    clips_before: Count
    steps: Count
    clips: Count
    # the hash of the state before it; "": the checkpoint of one lead alone, whose momentum begins at zero
    merged_before: Hash | Literal[""] = ""
    full: bool = False  # the state was rounded to what is published in full
    merged: Hash  # of the state after it
    updates: Annotated[tuple[MergedUpdate, ...], Field(min_length=1, max_length=MAX_PEERS)]  # by signer
    refused: Annotated[tuple[RefusedUpdate, ...], Field(max_length=MAX_REFUSED)] = ()
    counted: Annotated[tuple[Counted, ...], Field(max_length=MAX_COUNTED)] = ()  # by peer
