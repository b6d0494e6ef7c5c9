"""Budgets of bytes as people write them, `100GB/month`, and the days that a period of the calendar has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from paris_p2p.byte_size import Bytes, exact_size

Period = Literal["day", "week", "month"]
_SIZE: TypeAdapter[int] = TypeAdapter(Bytes)
_WRONG = "is no budget; write it like 100GB/month, 20GB/week or 2GB/day"


@dataclass(frozen=True)
class ByteBudget:
    """So many bytes in each period of the calendar; weeks begin on Mondays."""

    size_bytes: int
    period: Period

    def __str__(self) -> str:
        return f"{exact_size(self.size_bytes)}/{self.period}"

    def first_day(self, today: date) -> date:
        """Returns the day on which the period of `today` began."""
        return _first_day(self.period, today)

    def next_first_day(self, today: date) -> date:
        """Returns the day on which the next period begins."""
        length_days = {"day": 1, "week": 7, "month": 31}[self.period]
        return _first_day(self.period, self.first_day(today) + timedelta(days=length_days))


def budget_in(text: str) -> ByteBudget:
    """Returns the budget that a text means; ValueError."""
    size, slash, period = text.partition("/")
    match = re.fullmatch("(?:a |per )?(day|week|month)", period.strip().lower())
    if not slash or match is None:
        raise ValueError(_WRONG)
    try:
        size_bytes = int(_SIZE.validate_python(size.strip()))
    except ValidationError as error:
        raise ValueError(_WRONG) from error
    if size_bytes <= 0:
        raise ValueError("is nothing; leave the option out for no budget")
    return ByteBudget(size_bytes, next(each for each in get_args(Period) if each == match[1]))


def _first_day(period: Period, day: date) -> date:
    if period == "month":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if period == "week" else day
