"""Compression with a memory: nothing is lost that is not forgotten on purpose."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.errors import DivergedError
from paris_p2p.updates.compression import Compressed, Precision, compress, quantise, steps_of
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader
from tests.updates.made_updates import dense_of, made_vector

N = 2 * 4096 + 901


def sent(
    error: Vector, difference: Vector, header: UpdateHeader, feedback: float = 1.0, step: float = 2.0
) -> tuple[Update, Compressed]:
    out = io.BytesIO()
    said = compress(error, difference, np.zeros_like(difference), header, Precision(step, feedback), out)
    return Update.from_bytes(out.getvalue(), header.parameters), said


@given(step=st.sampled_from([0.26, 1.0, 2.0, 8.0]), parts=st.integers(1, 3))
def test_what_was_sent_and_what_is_kept_are_together_all_there_was(step: float, parts: int) -> None:
    error, total, all_sent = np.zeros(N, np.float32), np.zeros(N), np.zeros(N)
    for turn in range(6):
        header = UpdateHeader(N, parts, turn % parts)
        present = np.isin(np.arange(N) // 4096, list(header.chunks))
        difference = made_vector(turn, N)
        update, _ = sent(error, difference, header, step=step)
        all_sent += dense_of(update, N)
        total += np.where(present, difference, 0)
    np.testing.assert_allclose(all_sent + error, total, atol=2e-5)


@given(seed=st.integers(0, 1000), step=st.floats(0.26, 8), scale=st.sampled_from([1e-30, 1e-6, 1, 1e4]))
def test_what_is_kept_is_the_float32_difference_of_what_there_was_and_what_was_said(
    seed: int, step: float, scale: float
) -> None:
    error, difference = made_vector(seed, N, scale), made_vector(seed + 1, N, scale)
    wanted = difference + error * np.float32(0.95)
    update, _ = sent(error, difference, UpdateHeader(N), 0.95, step)
    np.testing.assert_array_equal(error, wanted - dense_of(update, N))


def test_the_memory_fades_by_the_feedback_only_where_the_update_has_chunks() -> None:
    header = UpdateHeader(N, parts=2, part=1)
    error = made_vector(1, N)
    before = error.copy()
    update, _ = sent(error, np.zeros(N, np.float32), header, feedback=0.5)
    np.testing.assert_array_equal(error[:4096], before[:4096])
    np.testing.assert_array_equal(error[8192:], before[8192:])
    wanted = before[4096:8192] * np.float32(0.5) - dense_of(update, N)[4096:8192]
    np.testing.assert_array_equal(error[4096:8192], wanted)


def test_the_norms_it_tells_are_those_of_the_vectors() -> None:
    error = np.zeros(N, np.float32)
    update, said = sent(error, made_vector(1, N), UpdateHeader(N))
    assert said.norm == update.norm
    assert said.norm == pytest.approx(float(np.linalg.norm(dense_of(update, N).astype(np.float64))), rel=1e-6)
    assert said.left == pytest.approx(float(np.linalg.norm(error.astype(np.float64))), rel=1e-6)


def test_a_finer_step_leaves_less() -> None:
    left = [
        sent(np.zeros(N, np.float32), made_vector(1, N), UpdateHeader(N), step=step)[1].left
        for step in (0.3, 0.5, 1.0, 2.0, 4.0)
    ]
    assert left == sorted(left)
    assert left[0] < 0.1 * left[-1]


def test_an_entry_is_the_next_whole_step_with_a_dead_zone_of_three_fifths_around_zero() -> None:
    rows = np.array([[0.59, 0.61, -0.61, 1.59, 1.61, -2.7, 500.0, 0.0]], np.float32)
    codes = quantise(rows, np.array([1.0], np.float16))
    assert codes.levels.tolist() == [[0, 1, -1, 1, 2, -3, 127, 0]]
    assert codes.steps.tolist() == [1.0]
    none = quantise(rows, np.array([np.inf], np.float16))
    assert not none.levels.any()
    assert none.steps.tolist() == [0.0]


@pytest.mark.parametrize(
    ("entry", "step"),
    [(0.0, 2.0**-24), (1e-30, 2.0**-24), (1e-3, np.float16(2e-3)), (1e6, 65504.0), (1e30, 65504.0)],
    ids=str,
)
def test_a_step_is_so_many_root_mean_squares_as_a_half_that_is_finite_and_not_zero(
    entry: float, step: float
) -> None:
    rows = np.zeros((1, 400), np.float32)
    rows[0, :100] = 2 * entry  # whose root mean square over all is `entry`
    assert steps_of(rows, 2.0).tolist() == [step]
    assert steps_of(-rows, 2.0).tolist() == [step]


@pytest.mark.parametrize("step", [0.5, 1.0, 2.0, 8.0])
def test_a_chunk_of_entries_that_are_all_alike_says_them(step: float) -> None:
    difference = np.where(made_vector(1, N) < 0, -0.25, 0.25).astype(np.float32)
    error = np.zeros(N, np.float32)
    update, _ = sent(error, difference, UpdateHeader(N), step=step)
    np.testing.assert_array_equal(dense_of(update, N), difference)
    assert not error.any()


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e5, 1e30])
def test_numbers_that_halves_cannot_say_stay_in_the_memory(scale: float) -> None:
    error, difference = np.zeros(N, np.float32), made_vector(1, N, scale)
    update, _ = sent(error, difference, UpdateHeader(N))
    np.testing.assert_array_equal(error, difference - dense_of(update, N))


@pytest.mark.parametrize("top", [1.0, 65504.0 * 120])
def test_a_block_that_would_be_too_large_says_coarser_steps_or_nothing(top: float) -> None:
    """All levels from 2 to 127 and their signs, alike often, take 8 bits an entry beside their codes."""
    header, random = UpdateHeader(8 * 4096), np.random.default_rng(0)
    difference = (top * random.uniform(-1, 1, header.parameters)).astype(np.float32)
    error = np.zeros_like(difference)
    update, _ = sent(error, difference, header, step=0.01)
    np.testing.assert_array_equal(error, difference - dense_of(update, header.parameters))
    assert (update.norm == 0) == (top > 1)


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan], ids=str)
def test_what_is_not_finite_is_never_sent(wrong: float) -> None:
    difference = made_vector(1, N)
    difference[5000] = wrong
    with pytest.raises(DivergedError, match="not finite"):
        sent(np.zeros(N, np.float32), difference, UpdateHeader(N))


def test_vectors_of_another_size_or_type_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="no vector of"):
        sent(np.zeros(N - 1, np.float32), made_vector(1, N), UpdateHeader(N))
