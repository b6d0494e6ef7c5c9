"""Stores the merged state of a crew's full card: 5 bytes a parameter beside the weights ("paris-merged/1").

A merged state is three vectors over all parameters in the order of their names (updates/layout.py), rounded
to what these files hold (updates/full_round.py). The card's weights file has the average as bfloat16; the
other file has four arrays of bytes: `weights` [n 3] in 24 bits, `ema` [n], the byte that the average's
bfloat16 lacks, `momentum` [n] and `momentum_scales` [b 4], codes with a float32 for each block of 256. What
is read is the rounded state, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from paris_p2p.errors import CheckpointError
from paris_p2p.model.checkpoint import Counters, checkpoint_paths, open_slot_file
from paris_p2p.model.tensor_file import Shapes, write_pieces
from paris_p2p.updates.layout import Layout, Vector
from paris_p2p.updates.outer_step import OuterState
from paris_p2p.updates.rounding import (
    BLOCK,
    Uint8s,
    block_count,
    from_block_codes,
    join_bf16,
    pack_24,
    split_bf16,
    to_block_codes,
    unpack_24,
)

_SLICE = 4096 * BLOCK  # numbers worked on at once


def write_merged(
    folder: Path,
    counters: Counters,
    shapes: Shapes,
    state: OuterState,
    average_notes: Mapping[str, str] | None = None,
) -> tuple[Path, Path]:
    """Writes both files of a rounded state into `folder`; returns (weights, resume).

    `average_notes` are more metadata of the weights, and no part of the state. ValueError, before anything
    is written, where the state is not rounded; DiskFullError, ReadOnlyError.
    """
    _refuse_unrounded(state)
    layout = Layout.of(shapes)
    weights, resume = checkpoint_paths(folder, counters)
    write_pieces(
        resume, counters.metadata("merged"), torch.uint8, _file_shapes(layout.parameters), _pieces(state)
    )
    averages = layout.views(state.average)
    named = {name: array.shape for name, array in averages.items()}
    halves = (split_bf16(array)[0].view(np.uint8).data for array in averages.values())
    metadata = counters.metadata("weights") | dict(average_notes or {})
    write_pieces(weights, metadata, torch.bfloat16, named, halves)
    return weights, resume


def read_merged(path: Path, weights_path: Path, counters: Counters, shapes: Shapes) -> OuterState:
    """Returns the state that both files hold; CheckpointError where they cannot be of this network and these
    counters, or a number is not finite. Whether it is the state that a card says, its hash tells.
    """
    layout = Layout.of(shapes)
    n = layout.parameters
    theta, momentum, average = (np.empty(n, np.float32) for _ in range(3))
    state = OuterState(theta, momentum, average, steps=counters.steps, clips=counters.clips)
    with open_slot_file("merged", path, _file_shapes(n), counters) as read:
        packed: dict[str, Uint8s] = {name: read(name).numpy() for name in _file_shapes(n)}
        low = packed["ema"]
        for at, blocks in _slices(n):
            scales = packed["momentum_scales"][blocks].reshape(-1).view("<f4").astype(np.float32)
            codes = packed["momentum"][at].view(np.int8)
            if (scales.view(np.uint32) >= 0x7F800000).any() or (codes == -128).any():
                raise CheckpointError(f"the momentum in {path.name} has codes that nobody writes")
            momentum[at] = from_block_codes(codes, scales)
            theta[at] = _finite(path, unpack_24(packed["weights"][at]))
        with open_slot_file("weights", weights_path, shapes, counters) as read_weights:
            for name, _, start, end in layout.spans():
                nearest = read_weights(name).reshape(-1).view(torch.int16).numpy().view(np.uint16)
                if ((nearest & np.uint16(0x7F80)) == 0x7F80).any():
                    raise CheckpointError(f"{name} in {weights_path.name} is not finite")
                average[start:end] = _finite(path, join_bf16(nearest, low[start:end]))
    return state


def _file_shapes(parameters: int) -> dict[str, tuple[int, ...]]:
    return {
        "weights": (parameters, 3),
        "ema": (parameters,),
        "momentum": (parameters,),
        "momentum_scales": (block_count(parameters), 4),
    }


def _pieces(state: OuterState) -> Iterator[memoryview]:
    """Yields the file's bytes, in the order of `_file_shapes`."""
    slices = [at for at, _ in _slices(state.weights.size)]
    for at in slices:
        yield pack_24(state.weights[at]).data
    for at in slices:
        yield split_bf16(state.average[at])[1].data
    for at in slices:
        yield to_block_codes(state.momentum[at])[0].data
    for at in slices:
        yield to_block_codes(state.momentum[at])[1].astype("<f4").view(np.uint8).data


def _refuse_unrounded(state: OuterState) -> None:
    for at, _ in _slices(state.weights.size):
        momentum = state.momentum[at]
        again = from_block_codes(*to_block_codes(momentum))
        low = (_bits(state.weights[at]) | _bits(state.average[at])) & np.uint32(0xFF)
        if low.any() or not np.array_equal(_bits(again), _bits(momentum)):
            raise ValueError(f"the merged state at step {state.steps} is not rounded to what files hold")


def _slices(count: int) -> Iterator[tuple[slice, slice]]:
    """Yields pieces of so many numbers, as (numbers, blocks of 256)."""
    for start in range(0, count, _SLICE):
        first = start // BLOCK
        yield slice(start, start + _SLICE), slice(first, first + _SLICE // BLOCK)


def _bits(vector: Vector) -> NDArray[np.uint32]:
    return vector.view(np.uint32)


def _finite(path: Path, values: Vector) -> Vector:
    if not np.isfinite(values).all():
        raise CheckpointError(f"a number in {path.name} is not finite")
    return values
