"""A peer rests when its machine's owner wants the machine, says why and until when, and never flaps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.byte_budget import budget_in
from paris_p2p.rules.care import (
    MIN_REST_S,
    CareClocks,
    CareFacts,
    CareHistory,
    CareRules,
    Rest,
    is_used_up,
    observed,
    rest_now,
)
from paris_p2p.rules.traffic import Traffic, day_at
from paris_p2p.weekly_hours import is_open, window_in

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = CareRules(hours=(window_in("22:00-07:00"),), zone=BERLIN)
LOOK_S = 5.0


def moment(text: str, zone: tzinfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@dataclass
class Machine:
    """Is looked at by clocks that a test moves."""

    rules: CareRules
    unix_s: float = field(default_factory=lambda: moment("2026-11-27T12:00"))
    monotonic_s: float = 1000.0
    history: CareHistory = field(default_factory=CareHistory)

    def look(self, facts: CareFacts) -> Rest | None:
        now = CareClocks(self.unix_s, self.monotonic_s)
        self.history = observed(self.rules, facts, self.history, now)
        return rest_now(self.rules, facts, self.history, now)

    def wait(self, facts: CareFacts, for_s: float, look_s: float = LOOK_S) -> list[bool]:
        """Returns whether it rested at each look; the last one is at the end."""
        rested = []
        for _ in range(round(for_s / look_s)):
            self.unix_s += look_s
            self.monotonic_s += look_s
            rested.append(self.look(facts) is not None)
        return rested

    def sleep(self, for_s: float) -> None:
        """The machine sleeps: the wall's clock jumps, the monotonic one stands still."""
        self.unix_s += for_s


def changes(rested: Iterable[bool]) -> int:
    return sum(one != other for one, other in pairwise(rested))


def test_without_rules_it_never_rests() -> None:
    hard = CareFacts(on_battery=True, idle_s=0.0, others_share=1.0, gpu_temp_c=99.0)
    assert Machine(CareRules()).look(hard) is None


def test_outside_of_its_hours_it_rests_and_says_until_when() -> None:
    machine = Machine(NIGHT)
    rest = machine.look(CareFacts())
    assert rest is not None
    assert str(rest) == "outside of its hours (22:00-07:00); goes on at 22:00"
    assert rest.until_s == moment("2026-11-27T22:00")
    assert not rest.attests
    machine.unix_s = moment("2026-11-27T22:00")
    assert machine.look(CareFacts()) is None


@pytest.mark.parametrize(
    ("evening", "hours"), [("2027-03-27T22:00", 8), ("2026-10-24T22:00", 10), ("2026-11-27T22:00", 9)]
)
def test_a_night_is_worked_through_whether_or_not_the_clock_is_turned_in_it(evening: str, hours: int) -> None:
    machine = Machine(NIGHT, unix_s=moment(evening) - 30)
    rested = machine.wait(CareFacts(), (hours + 1) * 3600, look_s=30)
    assert rested.count(False) == hours * 120
    assert changes(rested) == 1


def test_a_clock_that_is_set_back_a_little_at_the_end_of_the_hours_does_not_start_it_again() -> None:
    machine = Machine(NIGHT, unix_s=moment("2026-11-28T06:59:58"))
    assert machine.wait(CareFacts(), 5) == [True]
    machine.unix_s -= 6.0  # the clock is corrected: it is not seven yet
    assert machine.look(CareFacts()) is not None


def test_on_battery_it_rests_at_once_and_goes_on_a_minute_after_it_was_plugged_in() -> None:
    machine = Machine(CareRules(on_battery=False))
    rest = machine.look(CareFacts(on_battery=True))
    assert rest is not None
    assert str(rest) == "this machine runs on its battery; goes on a minute after it was plugged in"
    assert rest.until_s is None
    assert not any(machine.wait(CareFacts(on_battery=False), 65)[-1:])
    assert all(machine.wait(CareFacts(on_battery=True), 60))
    assert machine.wait(CareFacts(on_battery=False), 60)[:-1] == [True] * 11


def test_a_plug_with_a_loose_contact_starts_nothing() -> None:
    machine = Machine(CareRules(on_battery=False))
    rested = []
    for number in range(120):
        rested += machine.wait(CareFacts(on_battery=number % 2 == 0), 20)
    assert changes(rested) == 0


def test_a_machine_without_battery_works() -> None:
    assert Machine(CareRules(on_battery=False)).look(CareFacts(on_battery=None)) is None


def test_in_use_it_rests_at_once_and_goes_on_after_the_idle_time() -> None:
    machine = Machine(CareRules(only_idle_s=600.0))
    assert machine.look(CareFacts(idle_s=601.0)) is None
    rest = machine.look(CareFacts(idle_s=2.0))
    assert rest is not None
    assert str(rest) == "somebody used this machine 2 s ago; goes on after 10min without"
    machine.wait(CareFacts(idle_s=599.0), 590)
    assert machine.look(CareFacts(idle_s=599.0)) is not None
    assert machine.look(CareFacts(idle_s=600.0)) is None


def test_who_uses_it_is_not_guessed() -> None:
    rest = Machine(CareRules(only_idle_s=600.0)).look(CareFacts(why_idle_unknown="no screen tells"))
    assert rest is not None
    assert "not known whether somebody uses this machine: no screen tells" in rest.why


def test_only_load_that_lasts_is_others_work() -> None:
    machine = Machine(CareRules(only_idle_s=60.0))
    busy, calm = CareFacts(idle_s=1e4, others_share=0.6), CareFacts(idle_s=1e4, others_share=0.02)
    assert not any(machine.wait(busy, 25))
    assert not any(machine.wait(calm, 60))
    assert machine.wait(busy, 40)[-1]
    assert "other programs use 60%" in str(machine.look(busy))
    assert all(machine.wait(calm, 115))
    assert not machine.wait(calm, 20)[-1]


def test_load_around_the_limit_does_not_flap() -> None:
    machine = Machine(CareRules(only_idle_s=60.0))
    machine.wait(CareFacts(idle_s=1e4, others_share=0.3), 60)
    rested = []
    for number in range(100):
        rested += machine.wait(CareFacts(idle_s=1e4, others_share=0.24 if number % 2 else 0.26), 10)
    assert all(rested)


def test_in_heat_it_rests_and_goes_on_when_it_has_cooled_and_attests_meanwhile() -> None:
    machine = Machine(CareRules(max_gpu_temp_c=85.0))
    assert not any(machine.wait(CareFacts(gpu_temp_c=86.0), 55))  # the GPU's pace may still mend it
    assert machine.wait(CareFacts(gpu_temp_c=86.0), 15)[-1]
    rest = machine.look(CareFacts(gpu_temp_c=84.0))
    assert rest is not None
    assert rest.attests
    assert str(rest).endswith("85 °C are allowed; goes on two minutes after it is at 75 °C")
    assert all(machine.wait(CareFacts(gpu_temp_c=76.0), 600))
    assert not machine.wait(CareFacts(gpu_temp_c=75.0), 125)[-1]
    assert machine.wait(CareFacts(gpu_temp_c=91.0), 15)[-1]  # far over it: at once


def test_at_a_months_end_a_used_up_budget_begins_anew() -> None:
    budget = budget_in("100GB/month")
    rules = CareRules(upload=budget, zone=BERLIN)
    machine = Machine(rules, unix_s=moment("2026-11-30T23:58"))
    traffic = Traffic().with_more(day_at(machine.unix_s, BERLIN), 99 * 10**9, 0)
    facts = CareFacts(traffic=traffic)
    assert machine.look(facts) is None
    facts = replace(facts, last_checkpoint_bytes=2 * 10**9)
    rest = machine.look(facts)
    assert rest is not None
    assert str(rest) == "the upload budget of 100GB/month is used up; goes on Tue 2026-12-01 at 00:00"
    assert not is_used_up(budget, "up", facts, BERLIN, machine.unix_s)  # the last checkpoint still goes out
    assert machine.wait(facts, 115)[-1]
    assert not machine.wait(facts, 10)[-1]


def test_a_budget_that_is_smaller_than_a_checkpoint_is_used_all_the_same() -> None:
    rules = CareRules(upload=budget_in("1GB/day"))
    assert Machine(rules).look(CareFacts(last_checkpoint_bytes=5 * 10**9)) is None


def test_several_reasons_are_all_said_and_all_have_to_end() -> None:
    machine = Machine(replace(NIGHT, on_battery=False))
    rest = machine.look(CareFacts(on_battery=True))
    assert rest is not None
    assert rest.reasons == ("hours", "battery")
    assert rest.until_s is None
    assert str(rest) == (
        "outside of its hours (22:00-07:00), and this machine runs on its battery; "
        "goes on at 22:00 and a minute after it was plugged in"
    )


def test_a_machine_that_slept_counts_its_patience_anew_and_knows_the_hour() -> None:
    machine = Machine(replace(NIGHT, only_idle_s=60.0), unix_s=moment("2026-11-27T23:00"))
    busy = CareFacts(idle_s=1e4, others_share=0.6)
    assert not any(machine.wait(busy, 25))
    machine.sleep(8 * 3600 + 1800)  # the lid was closed until half past seven
    rest = machine.look(busy)
    assert rest is not None
    assert rest.reasons == ("hours",)  # that others used it before says nothing
    assert not [reason for reason in machine.history.reasons if reason == "load"]


def test_a_process_that_was_stopped_counts_its_patience_anew() -> None:
    machine = Machine(CareRules(on_battery=False))
    machine.wait(CareFacts(on_battery=True), 120)
    machine.wait(CareFacts(on_battery=False), 30)
    machine.unix_s, machine.monotonic_s = machine.unix_s + 300, machine.monotonic_s + 300
    assert machine.wait(CareFacts(on_battery=False), 50)[-1]
    assert not machine.wait(CareFacts(on_battery=False), 20)[-1]


def test_what_is_no_longer_asked_ends_at_once() -> None:
    machine = Machine(NIGHT)
    assert machine.look(CareFacts()) is not None
    machine.rules = CareRules()
    assert machine.look(CareFacts()) is None


FACTS = st.builds(
    CareFacts,
    on_battery=st.none() | st.booleans(),
    idle_s=st.none() | st.floats(0, 2000),
    others_share=st.none() | st.floats(0, 1),
    gpu_temp_c=st.none() | st.floats(20, 110),
)
ALL = replace(NIGHT, on_battery=False, only_idle_s=600.0, max_gpu_temp_c=80.0)


@given(st.lists(st.tuples(FACTS, st.floats(0.1, 400)), min_size=1, max_size=40))
def test_whatever_the_machine_tells_a_rest_lasts_a_minute_and_has_a_reason(
    told: list[tuple[CareFacts, float]],
) -> None:
    machine, began_s = Machine(ALL, unix_s=moment("2026-10-25T01:00")), None
    for facts, passed_s in told:
        machine.unix_s += passed_s
        machine.monotonic_s += passed_s
        rest = machine.look(facts)
        if rest is not None:
            began_s = machine.unix_s if began_s is None else began_s
            assert rest.why
            assert rest.goes_on
        elif began_s is not None:
            assert machine.unix_s - began_s >= MIN_REST_S
            began_s = None
        if facts.on_battery or not is_open(ALL.hours, machine.unix_s, BERLIN):
            assert rest is not None
        if facts.idle_s is None or facts.idle_s < 600:
            assert rest is not None
