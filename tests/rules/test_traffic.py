"""What was sent and fetched is counted by the day, and a budget's period is the calendar's."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.byte_budget import budget_in
from paris_p2p.rules.traffic import KEPT_DAYS, BookClock, Traffic, clock_set, day_at, renewed_at_s
from paris_p2p.rules.wake import Clocks

BERLIN = ZoneInfo("Europe/Berlin")
MONTH = budget_in("100GB/month")


def test_a_month_begins_with_nothing_used() -> None:
    last = date(2026, 11, 30)
    traffic = Traffic().with_more(date(2026, 11, 1), 5, 50).with_more(last, 7, 70)
    assert traffic.used_bytes(MONTH, "up", last) == 12
    assert traffic.used_bytes(MONTH, "down", last) == 120
    assert traffic.used_bytes(MONTH, "up", date(2026, 12, 1)) == 0


def test_a_month_ends_at_midnight_on_the_wall_also_where_the_clock_was_turned_within_it() -> None:
    now_s = datetime(2026, 10, 24, 12, tzinfo=BERLIN).timestamp()
    assert renewed_at_s(MONTH, now_s, BERLIN) == datetime(2026, 11, 1, tzinfo=BERLIN).timestamp()
    just_before_s = datetime(2026, 10, 31, 23, 59, 59, tzinfo=BERLIN).timestamp()
    assert renewed_at_s(MONTH, just_before_s, BERLIN) == just_before_s + 1
    assert day_at(just_before_s + 1, BERLIN) == date(2026, 11, 1)


def test_a_clock_that_was_years_ahead_leaves_nothing_behind_that_counts_or_grows() -> None:
    today = date(2026, 11, 27)
    traffic = Traffic().with_more(today, 1, 1)
    for number in range(2 * KEPT_DAYS):
        traffic = traffic.with_more(date(2036, 1, 1) + timedelta(days=number), 10**12, 0)
        if number == KEPT_DAYS // 2:
            assert traffic.with_more(today, 2, 0).used_bytes(MONTH, "up", today) == 3
    assert len(traffic.with_more(today, 2, 0).days) <= 2 * KEPT_DAYS


@pytest.mark.parametrize("by_days", [-31, -1, 1, 31, 3650])
def test_a_clock_that_is_set_moves_what_was_counted_with_it(by_days: int) -> None:
    noon_s = datetime(2026, 11, 15, 12, tzinfo=BERLIN).timestamp()
    today = day_at(noon_s, BERLIN)
    traffic = Traffic().with_more(today - timedelta(days=1), 5, 0).with_more(today, 7, 0)
    clocks, days = set_clocks(BookClock("boot", Clocks(100.0, noon_s)), 3.0, by_days * 86400.0)
    assert days == (today, today + timedelta(days=by_days))
    moved, then = traffic.redated(*days), days[1]
    assert moved.used_bytes(budget_in("1GB/day"), "up", then) >= 7
    assert moved.with_more(then, 1, 0).used_bytes(MONTH, "up", then) == 13
    _, back = set_clocks(clocks, 3.0, -by_days * 86400.0)
    assert moved.redated(*back).used_bytes(MONTH, "up", today) == 12


def set_clocks(before: BookClock, passed_s: float, set_s: float) -> tuple[BookClock, tuple[date, ...]]:
    """The clocks after so many seconds of the same start, in which the clock was set; and the days."""
    then = before.clocks
    now = Clocks(then.boot_s + passed_s, then.wall_s + passed_s + set_s)
    after, was_set = clock_set(before, before.boot, now)
    return after, tuple(day_at(moment_s, BERLIN) for moment_s in was_set or ())


@given(st.dates(date(2020, 1, 1), date(2040, 1, 1)), st.dates(date(2020, 1, 1), date(2040, 1, 1)))
@pytest.mark.parametrize("period", ["month", "week", "day"])
def test_whatever_day_the_clock_is_set_to_no_budget_opens_and_all_are_open_with_the_next_period(
    period: str, before: date, today: date
) -> None:
    budget = budget_in(f"1GB/{period}")
    traffic = Traffic({before - timedelta(days=number): (number + 1, 0) for number in range(60)})
    moved = traffic.redated(before, today)
    assert moved.used_bytes(budget, "up", today) >= traffic.used_bytes(budget, "up", before)
    later = budget.next_first_day(today)
    in_between = sum(up for day, (up, _) in moved.days.items() if today < day <= later)
    assert moved.used_bytes(budget, "up", later) <= in_between
    assert sum(up for up, _ in moved.days.values()) == sum(up for up, _ in traffic.days.values())


def test_a_sleep_and_network_time_are_no_clock_that_was_set() -> None:
    noon_s = datetime(2026, 11, 15, 12, tzinfo=BERLIN).timestamp()
    week_s, before = 7 * 86400.0, BookClock("boot", Clocks(0.0, noon_s))
    assert set_clocks(before, week_s, 0.0)[1] == ()
    assert set_clocks(before, week_s, -60.0)[1] == ()
    assert len(set(set_clocks(before, 1.0, 7200.0)[1])) == 1  # the same day


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 10), st.integers(0, 10)), max_size=60))
def test_of_days_in_their_order_what_is_kept_is_what_was_added(parts: list[tuple[int, int, int]]) -> None:
    first, traffic = date(2026, 1, 1), Traffic()
    parts = sorted(parts)
    for number, up, down in parts:
        traffic = traffic.with_more(first + timedelta(days=number), up, down)
    filled = sorted({number for number, up, down in parts if up or down})[-KEPT_DAYS:]
    recent = [part for part in parts if part[0] in filled]
    assert sum(up for up, _ in traffic.days.values()) == sum(up for _, up, _ in recent)
    assert sum(down for _, down in traffic.days.values()) == sum(down for _, _, down in recent)
    assert len(traffic.days) <= KEPT_DAYS
