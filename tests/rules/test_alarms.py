"""What is worth telling somebody who is away is told once, when it has lasted, and again when it is over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.rules.alarms import (
    LASTS_S,
    LEADLESS_LEAST_S,
    OVER_S,
    Alarm,
    AlarmsTold,
    WatchedNode,
    WatchedRun,
    WatchedSlot,
    alarms_due,
)

GOOD = WatchedSlot("expert-0", tip_age_s=10.0, has_lead=True, active=True, done=False)
RUN = WatchedRun("r", checkpoint_s=600.0, claim_s=90.0, ended=False, slots=(GOOD,))
NODE = WatchedNode((RUN,), disk_bytes=1, disk_limit_bytes=100, disk_free_bytes=10**12)


def seen(**slot: object) -> WatchedNode:
    return replace(NODE, runs=(replace(RUN, slots=(replace(GOOD, **slot),)),))


def over_time(states: Iterable[tuple[float, WatchedNode]]) -> list[tuple[float, Alarm]]:
    told, found = AlarmsTold(), list[tuple[float, Alarm]]()
    for now_s, state in states:
        due, told = alarms_due(state, told, now_s)
        found += [(now_s, alarm) for alarm in due]
    return found


def every(
    step_s: float, until_s: float, state: WatchedNode, start_s: float = 0.0
) -> list[tuple[float, WatchedNode]]:
    return [(start_s + step_s * number, state) for number in range(int((until_s - start_s) / step_s) + 1)]


LATE, LEADLESS = seen(tip_age_s=1801.0), seen(has_lead=False)
FULL = replace(NODE, disk_bytes=96)
NEARLY = replace(NODE, disk_bytes=93)  # between full and roomy
NO_SPACE = replace(NODE, disk_limit_bytes=0, disk_free_bytes=10**8)
FINISHED = seen(done=True, active=False)


@pytest.mark.parametrize(
    ("state", "kind", "lasts_s"),
    [
        (LATE, "tip late", LASTS_S),
        (LEADLESS, "no lead", LEADLESS_LEAST_S),
        (FULL, "disk full", LASTS_S),
        (NO_SPACE, "disk full", LASTS_S),
        (FINISHED, "finished", LASTS_S),
    ],
)
def test_each_is_told_once_after_it_lasted_and_once_when_it_is_over(
    state: WatchedNode, kind: str, lasts_s: float
) -> None:
    found = over_time([*every(15, 3600, state), *every(15, 7200, NODE, 3615)])
    assert [(one.key.kind, one.begins) for _, one in found] == [(kind, True), (kind, False)]
    assert found[0][0] == lasts_s
    assert found[1][0] == 3615 + OVER_S


def test_what_trembles_around_its_limit_is_told_once() -> None:
    states = [(15.0 * number, FULL if number % 2 else NEARLY) for number in range(1000)]
    assert over_time(states) == []  # it never lasted
    states = [*every(15, 120, FULL), *((120 + 15.0 * n, FULL if n % 2 else NEARLY) for n in range(1, 1000))]
    assert [alarm.begins for _, alarm in over_time(states)] == [True]


@pytest.mark.parametrize(
    "state",
    [
        NODE,
        seen(tip_age_s=1e6, active=False),  # paused, resting, or done
        seen(has_lead=False, active=False),
        seen(tip_age_s=None),  # none yet
        replace(NODE, disk_limit_bytes=0, disk_bytes=10**12),
        replace(NODE, runs=(replace(RUN, slots=()),)),
    ],
)
def test_what_is_as_it_should_be_is_not_told(state: WatchedNode) -> None:
    assert over_time(every(15, 10_000, state)) == []


def test_a_longer_claim_gives_a_slot_longer_to_find_a_lead() -> None:
    state = replace(NODE, runs=(replace(LEADLESS.runs[0], claim_s=1000.0),))
    assert [at_s for at_s, _ in over_time(every(15, 10_000, state))] == [3000.0]


def test_a_run_that_its_owner_ends_is_finished_and_its_slots_are_no_trouble() -> None:
    state = replace(NODE, runs=(replace(RUN, ended=True, slots=(replace(GOOD, active=False),)),))
    assert [alarm.key.kind for _, alarm in over_time(every(15, 10_000, state))] == ["finished"]


def test_what_was_told_before_a_restart_is_not_told_again() -> None:
    told = AlarmsTold()
    for now_s, state in every(15, 600, LATE):
        _, told = alarms_due(state, told, now_s)
    after = AlarmsTold(told=told.told)  # all that is kept; the clock begins anew
    for now_s, state in every(15, 600, LATE):
        due, after = alarms_due(state, after, now_s)
        assert due == ()


@given(st.lists(st.sampled_from([NODE, LATE, LEADLESS, FULL, NEARLY, NO_SPACE, FINISHED]), max_size=60))
def test_an_alarm_begins_and_ends_by_turns_whatever_happens(states: list[WatchedNode]) -> None:
    last: dict[object, bool] = {}
    for _, alarm in over_time((100.0 * number, state) for number, state in enumerate(states)):
        assert alarm.begins is not last.get(alarm.key, False)
        last[alarm.key] = alarm.begins
