"""Rounds a merged state to what a full card publishes, so that everybody goes on from what was published."""

from __future__ import annotations

import numpy as np

from paris_p2p.errors import DivergedError
from paris_p2p.updates.layout import CHUNK_ENTRIES, SLICE_CHUNKS, Vector
from paris_p2p.updates.outer_step import OuterState
from paris_p2p.updates.rounding import round_to_24_bits, round_to_block_codes

LARGEST_BITS = 0x7F7F7F7F  # of a number that is finite as bfloat16, too, after rounding
_SLICE = CHUNK_ENTRIES * SLICE_CHUNKS


def round_state(state: OuterState) -> None:
    """Rounds θ and ē to 24 bits and m to 8 bits with a scale for every 256, in place.

    DivergedError where a number is not finite, or beyond 3.38e38; then the state is of no more use. Rounding
    what was rounded changes nothing.
    """
    for start in range(0, state.weights.size, _SLICE):
        part = slice(start, start + _SLICE)
        for vector, rounded in (
            (state.weights, round_to_24_bits),
            (state.average, round_to_24_bits),
            (state.momentum, round_to_block_codes),
        ):
            _refuse_endless(vector[part])
            rounded(vector[part])


def _refuse_endless(part: Vector) -> None:
    if part.size and int((part.view(np.uint32) & 0x7FFFFFFF).max()) > LARGEST_BITS:
        raise DivergedError(
            "a merged state is not finite; training goes back to the last checkpoint; "
            "if this happens again, the run's learning rate or its crews' outer rate is too high"
        )
