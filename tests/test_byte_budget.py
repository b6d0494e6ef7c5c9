"""Budgets are read as people write them, and their periods are those of the calendar."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.byte_budget import ByteBudget, budget_in


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("100GB/month", ByteBudget(100_000_000_000, "month")),
        ("1.5 GiB / day", ByteBudget(3 << 29, "day")),
        ("20gb/Week", ByteBudget(20_000_000_000, "week")),
        ("20GB/per week", ByteBudget(20_000_000_000, "week")),
    ],
)
def test_budgets_are_read_as_people_write_them(text: str, budget: ByteBudget) -> None:
    assert budget_in(text) == budget


@pytest.mark.parametrize("text", ["", "100GB", "100GB/year", "lots/month", "0/day", "/day", "1,5GB/day"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it like|is nothing"):
        budget_in(text)


def test_months_weeks_and_days_end_as_the_calendars_do() -> None:
    today = date(2026, 11, 27)  # a Friday
    nexts = [budget_in(f"1GB/{period}").next_first_day(today) for period in ("day", "week", "month")]
    assert nexts == [date(2026, 11, 28), date(2026, 11, 30), date(2026, 12, 1)]
    assert budget_in("1GB/month").next_first_day(date(2027, 1, 31)) == date(2027, 2, 1)
    assert budget_in("1GB/month").next_first_day(date(2026, 12, 31)) == date(2027, 1, 1)


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.sampled_from(["day", "week", "month"]))
def test_every_day_is_in_one_period(day: date, period: str) -> None:
    budget = budget_in(f"1GB/{period}")
    begin, after = budget.first_day(day), budget.next_first_day(day)
    assert begin <= day < after
    assert budget.first_day(after) == after
    assert budget.first_day(after - timedelta(days=1)) == begin


@given(st.integers(1, 10**17), st.sampled_from(["day", "week", "month"]))
def test_a_budget_that_is_written_is_read_again(size_bytes: int, period: str) -> None:
    budget = budget_in(f"{size_bytes}/{period}")
    assert budget.size_bytes == size_bytes
    assert budget_in(str(budget)) == budget
