"""Sizes are read whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from paris_p2p.byte_size import MAX_BYTES, Bytes, in_units

BYTES = TypeAdapter(Bytes)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("0", 0),
        ("50GB", 50 * 10**9),
        ("500MB", 500_000_000),
        ("500 MiB", 500 << 20),
        ("1.5 GiB", 3 << 29),
        (" 20mb/s ", 20_000_000),
        ("5MB/s", 5_000_000),
        ("50Mbit/s", 6_250_000),
        ("7k", 7000),
        (12, 12),
        (12.0, 12),
    ],
)
def test_sizes_are_read_as_people_write_them(value: Any, count: int) -> None:
    assert BYTES.validate_python(value) == count


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "lots",
            "-1",
            "1 XB",
            "1e9",
            "nan",
            "9" * 400,
            "1..5M",
            "1,5GB",
            "20MB/day",
            "20MB of disk",
            "٥MB",
        ),
        *(-1, 1.5, float("nan"), float("inf"), True, None, [1]),
    ],
)
def test_what_is_no_size_is_refused_whole(value: Any) -> None:
    with pytest.raises(ValidationError, match="is not a size; write it like 500MB"):
        BYTES.validate_python(value)


@pytest.mark.parametrize("value", ["2EB", "1000000PB", MAX_BYTES + 1, 10.0**30])
def test_an_absurd_size_is_refused_with_the_limit(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"from 0 to 1\.0 EB"):
        BYTES.validate_python(value)


@given(st.integers(0, MAX_BYTES - 1))
def test_a_number_of_bytes_is_itself_also_as_text_and_as_json(count: int) -> None:
    assert BYTES.validate_python(str(count)) == BYTES.validate_json(BYTES.dump_json(count)) == count


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (2.5e12, "2.5 TB"), (1e9, "1.0 GB")]
)
def test_sizes_are_shown_with_one_decimal(count: float, text: str) -> None:
    assert in_units(count) == text
