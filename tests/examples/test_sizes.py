"""The demo's size follows the machine, and what is promised for it is excused by the machine alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from examples.demo.measure import speed_of, timed
from examples.demo.sizes import (
    FAST_BOUND_S,
    SIZES,
    SLOW_BOUND_S,
    Got,
    Plan,
    Speed,
    choose,
    choose_again,
    excuse,
    shortfall,
    step_cost,
    train_s,
    training_cpu_s,
)

LARGE, SMALL = SIZES[0], SIZES[-1]
SLOTS = ("expert-0", "expert-1", "expert-2", "router")


def machine(step_s: float, cores: float, plain_s: float = 0.05) -> dict[str, Speed]:
    """Returns a machine by the largest size's step; a smaller size's takes its share of the work."""
    work = {"large": 1.0, "medium": 1.0, "small": 0.56, "tiny": 0.56}
    return {size.name: Speed(step_s * work[size.name], step_s / 5, cores, plain_s) for size in SIZES}


def got(
    plan: Plan, *, steps: int, cost: float = 1.0, trained_cpu_s: float | None = None, idle: float = 0.02
) -> Got:
    """Returns every slot at `steps`, each of which took `cost` of what was measured."""
    speed = plan.speed
    cpu_s = (
        cost * steps * (3 * speed.expert_step_s + speed.router_step_s)
        if trained_cpu_s is None
        else trained_cpu_s
    )
    same = dict.fromkeys(SLOTS, steps)
    return Got(same, same, cpu_s, idle)


def test_a_fast_machine_gets_the_largest_size_and_the_short_bound() -> None:
    for cores in (2.0, 4.0):
        plan = choose(machine(0.07, cores))
        assert (plan.size, plan.bound_s, plan.fits) == (LARGE, FAST_BOUND_S, True)
        assert plan.total_s < FAST_BOUND_S


def test_a_slower_machine_gets_less_and_more_time() -> None:
    plans = [choose(machine(step_s, 1.9, step_s / 2.8)) for step_s in (0.07, 0.2, 0.3, 0.4)]
    works = [training_cpu_s(plan.size, machine(1.0, 2.0)[plan.size.name]) for plan in plans]
    assert works == sorted(works, reverse=True)
    assert len({plan.size.name for plan in plans}) > 2
    assert all(plan.fits and plan.total_s < plan.bound_s for plan in plans)
    assert {plan.bound_s for plan in plans[1:]} == {SLOW_BOUND_S}


def test_a_machine_too_slow_for_any_size_gets_the_smallest_and_is_told() -> None:
    plan = choose(machine(6.0, 2.0, 1.0))
    assert (plan.size, plan.bound_s, plan.fits) == (SMALL, SLOW_BOUND_S, False)


def test_a_loaded_machine_is_planned_by_what_it_gives_now() -> None:
    free, loaded = choose(machine(0.07, 2.0)), choose(machine(0.07, 0.5))
    assert training_cpu_s(loaded.size, loaded.speed) < training_cpu_s(free.size, free.speed)
    assert loaded.bound_s == SLOW_BOUND_S


def test_no_slot_trains_on_more_than_one_core_however_many_there_are() -> None:
    speed = Speed(0.1, 0.02, 64.0, 0.05)
    assert train_s(LARGE, speed) > LARGE.steps * 0.1


def test_the_second_measurement_only_makes_a_plan_smaller_and_keeps_its_bound() -> None:
    plan = choose(machine(0.07, 2.0))
    assert choose_again(plan, machine(0.01, 8.0), 60.0).size == LARGE
    slowed = choose_again(plan, machine(0.14, 1.6), 120.0)
    assert slowed.size != LARGE
    assert (slowed.size.side_pixels, slowed.size.clips) == (LARGE.side_pixels, LARGE.clips)
    assert (slowed.bound_s, slowed.fits) == (FAST_BOUND_S, True)
    assert not choose_again(plan, machine(0.07, 2.0), FAST_BOUND_S).fits


def test_training_ends_early_enough_for_the_rest_to_end_within_the_bound() -> None:
    for step_s in (0.1, 0.3, 0.9):
        plan = choose(machine(step_s, 2.0, step_s / 2.8))
        assert 0 < plan.train_until_s() < plan.bound_s - 30


def test_the_plan_is_told_in_words_with_its_figures() -> None:
    words = str(choose(machine(0.05, 2.0)))
    assert "160 clips a processor second" in words
    assert f"{LARGE.steps:,} steps" in words


@pytest.mark.parametrize("steps", [LARGE.steps, LARGE.steps + 5])
def test_a_training_that_was_finished_falls_short_of_nothing(steps: int) -> None:
    plan = choose(machine(0.07, 2.0))
    assert shortfall(plan, got(plan, steps=steps)) == ""


def test_an_unfinished_training_on_a_machine_that_gave_what_it_had_promised_is_not_excused() -> None:
    plan = choose(machine(0.07, 2.0))
    needed_s = training_cpu_s(plan.size, plan.speed)
    short = got(plan, steps=plan.size.steps // 2, idle=0.6)  # the trainers stood still and the machine idled
    assert "expert-1" in shortfall(plan, short)
    assert excuse(plan, short) == ""
    wasted = got(plan, steps=plan.size.steps - 10, trained_cpu_s=1.2 * needed_s)
    assert excuse(plan, wasted) == ""


def test_what_our_own_nodes_took_from_the_trainers_is_no_excuse() -> None:
    plan = choose(machine(0.07, 2.0))
    starved = replace(got(plan, steps=plan.size.steps // 2, idle=0.01), trainers_share=0.4)
    assert excuse(plan, starved) == ""
    assert "other programs" in excuse(plan, replace(starved, trainers_share=0.7))


def test_a_machine_that_others_took_or_that_became_slower_is_an_excuse_with_its_figures() -> None:
    plan = choose(machine(0.07, 2.0))
    half = plan.size.steps // 2
    assert "other programs" in excuse(plan, got(plan, steps=half, idle=0.01))
    assert "1.60" in excuse(plan, got(plan, steps=half, cost=1.6, idle=0.5))
    assert "too slow" in excuse(choose(machine(6.0, 2.0, 1.0)), got(plan, steps=1))


def test_a_steps_cost_counts_the_routers_steps_at_the_routers_price() -> None:
    plan = choose(machine(0.1, 2.0))
    made = {"expert-0": 100, "router": 200}
    assert step_cost(plan, Got(made, made, 100 * 0.1 + 200 * 0.02, 0.0)) == pytest.approx(1.0)
    assert step_cost(plan, Got({}, {}, 5.0, 0.0)) == 1.0


def test_a_speed_is_the_experts_together_and_the_router_apart() -> None:
    expert, router = (
        {"steps": 10.0, "cpu_s": 2.0, "wall_s": 4.0, "plain_s": 0.05},
        {"steps": 40.0, "cpu_s": 2.0, "wall_s": 4.0},
    )
    speed = speed_of([expert, expert | {"steps": 30.0}, expert, router | {"plain_s": 0.04}])
    assert speed == Speed(expert_step_s=0.12, router_step_s=0.05, cores=2.0, plain_s=0.04)


def test_a_step_is_timed_once_at_least_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("examples.demo.measure.time.monotonic", lambda: now[0])

    def step() -> None:
        now[0] += 100.0

    assert timed(step, lambda: now[0] / 2) == {"steps": 1, "cpu_s": 50.0, "wall_s": 100.0}
