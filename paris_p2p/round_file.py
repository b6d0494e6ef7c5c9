"""A round blob's bytes: canonical msgpack, measured before it is decoded (docs/protocol.md, "Crews")."""

from __future__ import annotations

from paris_p2p.crew_records import MAX_COUNTED, MAX_PEERS, MAX_REFUSED, MAX_ROUND_BYTES, CrewRound
from paris_p2p.envelope import encode, parse
from paris_p2p.errors import RecordError
from paris_p2p.packed import Bounds, unpack

_BOUNDS = Bounds(items=64 + 5 * MAX_COUNTED + 8 * MAX_REFUSED + 8 * MAX_PEERS, depth=4)


def encode_round(made: CrewRound) -> bytes:
    """Returns a round's bytes; RecordError when they are more than a reader takes."""
    named = {"kind": made.kind, "oldest_reader": made.oldest_reader}
    data = encode(named | made.model_dump(exclude_defaults=True))
    if len(data) > MAX_ROUND_BYTES:
        raise RecordError(f"a round of {len(data)} bytes is over its limit of {MAX_ROUND_BYTES}")
    return data


def decode_round(data: bytes, run: str, slot: str) -> CrewRound:
    """Returns the round that these bytes hold. Nothing in it is verified yet but its form.

    Raises VersionError for one that asks for a newer reader; RecordError for one of another run or slot, and
    for bytes that are not the canonical ones.
    """
    if len(data) > MAX_ROUND_BYTES:
        raise RecordError(f"a round of {len(data)} bytes is over the limit of {MAX_ROUND_BYTES}")
    raw = unpack(data, _BOUNDS)
    if not isinstance(raw, dict) or raw.get("kind") != "round":
        raise RecordError("a round blob holds no round; its maker must make it again")
    made = parse(CrewRound, raw)
    if (made.run, made.slot) != (run, slot):
        raise RecordError(
            f"the round is of {made.slot} in run {made.run[:16]}, not of {slot} in run {run[:16]}"
        )
    if encode_round(made) != data:
        raise RecordError("a round's bytes are not in their one form")
    return made
