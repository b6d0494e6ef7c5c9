"""msgpack from strangers, measured from end to end before a decoder builds anything of it.

A decoder believes what it reads: a list that says it has a million items is given room for them before the
first one came, and a thousand such lists in each other fit into 5 KB. So sizes, depth, number and types are
counted first, in a loop without recursion that stops at the first bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from paris_p2p.errors import RecordError


@dataclass(frozen=True)
class Bounds:
    """Bounds a value: `items` counts values of every kind, keys included; `depth` nested maps and lists."""

    items: int
    depth: int = 16


def unpack(data: bytes, bounds: Bounds, *, use_list: bool = False) -> Any:
    """Decodes the one value that `data` holds, without extensions; RecordError.

    Maps have names or bytes as keys.
    """
    check_bounds(data, bounds)
    try:
        return msgpack.unpackb(data, use_list=use_list, strict_map_key=True)
    except (
        ValueError,
        TypeError,
        msgpack.UnpackException,
    ) as error:  # text that is not UTF-8, a key that is a list
        raise RecordError(f"{len(data)} bytes are not valid msgpack: {str(error)[:80]}") from error


def check_bounds(data: bytes, bounds: Bounds) -> None:
    """Raises RecordError unless `data` is exactly one whole value within `bounds`, of plain types."""
    position, size, left, due = 0, len(data), bounds.items, 1
    outer: list[int] = []  # values still due in the maps and lists around this one
    while True:
        while not due:
            if not outer:
                if position > size:
                    raise RecordError(f"{position - size} bytes are missing at the end of a msgpack value")
                if position < size:
                    raise RecordError(f"{size - position} bytes follow the end of a msgpack value")
                return
            due = outer.pop()
        if position >= size:
            raise RecordError(f"{size} bytes of msgpack end before the value does")
        if not left:
            raise RecordError(f"{size} bytes of msgpack hold more than {bounds.items} values")
        due, left = due - 1, left - 1
        kind, count, head_bytes = _HEADS[data[position]]
        position += 1
        if kind == _SCALAR:
            position += count
            continue
        if head_bytes:
            count = int.from_bytes(data[position : position + head_bytes], "big")
            position += head_bytes
        if kind == _TEXT:
            position += count
            continue
        if kind == _REFUSED:
            raise RecordError(f"msgpack of the type 0x{data[position - 1]:02x} is not used here")
        count *= kind  # a map's keys and values
        if position + count > size:
            raise RecordError(f"{size} bytes of msgpack name {count} values, more than they can hold")
        if len(outer) >= bounds.depth:
            raise RecordError(f"msgpack nested deeper than {bounds.depth} is refused")
        outer.append(due)
        due = count


_LIST, _MAP, _SCALAR, _TEXT, _REFUSED = 1, 2, 3, 4, 5


def _head(byte: int) -> tuple[int, int, int]:
    """Reads what begins with `byte`: (kind, bytes or items that follow, bytes of a length that follows)."""
    if byte < 0x80 or byte >= 0xE0 or byte in (0xC0, 0xC2, 0xC3):
        return _SCALAR, 0, 0
    if byte < 0xA0:
        return (_MAP if byte < 0x90 else _LIST), byte & 0x0F, 0
    if byte < 0xC0:
        return _TEXT, byte & 0x1F, 0
    return _LONG_HEADS.get(byte, (_REFUSED, 0, 0))


_LONG_HEADS = {
    0xC4: (_TEXT, 0, 1), 0xC5: (_TEXT, 0, 2), 0xC6: (_TEXT, 0, 4),
    0xD9: (_TEXT, 0, 1), 0xDA: (_TEXT, 0, 2), 0xDB: (_TEXT, 0, 4),
    0xCA: (_SCALAR, 4, 0), 0xCB: (_SCALAR, 8, 0),
    0xCC: (_SCALAR, 1, 0), 0xCD: (_SCALAR, 2, 0), 0xCE: (_SCALAR, 4, 0), 0xCF: (_SCALAR, 8, 0),
    0xD0: (_SCALAR, 1, 0), 0xD1: (_SCALAR, 2, 0), 0xD2: (_SCALAR, 4, 0), 0xD3: (_SCALAR, 8, 0),
    0xDC: (_LIST, 0, 2), 0xDD: (_LIST, 0, 4), 0xDE: (_MAP, 0, 2), 0xDF: (_MAP, 0, 4),
}  # fmt: skip
_HEADS = tuple(map(_head, range(256)))
