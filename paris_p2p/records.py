"""Every message on the wire, in the DHT or on disk, with its version and bounds (docs/protocol.md).

Signed records travel as envelopes (envelope.py). Payloads are msgpack maps; ids are 32 raw bytes there and
hex here. Unknown fields are ignored, so that a newer peer may add some; `oldest_reader` says who may still
read a record.
"""

from __future__ import annotations

import struct
import unicodedata
from typing import Annotated, Any, Literal

from blake3 import blake3
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from paris_p2p.errors import ManifestError
from paris_p2p.identity import peer_id_from_bytes

PROTOCOL = 1  # the major version: part of every DHT key, topic and stream protocol
# Records that ask for a newer reader are refused. 2 knows shifted times, noise experts and initial weights; 3
# knows cards that go back to the best one with a lower learning rate; 4 knows the owner's notices, membership
# and sealed records; 5 knows crews and compact checkpoints; 6 knows the training options of spec.py that an
# older peer would ignore, and train something else.
READER = 6
CHUNK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 4 << 20
MAX_LOWERED = 64
MAX_ROUNDS = 16  # since a full card
# what a peer asks another for, and may be refused
RequestKind = Literal[
    "clock", "where", "spec", "records", "blobs", "join", "hello", "key", "stock", "history", "dial", "take"
]


def _hex(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) and len(value) == 32 else value


def _peer(value: Any) -> Any:
    return peer_id_from_bytes(value) if isinstance(value, bytes) else value


def without_controls(text: str) -> str:
    """Returns the text if no character steers a terminal; line feeds and tabs are text. ValueError."""
    steering = next(
        (letter for letter in text if unicodedata.category(letter) == "Cc" and letter not in "\n\t"), None
    )
    if steering is not None:
        raise ValueError(f"must not hold control characters, this one holds {steering!r}")
    return text


Hash = Annotated[str, BeforeValidator(_hex), StringConstraints(pattern=r"^[0-9a-f]{64}$")]  # BLAKE3, hex
PeerId = Annotated[
    str, BeforeValidator(_peer), StringConstraints(pattern=r"^12D3Koo[1-9A-HJ-NP-Za-km-z]{45}$")
]
Slot = Annotated[str, StringConstraints(pattern=r"^(expert-(0|[1-9][0-9]{0,2})|router)$")]
Text = Annotated[str, StringConstraints(max_length=2000), AfterValidator(without_controls)]
# what preview clips are made of; a notice of eight has room in an envelope
Preview = Annotated[str, StringConstraints(min_length=1, max_length=150), AfterValidator(without_controls)]
MAX_PREVIEWS = 8
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Seconds = Annotated[float, Field(ge=0, le=4e9)]  # Unix time, or a duration
MAX_LOSS = 1e6
Loss = Annotated[float, Field(ge=0, le=MAX_LOSS)]


class Record(BaseModel):
    """Is frozen, strict and finite; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class BlobRef(Record):
    """Names a blob with its size, which is checked against the manifest before a byte is fetched."""

    id: Hash
    size_bytes: Count


class Manifest(Record):
    """Lists what a blob is made of; its canonical bytes' BLAKE3 is the blob's id."""

    size_bytes: Count
    chunk_bytes: Annotated[int, Field(ge=1, le=16 << 20)] = CHUNK_BYTES
    chunks: tuple[bytes, ...]  # BLAKE3 of each chunk

    def to_bytes(self) -> bytes:
        return _MANIFEST_HEAD.pack(_MANIFEST_MAGIC, self.size_bytes, self.chunk_bytes) + b"".join(self.chunks)

    @property
    def blob_id(self) -> str:
        return blake3(self.to_bytes()).hexdigest()

    def chunk_size(self, index: int) -> int:
        """Returns the bytes in chunk `index`: chunk_bytes, but for the last one."""
        return min(self.chunk_bytes, self.size_bytes - index * self.chunk_bytes)

    @classmethod
    def from_bytes(cls, data: bytes, blob_id: str) -> Manifest:
        """Parses a manifest and checks it against the blob id; ManifestError when anything is off."""
        if len(data) > MAX_MANIFEST_BYTES or blake3(data).hexdigest() != blob_id:
            raise ManifestError(f"a manifest of {len(data)} bytes does not match blob {blob_id[:16]}")
        if len(data) < _MANIFEST_HEAD.size or (len(data) - _MANIFEST_HEAD.size) % 32:
            raise ManifestError(
                f"the manifest of blob {blob_id[:16]} has an impossible length, {len(data)} bytes"
            )
        magic, size, chunk = _MANIFEST_HEAD.unpack_from(data)
        hashes = data[_MANIFEST_HEAD.size :]
        if magic != _MANIFEST_MAGIC or not 1 <= chunk <= 16 << 20 or len(hashes) // 32 != -(-size // chunk):
            raise ManifestError(
                f"the manifest of blob {blob_id[:16]} contradicts itself; nothing of it was fetched"
            )
        return cls(
            size_bytes=size,
            chunk_bytes=chunk,
            chunks=tuple(hashes[i : i + 32] for i in range(0, len(hashes), 32)),
        )


_MANIFEST_MAGIC = b"paris-manifest/1"
_MANIFEST_HEAD = struct.Struct(">16sQI")


class Signed(Record):
    """Holds what every signed payload repeats, so that it cannot be moved to another run, slot or time."""

    kind: str
    oldest_reader: Annotated[int, Field(ge=1, le=1000)] = 1
    run: Hash
    slot: Slot | Literal[""] = ""
    seq: Count
    issued_at: Seconds
    expires_at: Seconds


class ClaimRecord(Signed):
    """Says that a peer holds, or (`released`) no longer holds, a slot for one epoch.

    `seq` counts its own claims.
    """

    kind: Literal["claim"] = "claim"
    slot: Slot
    epoch: Count
    # when this epoch was first claimed: stays the same over renewals, decides who was first
    claimed_at: Seconds
    released: bool = False


class CardRecord(Signed):
    """Describes a checkpoint, in the words of the lead that made it.

    The card's id is the BLAKE3 of its signer's id and payload.
    """

    kind: Literal["card"] = "card"
    slot: Slot
    # the parent's, higher when the lead changed or attestors split over a place; the first lead's is 1
    epoch: Count
    parent: Hash | Literal[""] = ""  # card id; empty for the slot's first card, whose seq is 1
    weights: BlobRef  # safetensors, EMA, bf16: what generators fetch
    resume: BlobRef  # safetensors, fp32 weights, optimizer, EMA, counters: what a successor fetches
    clips: Count  # clips trained on along the lineage
    steps: Count  # optimizer steps along the lineage
    train_loss: Loss
    # how often the learning rate was lowered (rules/rest.py)
    lowered: Annotated[int, Field(ge=0, le=MAX_LOWERED)] = 0
    notices: Count = 0  # the number of the owner's newest notice that its training knew
    # Of a card that several peers made (crew_records.py): the round blobs since the full card before, the
    # oldest first; the hash of the state after them; and the full card whose weights and resume state it
    # names, "" where they are its own.
    rounds: Annotated[tuple[BlobRef, ...], Field(max_length=MAX_ROUNDS)] = ()
    merged: Hash | Literal[""] = ""
    full: Hash | Literal[""] = ""
    round_s: Seconds = 0.0  # how long its lead gives the next round; 0: it trains alone

    @model_validator(mode="after")
    def _rounds_go_with_a_state(self) -> CardRecord:
        if bool(self.rounds) != bool(self.merged) or (self.full and not self.rounds):
            raise ValueError("rounds go with the hash of the merged state, and light cards have rounds")
        return self

    @property
    def is_light(self) -> bool:
        """Tells whether its weights and resume state are those of the full card before it."""
        return bool(self.full)


class AttestationRecord(Signed):
    """Says that a peer other than the lead checked a card.

    It holds the card's blobs, found them well-formed and finite, and measured the gate.
    """

    kind: Literal["attestation"] = "attestation"
    slot: Slot
    epoch: Count  # epoch and seq are the card's
    card: Hash
    loss: Loss  # on this card's gate clips and noise
    # the best attested ancestor's, on the same clips and noise (or the zero predictor's)
    reference_loss: Loss
    best: Hash  # the best attested card of the lineage up to and including this one
    gate_clips: Count
    # on the slot's fixed clips and noise: what may be compared from card to card
    fixed_loss: Loss | None = None


class RefusalRecord(Signed):
    """Says why a peer that may attest did not attest a card of the lead; `epoch` and `seq` are the card's."""

    kind: Literal["refusal"] = "refusal"
    slot: Slot
    epoch: Count
    card: Hash
    parent: Hash | Literal[""] = ""  # of the card: the tip it would have followed
    # a code of rules/refusals.py; a newer peer may know more
    reason: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,24}$")]
    loss: Loss = 0.0  # as in an attestation; 0 when nothing was measured
    reference_loss: Loss = 0.0
    gate_clips: Count = 0


class HolderRecord(Signed):
    """Says that the signer serves the blobs of `what`: a card id, or the run id for the run's data."""

    kind: Literal["holder"] = "holder"
    what: Hash


class PeerRecord(Signed):
    """Says that the signer is here; it has at most 256 bytes as an envelope."""

    kind: Literal["peer"] = "peer"
    role: Literal["peer", "owner", "bootstrap", "generator"] = "peer"
    notices: Count = 0  # the highest number of the owner's notices that it knows
    # its program's version (rules/versions.py); one letter, because a newer peer's must fit for older ones
    v: Annotated[int, Field(ge=0, lt=1 << 16)] = 0


class SealedRecord(Signed):
    """Carries a record of a private run: what a DHT node can bound and verify, and a body that members open.

    `run` and `shelf` are keyed hashes, so that they tell an outsider nothing; `hint` names the key.
    """

    kind: Literal["sealed"] = "sealed"
    shelf: Hash
    hint: Annotated[bytes, Field(min_length=8, max_length=8)]
    body: Annotated[bytes, Field(min_length=1, max_length=2048)]
