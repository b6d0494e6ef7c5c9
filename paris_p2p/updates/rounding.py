"""Rounds float32 vectors to what files hold: 24 bits a number, or 8 bits with a scale for every 256.

Only integer operations and single float32 operations of numpy are used, so that every machine makes the same
bytes. Rounding what was rounded changes nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 256  # numbers that share a scale
LEVELS = 127  # codes on either side of zero
_SLICE = 4096 * BLOCK  # numbers that are rounded at once: no second copy of a large vector

Float32s = NDArray[np.float32]
Uint8s = NDArray[np.uint8]


def round_to_24_bits(values: Float32s) -> None:
    """Rounds finite, contiguous numbers in place to 16 significant bits, to nearest, ties to even.

    Sign, exponent, zeros and subnormals stay; the lowest 8 of 32 bits become 0. What lies beyond the largest
    number of 24 bits, 3.4027e38, becomes infinite.
    """
    bits = values.reshape(-1).view(np.uint32)
    for start in range(0, len(bits), _SLICE):
        part = bits[start : start + _SLICE]
        part += np.uint32(0x7F) + ((part >> np.uint32(8)) & np.uint32(1))
        part &= np.uint32(0xFFFFFF00)


def pack_24(values: Float32s) -> Uint8s:
    """Returns [n 3] bytes, little-endian, of n numbers that are rounded to 24 bits."""
    whole = np.ascontiguousarray(values, np.dtype("<f4")).reshape(-1).view(np.uint8)
    return np.ascontiguousarray(whole.reshape(-1, 4)[:, 1:])


def unpack_24(packed: Uint8s) -> Float32s:
    """Returns the n numbers of [n 3] bytes, finite or not."""
    whole = np.zeros((len(packed), 4), np.uint8)
    whole[:, 1:] = packed
    return whole.view(np.dtype("<f4")).reshape(-1)


def split_bf16(values: Float32s) -> tuple[NDArray[np.uint16], Uint8s]:
    """Returns n numbers that are rounded to 24 bits as (bfloat16, one byte more).

    The bfloat16 is the nearest, as bits; ties go away from zero, since with ties to even 257 numbers of 24
    bits would have the same bfloat16, one more than a byte tells apart.
    """
    bits = np.ascontiguousarray(values, np.dtype("<f4")).reshape(-1).view(np.uint32) >> np.uint32(8)
    return ((bits + np.uint32(0x80)) >> np.uint32(8)).astype(np.uint16), bits.astype(np.uint8)


def join_bf16(nearest: NDArray[np.uint16], low: Uint8s) -> Float32s:
    """Returns the n numbers that `split_bf16` split; of bytes that it did not make, perhaps not finite."""
    bits = nearest.astype(np.uint32) << np.uint32(8)
    bits += low.astype(np.int8).astype(np.int32).view(np.uint32)  # -128 to 127, modulo 2^32
    return (bits << np.uint32(8)).view(np.float32)


def to_block_codes(values: Float32s) -> tuple[NDArray[np.int8], Float32s]:
    """Returns n finite numbers as (n codes from -127 to 127, a scale for each block of 256).

    A scale is the largest magnitude of its block, a code is the nearest of number / scale * 127.
    """
    scales = block_maxima(np.abs(values))
    whole = _spread(np.where(scales > 0, scales, np.float32(1)), len(values))
    return np.rint(values / whole * np.float32(LEVELS)).astype(np.int8), scales


def from_block_codes(codes: NDArray[np.int8], scales: Float32s) -> Float32s:
    """Returns the n numbers of such codes and scales: code / 127 * scale."""
    return codes.astype(np.float32) / np.float32(LEVELS) * _spread(scales, len(codes))


def round_to_block_codes(values: Float32s) -> None:
    """Rounds finite, contiguous numbers in place to what `to_block_codes` keeps of them."""
    flat = values.reshape(-1)
    for start in range(0, len(flat), _SLICE):
        part = flat[start : start + _SLICE]
        part[:] = from_block_codes(*to_block_codes(part))


def block_maxima(values: Float32s) -> Float32s:
    """Returns the largest of each block of 256 numbers; the last block may be shorter."""
    whole = len(values) // BLOCK * BLOCK
    most = values[:whole].reshape(-1, BLOCK).max(axis=1)
    return most if whole == len(values) else np.append(most, values[whole:].max())


def block_count(count: int) -> int:
    """Returns how many blocks so many numbers have."""
    return -(-count // BLOCK)


def _spread(scales: Float32s, count: int) -> Float32s:
    """Returns every block's scale once for each of its `count` numbers in all."""
    return np.repeat(scales, BLOCK)[:count]
