"""Damaged copies of good messages: changed, cut, doubled and spliced bytes; well-formed wrong values."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgpack

# Heads that promise much, nest, or are extensions; numbers at the edges; text that is none.
TOKENS = (
    b"\xdd\x7f\xff\xff\xff", b"\xdf\x00\x0f\xff\xff", b"\xdc\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xdb\x00\x00\xff\xff",
    b"\xc7\x02\x40\x90", b"\xc9\x00\x00\x00\x01\x40\x90", b"\xd4\x50\x90", b"\x91", b"\x81\xa0",
    b"\x91" * 40, b"\xc1",
    b"\xcf" + b"\xff" * 8, b"\xcb\x7f\xf8" + bytes(6), b"\xcb\x7f\xf0" + bytes(6), b"\xd3\x80" + bytes(7),
    b"\xa2\xff\xfe", b"\x00" * 8, b"\xff" * 8, b"\x80" * 10 + b"\x01", b"[" * 200, b'{"a":' * 100,
    b"\xed\xa0\x80",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1 << 53, (1 << 64) - 1, -(1 << 63), 0.0, -0.0, float("nan"), float("inf"), 1e308, "",
    "x" * 3000,
    "\x1b[2J", "\u202e", b"", bytes(32), bytes(38), b"\xff" * 38, [], {}, [[[[]]]],
    {"a": {"b": []}}, "1" * 5000,
)  # fmt: skip


def of_bytes(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One to eight changes in one of the seeds."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        _change(rng, data, seeds)
    return bytes(data)


def of_value(rng: random.Random, value: Any) -> Any:
    """A value like this one in which something is replaced, left out, doubled or added."""
    if not isinstance(value, dict | list | tuple) or rng.random() < 0.1:
        return rng.choice(VALUES)
    if isinstance(value, dict):
        changed = dict(value)
        name = rng.choice([*changed, "unknown"])
        how = rng.randrange(4)
        if how == 0:
            changed.pop(name, None)
        elif how == 1:
            changed[rng.choice(("", "unknown", "kind", "x" * 300))] = rng.choice(VALUES)
        else:
            changed[name] = of_value(rng, changed.get(name))
        return changed
    items = list(value)
    if not items or rng.random() < 0.3:
        return items * rng.choice((0, 2, 3)) + [rng.choice(VALUES)]
    items[rng.randrange(len(items))] = of_value(rng, rng.choice(items))
    return items


def of_msgpack(rng: random.Random, seeds: Sequence[Any]) -> bytes:
    """Well-formed msgpack, most of the time."""
    packed: bytes = msgpack.packb(of_value(rng, rng.choice(seeds)))
    return packed if rng.random() < 0.8 else of_bytes(rng, [packed])


def _change(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at, how = rng.randrange(len(data) + 1), rng.randrange(8)
    end = min(len(data), at + rng.choice((1, 2, 4, 16, 64)))
    if how == 0:
        del data[at:]
    elif how == 1:
        del data[at:end]
    elif how == 2:
        data[at:at] = rng.choice(TOKENS)
    elif how == 3:
        data[at:end] = rng.choice(TOKENS)
    elif how == 4:
        data[at:at] = data[at:end] * rng.choice((1, 3, 20))
    elif how == 5:
        other = rng.choice(seeds)
        data[at:end] = other[rng.randrange(len(other) + 1) :][:64]
    elif how == 6:
        data[at:end] = rng.randbytes(end - at)
    elif at < len(data):
        data[at] ^= 1 << rng.randrange(8)
