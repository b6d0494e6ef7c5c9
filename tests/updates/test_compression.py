"""Compression with a memory: nothing is lost that is not forgotten on purpose."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.errors import DivergedError
from paris_p2p.updates.compression import Compressed, compress
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader
from tests.updates.made_updates import dense_of, made_vector

N = 2 * 4096 + 901


def sent(
    error: Vector, difference: Vector, header: UpdateHeader, feedback: float = 1.0
) -> tuple[Update, Compressed]:
    out = io.BytesIO()
    said = compress(error, difference, np.zeros_like(difference), header, feedback, out)
    return Update.from_bytes(out.getvalue(), header.parameters), said


@given(kept=st.sampled_from([1, 64, 1000, 4096]), magnitudes=st.sampled_from([1, 2]), parts=st.integers(1, 3))
def test_what_was_sent_and_what_is_kept_are_together_all_there_was(
    kept: int, magnitudes: int, parts: int
) -> None:
    error, total, all_sent = np.zeros(N, np.float32), np.zeros(N), np.zeros(N)
    for turn in range(6):
        header = UpdateHeader(N, kept, magnitudes, parts, turn % parts)
        present = np.isin(np.arange(N) // 4096, list(header.chunks))
        difference = made_vector(turn, N)
        update, _ = sent(error, difference, header)
        all_sent += dense_of(update, N)
        total += np.where(present, difference, 0)
    np.testing.assert_allclose(all_sent + error, total, atol=2e-5)


def test_the_memory_fades_by_the_feedback_only_where_the_update_has_chunks() -> None:
    header = UpdateHeader(N, 64, parts=2, part=1)
    error = made_vector(1, N)
    before = error.copy()
    update, _ = sent(error, np.zeros(N, np.float32), header, feedback=0.5)
    np.testing.assert_array_equal(error[:4096], before[:4096])
    np.testing.assert_array_equal(error[8192:], before[8192:])
    wanted = before[4096:8192] * np.float32(0.5) - dense_of(update, N)[4096:8192]
    np.testing.assert_array_equal(error[4096:8192], wanted)


def test_the_norms_it_tells_are_those_of_the_vectors() -> None:
    error = np.zeros(N, np.float32)
    update, said = sent(error, made_vector(1, N), UpdateHeader(N, 256))
    assert said.norm == update.norm
    assert said.norm == pytest.approx(float(np.linalg.norm(dense_of(update, N).astype(np.float64))), rel=1e-6)
    assert said.left == pytest.approx(float(np.linalg.norm(error.astype(np.float64))), rel=1e-6)


def test_two_magnitudes_leave_less_than_one_and_more_entries_less_than_few() -> None:
    left = [
        sent(np.zeros(N, np.float32), made_vector(1, N), UpdateHeader(N, kept, magnitudes))[1].left
        for kept, magnitudes in ((16, 2), (64, 2), (1024, 1), (1024, 2), (4096, 2))
    ]
    assert left == sorted(left, reverse=True)


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan], ids=str)
@pytest.mark.parametrize("kept", [64, 4096])
def test_what_is_not_finite_is_never_sent(wrong: float, kept: int) -> None:
    difference = made_vector(1, N)
    difference[5000] = wrong
    with pytest.raises(DivergedError, match="not finite"):
        sent(np.zeros(N, np.float32), difference, UpdateHeader(N, kept))


def test_vectors_of_another_size_or_type_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="no vector of"):
        sent(np.zeros(N - 1, np.float32), made_vector(1, N), UpdateHeader(N, 64))
