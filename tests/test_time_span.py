"""Spans of time as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.time_span import seconds_in, span_words


@pytest.mark.parametrize(
    ("text", "span_s"),
    [("90s", 90), ("30 min", 1800), ("1.5h", 5400), ("7d", 604800), ("2W", 1209600), ("0", 0), (0, 0)],
)
def test_spans_are_read_with_their_units(text: object, span_s: float) -> None:
    assert seconds_in(text) == span_s


@pytest.mark.parametrize("text", ["7", "7 days", "-1d", "d", "", "1e9d", "nan", "inf", True, 7, "1d2h"])
def test_what_is_no_span_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="write it like 90s, 30min, 12h, 7d"):
        seconds_in(text)


def test_what_would_outlive_everybody_is_never() -> None:
    assert seconds_in("never") == math.inf
    with pytest.raises(ValueError, match="write never"):
        seconds_in("99999d")


@given(st.integers(0, 10**9))
def test_a_span_in_words_is_read_as_the_same_span(span_s: int) -> None:
    assert seconds_in(span_words(float(span_s))) == span_s
