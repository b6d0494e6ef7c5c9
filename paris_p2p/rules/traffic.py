"""Bytes that a peer sent and fetched, by the days of its calendar, against a budget; and what becomes of them
when the clock is set, which gives no second month and locks none for longer than the period that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, tzinfo
from typing import Literal

from paris_p2p.byte_budget import ByteBudget, Period
from paris_p2p.rules.wake import Clocks

SET_S = 3600.0  # what network time takes back or adds bit by bit is far below
BEHIND_S = 31 * 86400.0  # for which it is remembered that the clock went back over a start of the machine
KEPT_DAYS = 70  # over the longest period, and the one before
Way = Literal["up", "down"]


@dataclass(frozen=True)
class Traffic:
    """(bytes sent, bytes fetched) of each day in which there were any."""

    days: Mapping[date, tuple[int, int]] = field(default_factory=dict)

    def with_more(self, today: date, up_bytes: int, down_bytes: int) -> Traffic:
        """Returns the traffic with some of today's. Of the days until today, and of those to come by a clock
        that was wrong, the newest are kept.
        """
        kept = dict(self.days)
        up, down = kept.get(today, (0, 0))
        if up_bytes or down_bytes:
            kept[today] = (up + up_bytes, down + down_bytes)
        for days in ([day for day in kept if day <= today], [day for day in kept if day > today]):
            for day in sorted(days)[:-KEPT_DAYS]:
                del kept[day]
        return Traffic(kept)

    def redated(self, before: date, today: date) -> Traffic:
        """Returns the traffic after the clock was set from one day to another and no time passed: what
        counted in a month, week or day that ran counts in the one that runs now. What did not stays where it
        is: it may be of a time when the clock was right.
        """
        days: dict[date, tuple[int, int]] = {}
        for day, (up, down) in self.days.items():
            moved = _redated(day, before, today)
            more_up, more_down = days.get(moved, (0, 0))
            days[moved] = (up + more_up, down + more_down)
        return Traffic(days)

    def used_bytes(self, budget: ByteBudget, way: Way, today: date) -> int:
        """Returns what went that way in the budget's period so far."""
        begin, place = budget.first_day(today), 0 if way == "up" else 1
        return sum(count[place] for day, count in self.days.items() if begin <= day <= today)


@dataclass(frozen=True)
class BookClock:
    """The clocks when traffic was written down: in which start of the machine (`boot`), and how far the clock
    was set back over starts since, by what was known at `behind_since_s`.
    """

    boot: str
    clocks: Clocks
    behind_s: float = 0.0
    behind_since_s: float = 0.0  # Unix time, by the clock as it was set


def clock_set(before: BookClock, boot: str, now: Clocks) -> tuple[BookClock, tuple[float, float] | None]:
    """Returns the clocks of now, and between which two moments (Unix time) the clock was set without that
    time passed; None where it went on by itself, whatever the machine slept.

    Between two starts of the machine nothing tells how much time passed: a clock that is ahead is believed
    (the run's peers refuse one that is wrong), one that went back was set back by that much. Where it comes
    forward by as much with a later start, it was mended then.
    """
    after = BookClock(boot, now, before.behind_s, before.behind_since_s)
    passed_s = now.wall_s - before.clocks.wall_s
    if boot and boot == before.boot:
        set_s = passed_s - (now.boot_s - before.clocks.boot_s)
        if abs(set_s) < SET_S:
            return after, None
        left_s = max(0.0, before.behind_s - max(0.0, set_s))
        return replace(after, behind_s=left_s), (now.wall_s - set_s, now.wall_s)
    if passed_s <= -SET_S:
        return BookClock(boot, now, before.behind_s - passed_s, now.wall_s), (
            before.clocks.wall_s,
            now.wall_s,
        )
    is_young = before.clocks.wall_s - before.behind_since_s < BEHIND_S
    if 0 < before.behind_s <= passed_s and is_young:
        then_s = before.clocks.wall_s
        return BookClock(boot, now), (then_s, then_s + before.behind_s)
    return after, None


def day_at(now_s: float, zone: tzinfo) -> date:
    """Returns the day that a calendar on the wall shows."""
    return datetime.fromtimestamp(now_s, zone).date()


def renewed_at_s(budget: ByteBudget, now_s: float, zone: tzinfo) -> float:
    """Returns when the next period of a budget begins (Unix time): at midnight on the wall."""
    day = budget.next_first_day(day_at(now_s, zone))
    return datetime.combine(day, time(), zone).timestamp()


def _redated(day: date, before: date, today: date) -> date:
    """Returns where a day's traffic stands after the clock was set from `before` to `today`."""
    begins = [
        (_first_of(period, before), _first_of(period, today))
        for period in ("month", "week")
        if _first_of(period, before) <= day <= before
    ]
    is_today = day == before
    if all(first <= day <= today for _, first in begins) and not is_today:
        return day
    earliest = max(first for _, first in begins) if begins else today
    return today if is_today else min(today, max(earliest, day + (today - before)))


def _first_of(period: Period, day: date) -> date:
    return ByteBudget(1, period).first_day(day)
