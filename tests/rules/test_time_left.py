"""When a slot is done: right on even histories, honest about uneven ones, silent where nothing is known."""

from __future__ import annotations

import math
from random import Random

import pytest

from paris_p2p.rules.history import HistoryLine
from paris_p2p.rules.time_left import loss_trend, outlook_words, slot_pace

from .made import NOW


def line(
    at_s: float, seconds: float | None, steps: int, added: int | None, loss: float | None = 1.0
) -> HistoryLine:
    return HistoryLine(
        slot="expert-0", seq=1, epoch=1, card="", lead="", at_s=at_s, seconds=seconds, steps=steps,
        clips=8 * steps, added_steps=added, added_clips=None if added is None else 8 * added, train_loss=1.0,
        gate_loss=loss, card_loss=1.0, reference_loss=1.0, attestations=1, lowered=0, rounds=0,
        is_light=False, tips=1,
    )  # fmt: skip


def lines_of(steps: list[float], every_s: float = 100.0) -> list[HistoryLine]:
    made, total, at_s = [line(NOW, None, 0, 0)], 0, NOW
    for one in steps:
        total, at_s = total + round(one), at_s + every_s
        made.append(line(at_s, every_s, total, round(one)))
    return made


def test_an_even_slot_is_done_when_its_rate_says_so() -> None:
    lines = lines_of([50] * 10)
    pace = slot_pace(lines, 1000, lines[-1].at_s)
    assert pace is not None
    assert (pace.steps_per_s, pace.clips_per_s) == (0.5, 4.0)
    assert pace.left_s == pace.left_low_s == pace.left_high_s == pytest.approx(1000.0)
    later = slot_pace(lines, 1000, lines[-1].at_s + 60)
    assert later is not None
    assert later.left_s == pytest.approx(940.0)


def test_nothing_is_said_that_is_not_known() -> None:
    assert slot_pace(lines_of([50, 50]), 1000, NOW + 200) is None
    assert slot_pace([], 1000, NOW) is None
    endless = slot_pace(lines_of([50] * 5), 0, NOW + 500)
    assert endless is not None
    assert (endless.left_s, endless.steps_per_s) == (None, 0.5)
    done = slot_pace(lines_of([50] * 5), 250, NOW + 500)
    assert done is not None
    assert done.left_s == 0.0
    still = slot_pace(lines_of([0] * 5), 250, NOW + 500)
    assert still is not None
    assert still.left_s is None


def test_a_slot_that_nobody_trains_any_more_gets_later_and_less_sure() -> None:
    lines, last = lines_of([50] * 10), NOW + 1000
    fresh, hour, day = (slot_pace(lines, 1000, last + s) for s in (0, 3600, 86400))
    assert fresh is not None
    assert hour is not None
    assert day is not None
    assert fresh.left_s is not None
    assert hour.left_s is not None
    assert day.left_s is not None
    assert fresh.left_s < hour.left_s < day.left_s
    assert day.left_high_s is None  # it may never be done


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_interval_holds_what_comes(correlation: float) -> None:
    rng, held, tries = Random(7), 0, 400
    for _ in range(tries):
        steps, deviation = [], 0.0
        for _ in range(120):
            deviation = correlation * deviation + rng.gauss(0, 12) * math.sqrt(1 - correlation**2)
            steps.append(max(0.0, 60 + deviation))
        lines = lines_of(steps)
        total, known = lines[80].steps, lines[: 20 + 1]
        pace = slot_pace(known, total, known[-1].at_s)
        assert pace is not None
        took_s = lines[80].at_s - known[-1].at_s
        low, high = pace.left_low_s or 0.0, pace.left_high_s or math.inf
        held += low <= took_s <= high
    assert held / tries > (0.92 if correlation == 0 else 0.85)


def test_the_losses_slope_has_an_interval_that_says_whether_it_falls() -> None:
    rng, held = Random(3), 0
    for _ in range(200):
        falls = [line(NOW + 3600 * k, 3600.0, k, 1, 2.0 - 0.01 * k + rng.gauss(0, 0.004)) for k in range(20)]
        trend = loss_trend(falls)
        assert trend is not None
        assert trend.high < 0
        assert "falls by" in trend.words
        held += trend.low < -0.24 < trend.high
    assert held > 0.92 * 200
    level = [line(NOW + 3600 * k, 3600.0, k, 1, 2.0 + rng.gauss(0, 0.004)) for k in range(20)]
    flat = loss_trend(level)
    assert flat is not None
    assert flat.low < 0 < flat.high
    assert "neither falls nor rises" in flat.words
    rises = loss_trend([line(NOW + 3600 * k, 3600.0, k, 1, 1.0 + k) for k in range(5)])
    assert rises is not None
    assert "rises by 24 a day" in rises.words
    assert loss_trend(falls[:3]) is None
    assert loss_trend([line(NOW, 1.0, k, 1) for k in range(9)]) is None
    assert loss_trend([line(NOW + k, 1.0, k, 1, None) for k in range(9)]) is None


def test_the_outlook_says_what_is_known() -> None:
    lines = lines_of([50, 60, 40, 50, 55, 45] * 3)
    words = outlook_words(slot_pace(lines, 4000, lines[-1].at_s), None, 4000)
    assert words.startswith("done in about 103 min, ")
    assert words.endswith("(4 clips/s over its last tips)")
    assert outlook_words(None, None, 4000) == ""
    late = outlook_words(slot_pace(lines, 4000, lines[-1].at_s + 9e5), None, 4000)
    assert "or later" in late
    endless = outlook_words(slot_pace(lines, 0, lines[-1].at_s), loss_trend(lines), 0)
    assert endless.startswith("4 clips/s over its last tips; no end is set, and the gate's loss neither")
    still = outlook_words(slot_pace(lines_of([0] * 5), 9, NOW + 500), None, 9)
    assert still == "0 clips/s over its last tips; when it is done is not known"
