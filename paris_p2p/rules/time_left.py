"""When a slot is done, by its last tips, and how sure that is: pure functions of history and clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from paris_p2p.rules.history import HistoryLine

LAST_TIPS = 24  # that an estimate rests on
_LEAST_INTERVALS = 3
_MAX_ETA_S = 10 * 365 * 86400.0  # what is later than that is not known
_MAX_CORRELATION = 0.8
_DAY_S = 86400.0


@dataclass(frozen=True)
class SlotPace:
    """How fast a slot comes on and how long it takes yet; `low` and `high` hold 95 of 100 outcomes, as far as
    the coming tips are like the last ones. None: not known.
    """

    clips_per_s: float
    steps_per_s: float
    left_s: float | None = None
    left_low_s: float | None = None
    left_high_s: float | None = None


@dataclass(frozen=True)
class LossTrend:
    """By how much the gate's loss changes in a day, with its interval of 95 %."""

    per_day: float
    low: float
    high: float

    @property
    def words(self) -> str:
        if self.high < 0:
            return f"the gate's loss falls by {-self.per_day:.3g} a day ({-self.high:.3g} to {-self.low:.3g})"
        if self.low > 0:
            return f"the gate's loss rises by {self.per_day:.3g} a day ({self.low:.3g} to {self.high:.3g})"
        return (
            "the gate's loss neither falls nor rises for sure: between "
            f"{self.low:+.3g} and {self.high:+.3g} a day"
        )


def slot_pace(lines: Sequence[HistoryLine], total_steps: int, now_s: float) -> SlotPace | None:
    """Returns a slot's pace over its last tips, and when it has made `total_steps` (0: no end is set).

    The rate is R = Σ steps / Σ seconds over n intervals between tips, rests included. What the next m
    intervals bring has, beside the mean's, its own spread: s^2 (1/n + 1/m) (1 + r) / (1 - r), where r is
    the correlation of one interval with the next. A tip that is overdue counts as an interval without steps.
    None where fewer than three intervals are known.
    """
    spans = _spans(lines, now_s)
    total_s = sum(seconds for _, _, seconds in spans)
    if len(spans) < _LEAST_INTERVALS or total_s <= 0:
        return None
    rate, clips = sum(one[0] for one in spans) / total_s, sum(one[1] for one in spans) / total_s
    left = total_steps - lines[-1].steps
    if total_steps <= 0 or rate <= 0:
        return SlotPace(clips, rate)
    if left <= 0:
        return SlotPace(clips, rate, 0.0, 0.0, 0.0)
    mean_s = total_s / len(spans)
    half = _half_width(
        [steps - rate * seconds for steps, _, seconds in spans], max(1.0, left / (rate * mean_s))
    )
    half /= mean_s
    since_s = 0.0 if _is_overdue(lines, now_s) else max(0.0, now_s - lines[-1].at_s)

    def left_at(steps_per_s: float) -> float | None:
        seconds = max(0.0, left / steps_per_s - since_s) if steps_per_s > 0 else math.inf
        return seconds if seconds <= _MAX_ETA_S else None

    return SlotPace(clips, rate, left_at(rate), left_at(rate + half), left_at(rate - half))


def loss_trend(lines: Sequence[HistoryLine]) -> LossTrend | None:
    """Returns the slope of the gate's comparable loss over the last tips, by least squares over time.

    None where fewer than four tips have such a loss, or all at one time.
    """
    points = [
        (line.at_s / _DAY_S, line.gate_loss) for line in lines[-LAST_TIPS:] if line.gate_loss is not None
    ]
    if len(points) < _LEAST_INTERVALS + 1:
        return None
    mean_t = math.fsum(t for t, _ in points) / len(points)
    mean_loss = math.fsum(loss for _, loss in points) / len(points)
    spread = math.fsum((t - mean_t) ** 2 for t, _ in points)
    if spread <= 0:
        return None
    slope = math.fsum((t - mean_t) * (loss - mean_loss) for t, loss in points) / spread
    rest = [loss - mean_loss - slope * (t - mean_t) for t, loss in points]
    free = len(points) - 2
    variance = math.fsum(one * one for one in rest) / free * _inflation(rest)
    half = _student(free) * math.sqrt(variance / spread)
    return LossTrend(slope, slope - half, slope + half)


def outlook_words(pace: SlotPace | None, trend: LossTrend | None, total_steps: int) -> str:
    """Says in a line when a slot is done, or without an end where its loss goes; nothing where nothing is
    known.
    """
    if pace is None:
        return ""
    rate = f"{pace.clips_per_s:.3g} clips/s over its last tips"
    if pace.left_s is None:
        if total_steps > 0:
            return f"{rate}; when it is done is not known"
        return f"{rate}; no end is set" + (f", and {trend.words}" if trend else "")
    low, high = pace.left_low_s or 0.0, pace.left_high_s
    if high is None:
        return f"done in about {duration_words(pace.left_s)}, or later ({rate})"
    if duration_words(low) == duration_words(high):
        return f"done in about {duration_words(pace.left_s)} ({rate})"
    span = f"{duration_words(low)} to {duration_words(high)}"
    return f"done in about {duration_words(pace.left_s)}, {span} ({rate})"


def duration_words(seconds: float) -> str:
    """Says a duration in the unit that fits."""
    for unit_s, most, unit in ((1.0, 120.0, "s"), (60.0, 120.0, "min"), (3600.0, 72.0, "h")):
        if seconds < most * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / _DAY_S:.0f} days"


def _spans(lines: Sequence[HistoryLine], now_s: float) -> list[tuple[float, float, float]]:
    """Returns (steps, clips, seconds) between the last tips, and of the time since where a tip is overdue."""
    spans = [
        (float(line.added_steps), float(line.added_clips or 0), line.seconds)
        for line in lines[-LAST_TIPS:]
        if line.added_steps is not None and line.seconds
    ]
    if spans and _is_overdue(lines, now_s):
        spans.append((0.0, 0.0, now_s - lines[-1].at_s))
    return spans


def _is_overdue(lines: Sequence[HistoryLine], now_s: float) -> bool:
    known = [line.seconds for line in lines[-LAST_TIPS:] if line.seconds]
    return bool(known) and now_s - lines[-1].at_s > max(known)


def _half_width(rest: Sequence[float], coming: float) -> float:
    """Returns half the interval of the mean of `coming` more values, where past ones had these deviations."""
    count = len(rest)
    variance = math.fsum(one * one for one in rest) / (count - 1) * _inflation(rest)
    return _student(count - 1) * math.sqrt(variance * (1 / count + 1 / coming))


def _inflation(rest: Sequence[float]) -> float:
    """Returns by how much more values that follow one another alike vary in the mean than free ones."""
    squares = math.fsum(one * one for one in rest)
    if squares <= 0:
        return 1.0
    found = math.fsum(one * other for one, other in pairwise(rest)) / squares
    # what few values show is too low by (1 + 3 r) / n (Kendall 1954)
    correlation = min(_MAX_CORRELATION, max(0.0, found + (1 + 3 * found) / len(rest)))
    return (1 + correlation) / (1 - correlation)


def _student(free: int) -> float:
    """Returns the 0.975 quantile of Student's t with `free` >= 2 degrees of freedom, by Fisher's expansion
    (Abramowitz and Stegun 26.7.5).
    """
    return 1.959964 + 2.372271 / free + 2.822502 / free**2 + 2.555850 / free**3
