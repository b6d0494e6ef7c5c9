"""What was sent and fetched is counted by the day, and a budget's period is the calendar's."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.byte_budget import budget_in
from paris_p2p.rules.traffic import KEPT_DAYS, Traffic, day_at, days_set, renewed_at_s
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


def test_a_clock_that_was_years_ahead_leaves_nothing_behind() -> None:
    today = date(2026, 11, 27)
    wrong = Traffic().with_more(today, 1, 1).with_more(date(2036, 11, 27), 10**12, 0)
    assert wrong.with_more(today, 2, 0).days == {today: (2, 0)}
    ahead = Traffic({today: (5, 5), today + timedelta(days=400): (10**12, 0)})
    assert ahead.used_bytes(MONTH, "up", today) == 5
    assert ahead.with_more(today, 1, 0).days == {today: (6, 5)}


@pytest.mark.parametrize("by_days", [-31, -1, 1, 31, 3650])
def test_a_clock_that_is_set_moves_what_was_counted_with_it(by_days: int) -> None:
    noon_s = datetime(2026, 11, 15, 12, tzinfo=BERLIN).timestamp()
    today = day_at(noon_s, BERLIN)
    traffic = Traffic().with_more(today - timedelta(days=1), 5, 0).with_more(today, 7, 0)
    before, then_s = Clocks(100.0, noon_s), noon_s + 3.0 + by_days * 86400.0
    days = days_set(before, Clocks(103.0, then_s), BERLIN)
    assert days == by_days
    moved, then = traffic.redated(days), day_at(then_s, BERLIN)
    assert moved.used_bytes(budget_in("1GB/day"), "up", then) == 7
    if then.day > 1:  # no new period of the calendar began between the two
        assert moved.with_more(then, 1, 0).used_bytes(MONTH, "up", then) == 13
    back = moved.redated(days_set(Clocks(103.0, then_s), Clocks(106.0, noon_s + 6.0), BERLIN))
    assert back == traffic


def test_a_sleep_and_network_time_are_no_clock_that_was_set() -> None:
    noon_s = datetime(2026, 11, 15, 12, tzinfo=BERLIN).timestamp()
    week_s = 7 * 86400.0
    assert days_set(Clocks(0.0, noon_s), Clocks(week_s, noon_s + week_s), BERLIN) == 0
    assert days_set(Clocks(0.0, noon_s), Clocks(week_s, noon_s + week_s - 60.0), BERLIN) == 0
    assert days_set(Clocks(0.0, noon_s), Clocks(1.0, noon_s + 7200.0), BERLIN) == 0  # the same day


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 10), st.integers(0, 10)), max_size=60))
def test_of_days_in_their_order_what_is_kept_is_what_was_added(parts: list[tuple[int, int, int]]) -> None:
    first, traffic = date(2026, 1, 1), Traffic()
    parts = sorted(parts)
    for number, up, down in parts:
        traffic = traffic.with_more(first + timedelta(days=number), up, down)
    last = max((number for number, _, _ in parts), default=0)
    recent = [part for part in parts if last - part[0] < KEPT_DAYS]
    assert sum(up for up, _ in traffic.days.values()) == sum(up for _, up, _ in recent)
    assert sum(down for _, down in traffic.days.values()) == sum(down for _, _, down in recent)
    assert len(traffic.days) <= KEPT_DAYS
