"""Bytes that a peer sent and fetched, by the days of its calendar, against a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Literal

from paris_p2p.byte_budget import ByteBudget
from paris_p2p.rules.wake import Clocks

SET_S = 3600.0  # what network time takes back or adds bit by bit is far below
KEPT_DAYS = 70  # over the longest period, and the one before
Way = Literal["up", "down"]


@dataclass(frozen=True)
class Traffic:
    """(bytes sent, bytes fetched) of each day in which there were any."""

    days: Mapping[date, tuple[int, int]] = field(default_factory=dict)

    def with_more(self, today: date, up_bytes: int, down_bytes: int) -> Traffic:
        """Returns the traffic with some of today's; days that are long over, or to come, are left out: a
        clock that was wrong must not fill a budget for years.
        """
        kept = {day: count for day, count in self.days.items() if 0 <= (today - day).days < KEPT_DAYS}
        up, down = kept.get(today, (0, 0))
        if up_bytes or down_bytes:
            kept[today] = (up + up_bytes, down + down_bytes)
        return Traffic(kept)

    def redated(self, by_days: int) -> Traffic:
        """Returns the same traffic on other days: those that a clock shows which was set."""
        return Traffic({day + timedelta(days=by_days): count for day, count in self.days.items()})

    def used_bytes(self, budget: ByteBudget, way: Way, today: date) -> int:
        """Returns what went that way in the budget's period so far."""
        begin, place = budget.first_day(today), 0 if way == "up" else 1
        return sum(count[place] for day, count in self.days.items() if begin <= day <= today)


def days_set(before: Clocks, now: Clocks, zone: tzinfo) -> int:
    """Returns by how many days a clock on the wall was set between two moments of one start of the machine:
    0 where it went on by itself, whatever the machine slept.
    """
    set_s = (now.wall_s - before.wall_s) - (now.boot_s - before.boot_s)
    if abs(set_s) < SET_S:
        return 0
    return (day_at(now.wall_s, zone) - day_at(now.wall_s - set_s, zone)).days


def day_at(now_s: float, zone: tzinfo) -> date:
    """Returns the day that a calendar on the wall shows."""
    return datetime.fromtimestamp(now_s, zone).date()


def renewed_at_s(budget: ByteBudget, now_s: float, zone: tzinfo) -> float:
    """Returns when the next period of a budget begins (Unix time): at midnight on the wall."""
    day = budget.next_first_day(day_at(now_s, zone))
    return datetime.combine(day, time(), zone).timestamp()
