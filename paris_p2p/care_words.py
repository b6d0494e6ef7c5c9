"""What a person says of a machine's care, as types of settings: hours, idle time, heat, power, budgets."""

from __future__ import annotations

from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field

from paris_p2p.byte_budget import budget_in
from paris_p2p.time_span import Duration
from paris_p2p.weekly_hours import MAX_WINDOWS, window_in

IDLE_S = 600.0  # of `--only-idle yes`
MAX_IDLE_S = 86400.0


def hours_list(value: Any) -> Any:
    """Returns the spans of hours of a text, which `;` separates; anything else as it is."""
    parts = value.split(";") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    return tuple(one.strip() for part in parts for one in part.split(";") if one.strip())


def _hours(text: str) -> str:
    return str(window_in(text))


def _zone(text: str) -> str:
    """Returns the name of a time zone; ValueError when there is none of that name."""
    if text:
        try:
            ZoneInfo(text)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError("is no time zone; they are called like Europe/Berlin or UTC") from error
    return text


def _budget(text: str) -> str:
    return str(budget_in(text)) if text.strip() not in ("", "0") else ""


def _idle(value: Any) -> Any:
    """Returns the span that `yes` and `no` mean; anything else as it is."""
    word = str(value).strip().lower()
    return {"yes": IDLE_S, "no": 0.0, "true": IDLE_S, "false": 0.0}.get(word, value)


HoursWords = Annotated[
    tuple[Annotated[str, AfterValidator(_hours)], ...],
    BeforeValidator(hours_list),
    Field(max_length=MAX_WINDOWS),
]
ZoneName = Annotated[str, AfterValidator(_zone)]
IdleSpan = Annotated[Duration, BeforeValidator(_idle), Field(le=MAX_IDLE_S)]
BudgetText = Annotated[str, AfterValidator(_budget)]
Degrees = Annotated[float, Field(ge=0, le=150)]
Watts = Annotated[float, Field(ge=0, le=10_000)]
Niceness = Annotated[int, Field(ge=0, le=19)]
