"""Packs a parameter's training state, 16 bytes a number in float32, into 6 bytes and a little.

    weight    3 bytes: 24 bits (updates/rounding.py)
    v         1 byte: exponent and 3 bits of mantissa, counted down from the top of its block of 256 numbers;
              code 0 is zero, code 255 the top, and codes 1 to 255 span 31.75 octaves
    m         1 byte: m / sqrt(v) = sign 7.5 (code / 127)^2, so that small ratios are as exact as large ones
    average   1 byte: average - weight = sign scale (code / 127)^2, with its block's largest as scale

A second average, where a run keeps one, takes 1 byte more, coded as the first.
A matrix that Muon trains has no v, and takes 5: its momentum m is sign scale (code / 127)^2, as the average.

v is AdamW's second moment, m its first. v remembers a thousand steps, so between two checkpoints it moves by
less than a step of its code: rounded to nearest it could stay up to ten times too large for ever. It is
dithered instead, up or down by chance, with its own value as the mean. Chance is a function of (run, slot,
steps, name). All else is replaced soon, and rounded to nearest.

Integer and single float32 operations of numpy alone are used: the same codes give the same numbers on every
machine.
Legend: n numbers of one parameter in b blocks of 256, the last may be shorter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from paris_p2p.updates.rounding import (
    BLOCK,
    LEVELS,
    Float32s,
    Uint8s,
    block_count,
    block_maxima,
    pack_24,
    round_to_24_bits,
    unpack_24,
)

MOST_RATIO = 7.5  # of |m| to sqrt(v); gradients give less (model/checkpoint.py)
TOP_CODE = 255
# What a parameter is packed into, and the bytes of each: those for every number, and those for every block.
NUMBERS = {"weights": 3, "exp_avg_sq": 1, "exp_avg": 1, "ema": 1, "ema_long": 1}
BLOCKS = {"exp_avg_sq_tops": 2, "exp_avg_scales": 4, "ema_scales": 4, "ema_long_scales": 4}
_OF_ADAMW = {"exp_avg_sq", "exp_avg_sq_tops"}  # what a parameter of Muon's has not
_OF_MUON = {"exp_avg_scales"}
_OF_LONG = {"ema_long", "ema_long_scales"}
_NONE = np.empty(0, np.float32)
_CELL = np.uint32(20)  # the bits of a float32 that v's code leaves out
_GOLDEN = np.uint32(2654435769)  # 2^32 / golden ratio: its multiples are spread evenly
_SLICE = 1024 * BLOCK  # numbers worked on at once: they stay in a core's cache
_SQUARES = np.float32(MOST_RATIO) * np.square(np.arange(129, dtype=np.float32) / np.float32(LEVELS))
_RATIOS = np.concatenate([_SQUARES[:128], -_SQUARES[128:0:-1]])  # by code, as a byte

Packed = Mapping[str, Uint8s]


@dataclass(frozen=True)
class Numbers:
    """Holds n numbers of a parameter's state, flat float32 arrays; `v` and `m` are AdamW's moments.

    `v` is empty where Muon trains the parameter, and `m` its momentum; `long` where there is one average.
    """

    weights: Float32s
    m: Float32s
    v: Float32s
    average: Float32s
    long: Float32s = field(default_factory=lambda: _NONE)

    def slices(self) -> Iterator[tuple[int, Numbers]]:
        """Yields (first number, views of whole blocks), which together are everything."""
        for start in range(0, len(self.weights), _SLICE):
            at = slice(start, start + _SLICE)
            yield (
                start,
                Numbers(self.weights[at], self.m[at], self.v[at], self.average[at], self.long[at]),
            )


def packed_shapes(
    shape: tuple[int, ...], *, muon: bool = False, long: bool = False
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the byte arrays that a parameter of this shape is packed into."""
    each = {part: (*shape, size) if size > 1 else shape for part, size in NUMBERS.items()}
    each |= {part: (block_count(prod(shape)), size) for part, size in BLOCKS.items()}
    absent = (_OF_ADAMW if muon else _OF_MUON) | (set() if long else _OF_LONG)
    return {part: size for part, size in each.items() if part not in absent}


def round_and_pack(numbers: Numbers, seed: int, threads: int = 1) -> dict[str, Uint8s]:
    """Returns what files keep of finite numbers, flat, and rounds the numbers in place to what a reader gets.

    `seed` (32 bits) decides which of v's numbers are rounded up. The result is that of one thread.
    """
    shapes = packed_shapes((len(numbers.weights),), muon=not len(numbers.v), long=bool(len(numbers.long)))
    packed = {part: np.empty(prod(shape), np.uint8) for part, shape in shapes.items()}

    def pack(slice_of: tuple[int, Numbers]) -> None:
        start, part = slice_of
        made = _pack(part, np.uint32((seed + start * int(_GOLDEN)) & 0xFFFFFFFF))
        for name, codes in made.items():
            first = start * NUMBERS[name] if name in NUMBERS else start // BLOCK * BLOCKS[name]
            packed[name][first : first + codes.size] = codes.reshape(-1)
        _replace(part, _unpack(made))

    slices = list(numbers.slices())
    with ThreadPoolExecutor(max(1, min(threads, len(slices)))) as pool:
        list(pool.map(pack, slices))  # numpy lets other threads run while it computes
    return packed


def unpacked(packed: Packed) -> Iterator[tuple[int, Numbers]]:
    """Yields (first number, numbers), slice by slice, of what `round_and_pack` returned, or of any bytes.

    Of bytes that it did not make numbers may be infinite, or none; nothing is raised.
    """
    flat = {part: codes.reshape(-1) for part, codes in packed.items()}
    for start in range(0, flat["exp_avg"].size, _SLICE):
        at = {part: slice(start * size, (start + _SLICE) * size) for part, size in NUMBERS.items()}
        blocks = start // BLOCK
        at |= {part: slice(blocks * b, (blocks + _SLICE // BLOCK) * b) for part, b in BLOCKS.items()}
        yield start, _unpack({part: flat[part][where] for part, where in at.items() if part in flat})


def chance_of(run: str, slot: str, steps: int, name: str) -> int:
    """Returns the seed of a parameter's dither in the checkpoint at `steps`."""
    digest = blake3(f"paris-p2p/1 dither\0{run}\0{slot}\0{steps}\0{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _pack(numbers: Numbers, seed: np.uint32) -> dict[str, Uint8s]:
    """Returns one slice's codes; its weights are rounded in place."""
    round_to_24_bits(numbers.weights)
    moments = _pack_moments(numbers, seed) if len(numbers.v) else _pack_scaled("exp_avg", numbers.m)
    average = _pack_scaled("ema", numbers.average - numbers.weights)
    long = _pack_scaled("ema_long", numbers.long - numbers.weights) if len(numbers.long) else {}
    return {"weights": pack_24(numbers.weights), **moments, **average, **long}


def _pack_moments(numbers: Numbers, seed: np.uint32) -> dict[str, Uint8s]:
    """Returns the codes of AdamW's moments."""
    tops, second = _pack_second(numbers.v, seed)
    roots = np.sqrt(_second_of(tops, second))
    with np.errstate(over="ignore"):  # what is beyond all ratios gets the largest
        first = _signed_codes(numbers.m / _divisors(roots) / np.float32(MOST_RATIO))
    first[roots == 0] = 0
    return {
        "exp_avg_sq": second,
        "exp_avg": first.view(np.uint8),
        "exp_avg_sq_tops": tops.astype("<u2").view(np.uint8),
    }


def _pack_scaled(part: str, values: Float32s) -> dict[str, Uint8s]:
    """Returns values as shares of the largest of their block, and these largest."""
    scales = block_maxima(np.abs(values))
    shares = values / _spread(_divisors(scales), len(values))
    return {part: _signed_codes(shares).view(np.uint8), f"{part}_scales": scales.astype("<f4").view(np.uint8)}


def _unpack(packed: Packed) -> Numbers:
    with np.errstate(all="ignore"):  # of bytes that anybody may have made
        weights = unpack_24(packed["weights"].reshape(-1, 3))
        if "exp_avg_sq" in packed:
            tops = packed["exp_avg_sq_tops"].reshape(-1).view("<u2").astype(np.uint16)
            second = _second_of(tops, packed["exp_avg_sq"])
            first = _RATIOS[packed["exp_avg"]] * np.sqrt(second)
        else:
            first, second = _scaled_of("exp_avg", packed), _NONE
        long = weights + _scaled_of("ema_long", packed) if "ema_long" in packed else _NONE
        return Numbers(weights, first, second, weights + _scaled_of("ema", packed), long)


def _scaled_of(part: str, packed: Packed) -> Float32s:
    scales = packed[f"{part}_scales"].reshape(-1).view("<f4").astype(np.float32)
    shares = _RATIOS[packed[part]] / np.float32(MOST_RATIO)
    values: Float32s = shares * _spread(scales, len(shares))
    return values


def _pack_second(values: Float32s, seed: np.uint32) -> tuple[NDArray[np.uint16], Uint8s]:
    """Returns (each block's top, codes) of second moments; what is not zero never becomes zero.

    A float32's bits rise in proportion to its value from one step of the code to the next, so that adding
    chance below a step and cutting the rest off rounds up with the probability that keeps the mean.
    """
    values = np.abs(values)
    bits = values.view(np.uint32)
    tops = block_maxima(values).view(np.uint32) + np.uint32((1 << 20) - 1) >> _CELL
    chance = np.arange(len(bits), dtype=np.uint32) * _GOLDEN + seed >> np.uint32(12)
    cells = np.maximum(bits + chance >> _CELL, np.uint32(1)).astype(np.int32)
    codes = np.maximum(cells - _spread(tops.astype(np.int32), len(cells)) + TOP_CODE, 1)
    return tops.astype(np.uint16), np.where(bits > 0, codes, 0).astype(np.uint8)


def _second_of(tops: NDArray[np.uint16], codes: Uint8s) -> Float32s:
    cells = codes.astype(np.int32) + _spread(tops.astype(np.int32), len(codes)) - TOP_CODE
    bits = np.where(codes > 0, np.maximum(cells, 0), 0).astype(np.uint32) << _CELL
    return bits.view(np.float32)


def _divisors(values: Float32s) -> Float32s:
    """Returns the values, with 1 where they are 0."""
    return np.where(values > 0, values, np.float32(1)).astype(np.float32, copy=False)


def _signed_codes(shares: Float32s) -> NDArray[np.int8]:
    """Returns codes from -127 to 127, of which sign (code / 127)^2 is near; shares beyond 1 become 1."""
    roots = np.sqrt(np.minimum(np.abs(shares), np.float32(1)))
    return np.copysign(np.rint(roots * np.float32(LEVELS)), shares).astype(np.int8)


def _replace(numbers: Numbers, by: Numbers) -> None:
    numbers.weights[:], numbers.m[:] = by.weights, by.m
    numbers.v[:], numbers.average[:] = by.v, by.average
    numbers.long[:] = by.long


def _spread(scales: NDArray[Any], count: int) -> NDArray[Any]:
    """Returns every block's value once for each of its `count` numbers in all."""
    return np.repeat(scales, BLOCK)[:count]
