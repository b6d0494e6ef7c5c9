"""Tests that what is rounded lies near, is packed and read back exactly, and does not change once more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paris_p2p.updates.rounding import (
    BLOCK,
    Float32s,
    block_count,
    from_block_codes,
    join_bf16,
    pack_24,
    round_to_24_bits,
    round_to_block_codes,
    split_bf16,
    to_block_codes,
    unpack_24,
)

LARGEST_24 = float(np.uint32(0x7F7FFF00).view(np.float32))
FINITE = st.floats(-LARGEST_24, LARGEST_24, width=32)
VECTORS = arrays(np.float32, st.integers(1, 600), elements=FINITE)


def bits_of(values: Float32s) -> list[int]:
    return list(map(int, values.view(np.uint32)))


def rounded(values: Float32s) -> Float32s:
    copy = values.copy()
    round_to_24_bits(copy)
    return copy


@given(VECTORS)
def test_24_bits_are_the_nearest_with_ties_to_even_and_stay_once_rounded(values: Float32s) -> None:
    once = rounded(values)
    assert not np.any(once.view(np.uint32) & 0xFF)
    spacing = np.spacing(np.abs(values)).astype(np.float64) * 2**8
    assert np.all(np.abs(once.astype(np.float64) - values) <= spacing / 2)
    assert np.array_equal(np.signbit(once), np.signbit(values))
    assert bits_of(rounded(once)) == bits_of(once)


def test_ties_of_24_bits_go_to_the_even_neighbour() -> None:
    values = np.array([0x3F800080, 0x3F800180, 0x3F800081, 0x3F80007F, 0x80000080], np.uint32)
    expected = [0x3F800000, 0x3F800200, 0x3F800100, 0x3F800000, 0x80000000]
    assert bits_of(rounded(values.view(np.float32))) == expected


@given(VECTORS)
def test_24_bits_are_packed_into_three_bytes_and_read_back(values: Float32s) -> None:
    once = rounded(values)
    packed = pack_24(once)
    assert packed.shape == (len(values), 3)
    assert bits_of(unpack_24(packed)) == bits_of(once)


# Every sign, exponent and leading mantissa bits that differ, each with all patterns of the other bits.
@pytest.mark.parametrize("sign", [0, 1])
def test_a_bfloat16_and_a_byte_give_every_number_of_24_bits_back(sign: int) -> None:
    finite = np.arange(0x7F8000, dtype=np.uint32) + np.uint32(sign << 23)  # all that there are
    values = (finite << np.uint32(8)).view(np.float32)
    nearest, low = split_bf16(values)
    assert np.array_equal(join_bf16(nearest, low).view(np.uint32), values.view(np.uint32))
    stored = (nearest.astype(np.uint32) << np.uint32(16)).view(np.float32)
    near = np.isfinite(stored)  # all but the last few, which are nearest to infinity
    assert int((~near).sum()) == 0x80
    distance = np.abs(stored[near].astype(np.float64) - values[near])
    spacing = np.spacing(np.abs(values[near])).astype(np.float64) * 2**16
    assert np.all(distance <= spacing / 2)


def test_bytes_that_no_number_has_are_not_finite() -> None:
    nearest = np.array([0x0000, 0x8000], np.uint16)
    assert not np.any(np.isfinite(join_bf16(nearest, np.array([0x80, 0xFF], np.uint8))))


@given(VECTORS)
def test_blocks_keep_each_number_to_a_254th_of_their_largest_and_stay_once_rounded(values: Float32s) -> None:
    codes, scales = to_block_codes(values)
    assert len(scales) == block_count(len(values))
    once = from_block_codes(codes, scales)
    for first in range(0, len(values), BLOCK):
        part, kept = values[first : first + BLOCK].astype(np.float64), once[first : first + BLOCK]
        most = np.abs(part).max()
        assert np.abs(kept).max() == most
        assert np.all(np.abs(kept - part) <= most / 254 * (1 + 1e-5) + 2.0**-149)
    again = values.copy()
    round_to_block_codes(again)
    assert np.array_equal(again, once)
    round_to_block_codes(again)
    assert bits_of(again) == bits_of(once)


def test_blocks_of_nothing_stay_nothing() -> None:
    codes, scales = to_block_codes(np.zeros(300, np.float32))
    assert not codes.any()
    assert not scales.any()
    assert not from_block_codes(codes, scales).any()


def test_long_vectors_are_rounded_in_pieces_as_in_one() -> None:
    values = np.random.default_rng(0).standard_normal((1 << 20) + 700).astype(np.float32)
    whole = from_block_codes(*to_block_codes(values))
    pieces = values.copy()
    round_to_block_codes(pieces)
    assert np.array_equal(pieces, whole)
    shaped = values[: 1 << 20].reshape(1024, 1024).copy()
    round_to_24_bits(shaped)
    assert np.array_equal(shaped.reshape(-1), rounded(values[: 1 << 20]))
