"""Spans of time and dates as people write them: 90s, 30min, 12h, 7d, never; 2026-12-31, 2026-12-31T10:00."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator

MAX_SPAN_S = 100 * 365 * 86400.0
_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_TEXT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(s|min|h|d|w)")
_NO_MOMENT = "is no date; write 2026-12-31 or 2026-12-31T10:00, or a span from now such as 12h or 30d"
_WRONG = "is not a span of time; write it like 90s, 30min, 12h, 7d, 0 or never"


def seconds_in(value: Any) -> float:
    """Returns the seconds of a span: infinity for `never`, and a bare 0 needs no unit; ValueError.

    A float is seconds already, as a setting's default is.
    """
    if isinstance(value, float) and value >= 0:
        return value
    text = str(value).strip().lower()
    if text == "never":
        return math.inf
    if re.fullmatch(r"0+(\.0+)?", text):
        return 0.0
    match = _TEXT.fullmatch(text)
    if match is None or isinstance(value, bool):
        raise ValueError(_WRONG)
    span_s = float(match[1]) * _UNITS_S[match[2]]
    if span_s > MAX_SPAN_S:
        raise ValueError("is more than a hundred years; write never")
    return span_s


def span_words(span_s: float) -> str:
    """Returns a span as it may be written: the largest unit that divides it."""
    if span_s == math.inf:
        return "never"
    unit = next(
        (unit for unit in ("w", "d", "h", "min") if span_s and span_s % _UNITS_S[unit] == 0),
        "s",
    )
    return f"{span_s / _UNITS_S[unit]:.12g}{unit}" if span_s else "0"


def moment_in(text: str, now_s: float, *, ago: bool = False) -> float:
    """Returns the Unix time that a date or a span means, in this machine's time zone; ValueError.

    A span counts from now on, or back where `ago`; a date without a time is that whole day, so its end, or
    its beginning where `ago`. Infinity for `never`.
    """
    word = text.strip()
    try:
        date = datetime.fromisoformat(word)
    except ValueError:
        pass
    else:
        is_day = re.fullmatch(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}|[0-9]{4}-?W[0-9]{2}(-?[0-9])?", word) is not None
        try:
            return (date + timedelta(days=int(is_day and not ago))).timestamp()
        except (OverflowError, OSError) as error:
            raise ValueError(_NO_MOMENT) from error
    try:
        span_s = seconds_in(word)
    except ValueError as error:
        raise ValueError(_NO_MOMENT) from error
    if ago and span_s == math.inf:
        raise ValueError(_NO_MOMENT)
    return now_s - span_s if ago else now_s + span_s


# As a setting's type: what seconds_in takes.
Duration = Annotated[float, BeforeValidator(seconds_in)]
