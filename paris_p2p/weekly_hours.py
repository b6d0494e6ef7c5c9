"""Hours of the week as people write them, `22:00-07:00` or `Mon-Fri 22:00-07:00`: when they begin and end.

Hours are what a clock on the wall shows: where daylight saving turns it forward, the hour that is left out is
in no window, and a window that begins in it begins when the clock was turned; where it is turned back, the
hour that comes twice is twice in its window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

MAX_WINDOWS = 32
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MINUTES_A_DAY = 24 * 60
_LOOK_AHEAD_DAYS = 9  # a week repeats; a day more for a clock that is turned, one for the night before
_TEXT = re.compile(r"(?:(?P<days>[A-Za-z,\- ]+?)\s+)?(?P<from>\S+?)\s*-\s*(?P<to>\S+)")
_TIME = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
_WRONG = "is no span of hours; write it like 22:00-07:00, Mon-Fri 18:00-23:30 or Sat,Sun 00:00-24:00"


@dataclass(frozen=True)
class Window:
    """Hours on some days of the week; one that ends no later than it begins ends on the next day."""

    days: frozenset[int]  # on which it begins; 0 is Monday
    from_min: int  # minutes since midnight
    to_min: int

    def holds(self, weekday: int, minute: int) -> bool:
        """Whether a clock on the wall that shows this minute of this day is in the window."""
        if self.from_min < self.to_min:
            return weekday in self.days and self.from_min <= minute < self.to_min
        today = weekday in self.days and minute >= self.from_min
        return today or ((weekday - 1) % 7 in self.days and minute < self.to_min)

    def __str__(self) -> str:
        hours = f"{_clock(self.from_min)}-{_clock(self.to_min)}"
        return hours if len(self.days) == 7 else f"{_day_words(self.days)} {hours}"


def window_in(text: str) -> Window:
    """Returns the window that a text means; ValueError."""
    match = _TEXT.fullmatch(text.strip())
    begin, end = (_TIME.fullmatch(match[name]) if match else None for name in ("from", "to"))
    if match is None or begin is None or end is None:
        raise ValueError(_WRONG)
    from_min, to_min = (60 * int(each[1]) + int(each[2]) for each in (begin, end))
    if from_min >= _MINUTES_A_DAY or to_min > _MINUTES_A_DAY:
        raise ValueError("has an hour that no day has; a day is 00:00-24:00")
    if from_min == to_min:
        raise ValueError("begins when it ends; a whole day is 00:00-24:00")
    return Window(_days_in(match["days"] or ""), from_min, to_min)


def is_open(windows: Sequence[Window], now_s: float, zone: tzinfo) -> bool:
    """Whether a moment (Unix time) lies in one of the windows."""
    wall = datetime.fromtimestamp(now_s, zone)
    return any(each.holds(wall.weekday(), 60 * wall.hour + wall.minute) for each in windows)


def next_change_s(windows: Sequence[Window], now_s: float, zone: tzinfo) -> float | None:
    """Returns when the windows next open or close (Unix time); None where they never do."""
    now_open = is_open(windows, now_s, zone)
    for moment_s in sorted(set(_moments(windows, now_s, zone))):
        if moment_s > now_s and is_open(windows, moment_s, zone) != now_open:
            return moment_s
    return None


def _moments(windows: Sequence[Window], now_s: float, zone: tzinfo) -> Iterator[float]:
    """Yields the moments at which windows may open or close: when the wall shows their ends, and when the
    clock on the wall is turned.
    """
    today = datetime.fromtimestamp(now_s, zone).date()
    minutes = {minute for each in windows for minute in (each.from_min, each.to_min)} | {0}
    for number in range(-1, _LOOK_AHEAD_DAYS):
        midnight = datetime.combine(today + timedelta(days=number), datetime.min.time())
        for minute in minutes:
            for fold in (0, 1):
                wall = (midnight + timedelta(minutes=minute)).replace(tzinfo=zone, fold=fold)
                yield wall.timestamp()
    start_s = now_s - 86400.0
    for number in range(24 * (_LOOK_AHEAD_DAYS + 1)):
        turned_s = _turned_s(start_s + 3600.0 * number, start_s + 3600.0 * (number + 1), zone)
        if turned_s is not None:
            yield turned_s


def _turned_s(from_s: float, to_s: float, zone: tzinfo) -> float | None:
    """Returns the second at which the clock on the wall is turned between two moments, if it is."""
    low, high = int(from_s), int(to_s)
    before = _offset(low, zone)
    if before == _offset(high, zone):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(middle, zone) == before else (low, middle)
    return float(high)


def _offset(moment_s: float, zone: tzinfo) -> timedelta | None:
    return datetime.fromtimestamp(moment_s, UTC).astimezone(zone).utcoffset()


def _days_in(text: str) -> frozenset[int]:
    if not text.strip():
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        begin = _day_in(first)
        count = (_day_in(last) - begin) % 7 if dash else 0
        found |= {(begin + step) % 7 for step in range(count + 1)}
    return frozenset(found)


def _day_in(word: str) -> int:
    found = [number for number, name in enumerate(_DAYS) if name == word[:3].capitalize()]
    if not found:
        raise ValueError(f"has {word!r} for a day; they are called {', '.join(_DAYS)}")
    return found[0]


def _day_words(days: frozenset[int]) -> str:
    """Returns days as they are written: neighbours as a span."""
    begins = [day for day in sorted(days) if (day - 1) % 7 not in days]
    parts = []
    for begin in begins:
        count = next(step for step in range(1, 8) if (begin + step) % 7 not in days)
        last = _DAYS[(begin + count - 1) % 7]
        parts.append(_DAYS[begin] if count == 1 else f"{_DAYS[begin]}-{last}")
    return ",".join(parts)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
