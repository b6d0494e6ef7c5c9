"""p2pd hangs when it leaves several questions without an answer while this process itself runs on time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.swarm import silence
from paris_p2p.swarm.silence import CHANCE_S, CHANCES, HALT_S, LOOK_S, Silence, until_hung


def looks(passed_s: list[float], begin: Silence | None = None) -> Silence:
    """What looks without an answer amount to, as `until_hung` takes them."""
    now = begin or Silence()
    for one_s in passed_s:
        now = now.looked(one_s, LOOK_S)
        now = now.given_up() if now.is_missed else now
    return now


def test_a_p2pd_that_answers_nothing_for_all_its_chances_hangs_and_not_before() -> None:
    enough = round(CHANCES * CHANCE_S / LOOK_S)
    assert not looks([LOOK_S] * (enough - 1)).hangs
    assert looks([LOOK_S] * enough).hangs


def test_the_limits_leave_a_busy_machine_minutes() -> None:
    assert CHANCES >= 3
    assert CHANCES * CHANCE_S >= 120


@given(st.floats(HALT_S + LOOK_S, 1e7), st.integers(0, round(CHANCES * CHANCE_S / LOOK_S) - 1))
def test_after_a_halt_of_this_process_or_machine_p2pd_has_all_its_chances(halt_s: float, before: int) -> None:
    assert looks([LOOK_S] * before + [halt_s]) == Silence()


@given(st.lists(st.floats(0.0, HALT_S), max_size=100))
def test_what_this_process_is_late_is_not_counted_as_p2pds_silence(late_s: list[float]) -> None:
    few = late_s[: round(CHANCE_S / LOOK_S) - 1]
    assert looks([LOOK_S + one_s for one_s in few]).missed == 0


@given(st.lists(st.floats(LOOK_S, LOOK_S + HALT_S, exclude_max=True), min_size=200, max_size=400))
def test_a_loaded_machine_does_not_keep_a_p2pd_that_hangs_for_ever(passed_s: list[float]) -> None:
    assert looks(passed_s).missed >= CHANCES


async def test_one_answer_gives_all_chances_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOOK_S": 0.0, "CHANCE_S": 3.0, "CHANCES": 2, "ASK_EVERY_S": 0.0}.items():
        monkeypatch.setattr(silence, name, value)
    ticks = iter(range(10**6))
    answers, asked = [False, True, False, True, False, False], list[bool]()

    async def until_answers() -> None:
        asked.append(answers[len(asked)])
        if not asked[-1]:
            await asyncio.Event().wait()

    monkeypatch.setattr(Silence, "looked", lambda now, passed_s, _: Silence(now.silent_s + 1.0, now.missed))
    words = await until_hung(until_answers, lambda: float(next(ticks)))
    assert asked == answers
    assert "2 questions in a row" in words
