"""When previews are made, what they may cost, and which sets of them stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.rules.preview_turn import (
    PREVIEW_SHARE,
    PreviewCost,
    are_new,
    machine_cost_s,
    next_preview_s,
    sets_to_drop,
)


@given(st.lists(st.floats(0.1, 5000), min_size=1, max_size=30), st.floats(0, 7200))
def test_previews_never_take_more_than_their_share_of_the_time_between(
    costs: list[float], least_s: float
) -> None:
    now_s, cost, spent_s = 1e9, PreviewCost(), 0.0
    for one in costs:
        now_s = max(now_s, next_preview_s(cost, least_s, now_s))
        cost, spent_s = PreviewCost(now_s, one), spent_s + one
    after_s = next_preview_s(cost, least_s, now_s)
    assert after_s >= now_s + least_s
    assert spent_s <= PREVIEW_SHARE * (after_s - 1e9) * 1.0001


def test_a_clock_that_was_set_back_silences_no_previews() -> None:
    cost = PreviewCost(begun_at_s=1e9 + 30 * 86400, cost_s=60.0)
    assert next_preview_s(cost, 3600.0, 1e9) == 0.0
    assert next_preview_s(cost, 3600.0, 1e9 + 31 * 86400) == cost.begun_at_s + 3600.0


def test_a_gpu_is_taken_whole_and_processors_in_part() -> None:
    assert machine_cost_s(60.0, 30.0, 4, on_gpu=False) == 15.0
    assert machine_cost_s(60.0, 30.0, 4, on_gpu=True) == 30.0


def test_a_set_is_due_once_every_slot_that_trains_has_another_tip() -> None:
    slots = ["expert-0", "router"]
    assert are_new({"expert-0": "a", "router": "b"}, {}, slots)
    assert not are_new({"expert-0": "c", "router": "b"}, {"expert-0": "a", "router": "b"}, slots)
    assert are_new({"expert-0": "c", "router": "b"}, {"expert-0": "a", "router": "b"}, ["expert-0"])
    assert not are_new({}, {}, slots)


@given(st.integers(1, 120), st.integers(16, 60))
def test_the_first_and_the_newest_sets_stay_and_the_past_thins_out(count: int, most: int) -> None:
    made: list[float] = []
    for number in range(count):  # one after the other, as a node makes and drops them
        made.append(1e9 + 1800.0 * number)
        for place in reversed(sets_to_drop(made, made[-1], most)):
            del made[place]
    assert len(made) == min(count, most)
    assert made[0] == 1e9
    newest = [1e9 + 1800.0 * number for number in range(count)][-8:]
    assert made[-len(newest) :] == newest
