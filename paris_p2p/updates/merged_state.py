"""The hash that names a merged state, and the plain file that keeps one for the next round.

The file holds exactly the bytes that are hashed: "paris-merged/1" padded to 16, run (32), slot (16), steps,
clips and n (u64 each), then θ, m and ē as fp32, all little-endian: 12 bytes a parameter, ready to be mapped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from blake3 import blake3

from paris_p2p.disk import explained, replacing
from paris_p2p.errors import CheckpointError
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.outer_step import OuterState

_MAGIC = b"paris-merged/1\0\0"
_HEAD = struct.Struct("<16s32s16sQQQ")
HASHED_AT_ONCE = 1 << 22  # entries


def state_hash(run: str, slot: str, state: OuterState) -> str:
    """Returns the BLAKE3 of a merged state, in hex; `run` is the run's id in hex."""
    hasher = blake3(_head(run, slot, state))
    for piece in _pieces(state):
        hasher.update(piece)
    return hasher.hexdigest()


def write_state(path: Path, run: str, slot: str, state: OuterState) -> str:
    """Writes the file of a state and returns its hash; DiskFullError, ReadOnlyError.

    It may be lost in a power cut, as whatever can be computed again.
    """
    head = _head(run, slot, state)
    hasher = blake3(head)
    with explained(path), replacing(path, durable=False) as file:
        file.write(head)
        for piece in _pieces(state):
            file.write(piece)
            hasher.update(piece)
    return hasher.hexdigest()


def kept_parameters(path: Path) -> int:
    """Returns how many parameters a state's file has room for, by its size; 0 where there is no file."""
    return max(0, path.stat().st_size - _HEAD.size) // 12 if path.exists() else 0


def read_state(path: Path, run: str, slot: str, parameters: int, expected: str) -> OuterState:
    """Maps the state whose hash is `expected`, which is computed; CheckpointError where the file differs.

    The arrays may be changed, which does not change the file; the file must stay as it is while they live.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            size_bytes = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"the merged state {path} cannot be read: {error.strerror}") from error
    if size_bytes != _HEAD.size + 12 * parameters or len(head) != _HEAD.size:
        raise CheckpointError(
            f"{path.name} has {size_bytes:,} bytes, a merged state of {parameters:,} parameters has "
            f"{_HEAD.size + 12 * parameters:,}; delete it, it is made again"
        )
    steps, clips, n = _HEAD.unpack(head)[3:]
    data = np.memmap(path, "<f4", "c", _HEAD.size, (3, parameters))
    weights, momentum, average = (np.asarray(row) for row in data)
    state = OuterState(weights, momentum, average, steps=steps, clips=clips)
    if n != parameters or state_hash(run, slot, state) != expected:
        raise CheckpointError(
            f"{path.name} is damaged, or another state than {expected[:16]}; delete it, it is made again"
        )
    return state


def _head(run: str, slot: str, state: OuterState) -> bytes:
    name = slot.encode()
    if len(name) > 16 or len(raw := bytes.fromhex(run)) != 32:
        raise ValueError(f"slot {slot!r} of run {run[:80]!r} has no merged states")
    return _HEAD.pack(_MAGIC, raw, name, state.steps, state.clips, state.weights.size)


def _pieces(state: OuterState) -> Iterator[memoryview]:
    for vector in (state.weights, state.momentum, state.average):
        if vector.shape != state.weights.shape:
            raise ValueError(f"a state of {state.weights.shape} and {vector.shape} numbers")
        yield from (_plain(vector[at : at + HASHED_AT_ONCE]) for at in range(0, vector.size, HASHED_AT_ONCE))


def _plain(part: Vector) -> memoryview:
    return np.ascontiguousarray(part, "<f4").view(np.uint8).data
