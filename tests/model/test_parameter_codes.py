"""Tests that a parameter's state fits 6 bytes a number, and how near what is read lies to what was."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paris_p2p.model.checkpoint import MOMENT_RATIO
from paris_p2p.model.parameter_codes import (
    MOST_RATIO,
    Numbers,
    chance_of,
    packed_shapes,
    round_and_pack,
    unpacked,
)
from paris_p2p.updates.rounding import BLOCK, Float32s


def numbers(count: int, seed: int = 0) -> Numbers:
    """Returns a state such as training has: v over some 15 octaves, |m| up to a few times sqrt(v)."""
    rng = np.random.default_rng(seed)
    weights = 0.02 * rng.standard_normal(count)
    v = np.exp(2 * rng.standard_normal(count) - 18)
    m = 0.5 * rng.standard_normal(count) * np.sqrt(v)
    average = weights + 1e-4 * rng.standard_normal(count)
    return Numbers(*(part.astype(np.float32) for part in (weights, m, v, average)))


def copy(of: Numbers) -> Numbers:
    return Numbers(*(getattr(of, field.name).copy() for field in fields(of)))


def read(packed: dict[str, np.ndarray[tuple[int], np.dtype[np.uint8]]]) -> Numbers:
    parts = [part for _, part in unpacked(packed)]
    return Numbers(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Numbers))
    )


def same(one: Numbers, other: Numbers) -> bool:
    return all(
        np.array_equal(getattr(one, field.name).view(np.uint32), getattr(other, field.name).view(np.uint32))
        for field in fields(Numbers)
    )


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000, 262_144, 300_001])
def test_who_goes_on_has_the_numbers_of_who_reads(count: int) -> None:
    going_on = numbers(count)
    assert same(going_on, read(round_and_pack(going_on, seed=7)))


def test_threads_change_nothing() -> None:
    one, three = numbers(900_001), numbers(900_001)
    packed = [round_and_pack(one, 5), round_and_pack(three, 5, threads=3)]
    assert same(one, three)
    assert {part: codes.tobytes() for part, codes in packed[0].items()} == {
        part: codes.tobytes() for part, codes in packed[1].items()
    }


ANY = arrays(np.float32, 300, elements=st.floats(-(2.0**99), 2.0**99, width=32))
ANY_V = arrays(np.float32, 300, elements=st.floats(0, 2.0**126, width=32))


@given(ANY, ANY, ANY_V, ANY, st.integers(0, 2**32 - 1))
def test_any_finite_state_stays_finite_and_within_what_gradients_give(
    weights: Float32s, m: Float32s, v: Float32s, average: Float32s, seed: int
) -> None:
    before = Numbers(weights, m, v, average)
    after = copy(before)
    assert same(after, read(round_and_pack(after, seed)))
    assert all(np.isfinite(getattr(after, field.name)).all() for field in fields(Numbers))
    assert np.all(np.abs(after.m) <= np.float32(MOST_RATIO) * np.sqrt(after.v))
    assert np.array_equal(after.v > 0, before.v > 0)  # AdamW would divide by next to nothing


def test_a_state_is_kept_to_its_codes_precision() -> None:
    before = numbers(100_000)
    after = copy(before)
    round_and_pack(after, seed=1)
    assert np.all(np.abs(after.weights - before.weights) <= np.abs(before.weights) * 2.0**-16)
    assert np.all(np.abs(after.v / before.v - 1) <= 0.125)
    moved = before.m / np.sqrt(before.v)
    assert np.mean(np.abs(after.m / np.sqrt(after.v) - moved)) < 0.03 * np.mean(np.abs(moved))
    assert np.mean(np.abs(after.m - before.m)) < 0.02 * np.mean(np.abs(before.m))
    ahead = before.average - before.weights
    assert np.mean(np.abs(after.average - before.average)) < 0.01 * np.mean(np.abs(ahead))


def test_small_ratios_are_kept_as_well_as_large_ones() -> None:
    before = numbers(1024)
    before.m[:] = 0.01 * np.sqrt(before.v)
    after = copy(before)
    round_and_pack(after, seed=1)
    assert np.all(np.abs(after.m / before.m - 1) < 0.25)


def test_what_is_rounded_moves_no_more_at_the_next_checkpoint() -> None:
    once = numbers(1000)
    round_and_pack(once, seed=1)
    again = copy(once)
    round_and_pack(again, seed=2)
    assert np.array_equal(once.weights, again.weights)
    assert np.array_equal(once.v, again.v)
    assert np.allclose(once.m, again.m, rtol=1e-5)
    assert np.allclose(once.average, again.average, rtol=1e-6, atol=1e-9)


def test_v_is_rounded_up_and_down_so_that_its_mean_over_checkpoints_is_its_value() -> None:
    before = numbers(2000)
    total = np.zeros(2000)
    for steps in range(400):
        after = copy(before)
        round_and_pack(after, chance_of("ab" * 32, "expert-0", steps, "a.weight"))
        total += after.v
    off = total / 400 / before.v - 1
    assert np.all(np.abs(off) < 0.125 / 2 * 5 / 20)  # five standard errors
    assert abs(float(np.mean(off))) < 0.001


def test_v_that_moves_less_than_a_code_between_checkpoints_still_arrives() -> None:
    """Rounded to nearest it would stay at 1e-6: a checkpoint moves it by 2 %, codes are 12 % apart."""
    state = numbers(BLOCK)
    state.v[:] = 1e-6
    for steps in range(300):
        state.v[:] = 0.98 * state.v + 0.02 * 2e-6
        round_and_pack(state, chance_of("ab" * 32, "expert-0", steps, "a.weight"))
    assert float(state.v.mean()) == pytest.approx(2e-6, rel=0.05)


def test_a_parameter_takes_six_bytes_a_number_and_six_a_block() -> None:
    shapes = packed_shapes((512, 257))
    count = 512 * 257
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 6 * count + 6 * (count // BLOCK)
    packed = round_and_pack(numbers(count), seed=0)
    assert {part: codes.size for part, codes in packed.items()} == {
        part: int(np.prod(shape)) for part, shape in shapes.items()
    }


@given(st.binary(min_size=64, max_size=64), st.binary(min_size=6, max_size=6))
def test_bytes_that_nobody_packed_are_read_without_a_crash(codes: bytes, scales: bytes) -> None:
    flat, blocks = np.frombuffer(codes, np.uint8), np.frombuffer(scales, np.uint8)
    read(
        {
            "weights": np.tile(flat, 3),
            "exp_avg_sq": flat,
            "exp_avg": flat[::-1].copy(),
            "ema": flat,
            "exp_avg_sq_tops": blocks[:2],
            "ema_scales": blocks[2:],
        }
    )


def test_codes_reach_as_far_as_the_bound_on_moments() -> None:
    assert MOST_RATIO == MOMENT_RATIO
