"""Signed envelopes: payload bytes, signer, signature (docs/protocol.md).

The signature is verified before anything in the payload is parsed. It covers `paris-p2p/1\\0 kind \\0 run \\0
payload`, so that a payload signed as one kind, or for one run, is worthless as another. The original bytes
are kept and served on, never serialised again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgpack
from blake3 import blake3
from pydantic import ValidationError

from paris_p2p.errors import RecordError, VersionError
from paris_p2p.identity import Identity, peer_id_from_bytes, peer_id_to_bytes, verify
from paris_p2p.kinds import DEFAULT_MAX_ENVELOPE_BYTES, MAX_ENVELOPE_BYTES, SIGNED_KINDS, SIGNED_LIFETIME_S
from paris_p2p.packed import Bounds, unpack
from paris_p2p.records import READER, Record, Signed

R = TypeVar("R", bound=Record)
_HASH_FIELDS = (
    "run", "parent", "card", "best", "what", "id", "previous", "shelf", "next_key", "key_hash",
    "base", "full", "merged", "merged_before", "lineage", "update",
)  # fmt: skip
_PEER_FIELDS = ("owner", "owner_node", "attestors", "peer", "keeps", "admitters", "companion_of")
_ENVELOPE = Bounds(items=4, depth=1)
_RECORD = Bounds(items=512)
_RUN = Bounds(items=1 << 19)  # 20,480 shards are 270,000 values; half a million take at most some 60 MB


@dataclass(frozen=True)
class Envelope(Generic[R]):
    """Holds a verified record with the bytes it came in."""

    record: R
    signer: str  # peer id
    payload: bytes
    data: bytes  # the whole envelope, as it was received

    @cached_property
    def id(self) -> str:
        """Returns a run's or card's id.

        A run's is BLAKE3 of the payload. A card's is of its signer's id and the payload, since
        anybody can sign a copy of a payload.
        """
        signer = peer_id_to_bytes(self.signer) if isinstance(self.record, Signed) else b""
        return blake3(signer + self.payload).hexdigest()


def seal(identity: Identity, record: Signed) -> Envelope[Any]:
    """Signs a record as `identity`; RecordError when it is larger than its kind may be."""
    return seal_payload(identity, record.kind, record.run, encode_record(record), record)


def encode_record(record: Signed) -> bytes:
    """Returns a record's payload.

    Left out, a field has its default: a peer record would not fit in its 256 bytes with all of them.
    """
    named = {"kind": record.kind, "oldest_reader": record.oldest_reader}
    return encode(named | record.model_dump(exclude_defaults=True))


def seal_payload(identity: Identity, kind: str, run: str, payload: bytes, record: R) -> Envelope[R]:
    """Signs bytes that are already encoded.

    The RunSpec, whose run id is its own hash, is signed with run = ''.
    """
    signature = identity.sign(_signed_bytes(kind, run, payload))
    data: bytes = msgpack.packb((payload, identity.peer_id_bytes, signature))
    limit = MAX_ENVELOPE_BYTES.get(kind, DEFAULT_MAX_ENVELOPE_BYTES)
    if len(data) > limit:
        raise RecordError(f"a {kind} record of {len(data)} bytes is over its limit of {limit}")
    return Envelope(record=record, signer=identity.peer_id, payload=payload, data=data)


def open_envelope(data: bytes, *, run: str, kinds: tuple[str, ...] = tuple(SIGNED_KINDS)) -> Envelope[Any]:
    """Verifies and parses an envelope of one of `kinds` that must belong to `run`.

    Raises SignatureError, VersionError, or RecordError for anything else; expiry is the caller's to
    judge.
    """
    payload, signer, signature = split_envelope(
        data, max(MAX_ENVELOPE_BYTES.get(k, DEFAULT_MAX_ENVELOPE_BYTES) for k in kinds)
    )
    raw = decode(payload)
    kind = raw.get("kind")
    if kind not in kinds or not isinstance(kind, str):
        raise RecordError(f"expected a record of kind {' or '.join(kinds)}, got {str(kind)[:32]!r}")
    if len(data) > MAX_ENVELOPE_BYTES.get(kind, DEFAULT_MAX_ENVELOPE_BYTES):
        raise RecordError(f"a {kind} record of {len(data)} bytes is over its limit")
    verify(signer, _signed_bytes(kind, run, payload), signature)
    record = parse(SIGNED_KINDS[kind], raw)
    if record.run != run:
        raise RecordError(f"the record belongs to run {record.run[:16]}, not {run[:16]}")
    if not record.issued_at < record.expires_at <= record.issued_at + SIGNED_LIFETIME_S[kind]:
        asked_s = record.expires_at - record.issued_at
        raise RecordError(
            f"a {kind} record may live {SIGNED_LIFETIME_S[kind]:.0f} s, this one asks for {asked_s:.0f}"
        )
    return Envelope(record=record, signer=signer, payload=payload, data=data)


def split_envelope(data: bytes, limit_bytes: int) -> tuple[bytes, str, bytes]:
    """Returns (payload, signer, signature): sizes are checked, nothing is verified yet."""
    if len(data) > limit_bytes:
        raise RecordError(f"an envelope of {len(data)} bytes is over the limit of {limit_bytes}")
    parts = unpack(data, _ENVELOPE)
    if not isinstance(parts, tuple) or len(parts) != 3 or not all(isinstance(part, bytes) for part in parts):
        raise RecordError("an envelope must hold payload, signer and signature")
    payload, signer, signature = parts
    if len(signature) != 64:
        raise RecordError(f"a signature has 64 bytes, this one {len(signature)}")
    return payload, peer_id_from_bytes(signer), signature


def verify_payload(kind: str, run: str, payload: bytes, signer: str, signature: bytes) -> None:
    """Raises SignatureError unless the signature covers this kind, run and payload."""
    verify(signer, _signed_bytes(kind, run, payload), signature)


def parse(model: type[R], raw: dict[str, Any]) -> R:
    """Makes a record of a decoded payload: it checks the reader's version first, then the bounds."""
    oldest = raw.get("oldest_reader", 1)
    if not isinstance(oldest, int) or oldest > READER:
        raise VersionError(
            f"the record asks for reader {str(oldest)[:16]} or newer, this is reader {READER}; "
            "update paris-p2p"
        )
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "union_tag_invalid":  # an act of the owner's that came with a later version
            act = str(first.get("ctx", {}).get("tag"))[:32]
            raise VersionError(
                f"a {str(raw.get('kind'))[:32]} record says {act!r}, which this version does not know; "
                "update paris-p2p"
            ) from error
        raise RecordError(
            f"a {str(raw.get('kind'))[:32]} record has a bad field {where!r}: {first['msg']}"
        ) from error


def encode(raw: dict[str, Any]) -> bytes:
    """Encodes a record's fields as msgpack; ids and peer ids are raw bytes, which halves them."""
    packed: bytes = msgpack.packb(_compact(raw))
    return packed


def decode(payload: bytes) -> dict[str, Any]:
    # Tuples, no lists: strict records accept none for them.
    raw = unpack(payload, _RUN if len(payload) > DEFAULT_MAX_ENVELOPE_BYTES else _RECORD)
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise RecordError("a record's payload must be a map with names")
    return raw


def _compact(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _compact(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_compact(item, name) for item in value]
    if isinstance(value, str) and name in _HASH_FIELDS and len(value) == 64:
        return bytes.fromhex(value)
    if isinstance(value, str) and name in _PEER_FIELDS and value:
        return peer_id_to_bytes(value)
    return value


def _signed_bytes(kind: str, run: str, payload: bytes) -> bytes:
    return b"paris-p2p/1\0" + kind.encode() + b"\0" + run.encode() + b"\0" + payload
