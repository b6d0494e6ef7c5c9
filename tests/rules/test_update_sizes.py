"""How large updates are expected to be, and what a slow line is asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.crew_records import CrewSpec
from paris_p2p.rules.update_sizes import BITS_BY_STEP, bits_an_entry, expected_bytes, step_for_line
from paris_p2p.updates.compression import Precision, compress
from paris_p2p.updates.update_header import UpdateHeader

CREW, PARAMETERS = CrewSpec(), 8_000_000  # about 970,000 bytes at the default step of two


@pytest.mark.parametrize(("step", "bits"), BITS_BY_STEP)
def test_the_table_is_what_it_says_and_between_its_rows_bits_fall(step: float, bits: float) -> None:
    assert bits_an_entry(step) == pytest.approx(bits)


@given(step=st.floats(0.25, 8), other=st.floats(0.25, 8))
def test_a_coarser_step_takes_fewer_bits(step: float, other: float) -> None:
    low, high = sorted((step, other))
    assert bits_an_entry(high) <= bits_an_entry(low)


@pytest.mark.parametrize("step", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_an_update_of_heavy_tails_takes_about_as_many_bits(step: float) -> None:
    entries = np.random.default_rng(0).standard_t(5, 300_000).astype(np.float32)
    out, blank = io.BytesIO(), np.zeros_like(entries)
    compress(blank.copy(), entries, blank, UpdateHeader(len(entries)), Precision(step, 1.0), out)
    assert len(out.getvalue()) == pytest.approx(expected_bytes(CREW, len(entries), step), rel=0.2)


def test_a_slow_line_sends_coarser_steps() -> None:
    assert step_for_line(CREW, 10.0, 0.0, PARAMETERS) == 2.0
    assert step_for_line(CREW, 10.0, 200_000.0, PARAMETERS) == 2.0
    assert step_for_line(CREW, 10.0, 190_000.0, PARAMETERS) == 3.0
    assert step_for_line(CREW, 10.0, 80_000.0, PARAMETERS) == 4.5
    assert step_for_line(CREW, 10.0, 1.0, PARAMETERS) == 6.75
    assert step_for_line(CrewSpec(step=1.0), 10.0, 1.0, PARAMETERS) == pytest.approx(7.59375)
    assert step_for_line(CrewSpec(step=8.0), 10.0, 1.0, PARAMETERS) == 8.0


def test_a_part_of_the_chunks_takes_a_part_of_the_bytes() -> None:
    assert expected_bytes(CrewSpec(parts=4), PARAMETERS, 2.0) == expected_bytes(CREW, PARAMETERS, 2.0) / 4
    assert step_for_line(CrewSpec(parts=4), 10.0, 60_000.0, PARAMETERS) == 2.0
