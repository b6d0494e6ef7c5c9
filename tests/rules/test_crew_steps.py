"""What a member of a crew does next, and what becomes of its update."""

from __future__ import annotations

import math
from typing import Any

import pytest

from paris_p2p.crew_records import Counted, CrewRound, MergedUpdate
from paris_p2p.rules.crew_steps import (
    AWAY_ROUNDS,
    CrewWorth,
    LeadView,
    MemberView,
    enters_rounds,
    fate_of,
    late_after,
    lead_step,
    leaves_rounds,
    missing_members,
    rounds_after,
    worker_step,
)
from paris_p2p.rules.rounds import ALONE_ROUNDS, next_counts
from tests.rules.made import A, B

T, U = "a" * 64, "b" * 64
SEEN: dict[str, Any] = {
    "base": T,
    "tip": T,
    "base_since_s": 100.0,
    "round_s": 60.0,
    "updated": False,
    "outdated": False,
}


def made_round(lineage: tuple[str, ...], **more: Any) -> CrewRound:
    fields: dict[str, Any] = {
        "run": "1" * 64,
        "slot": "expert-0",
        "lineage": lineage,
        "steps_before": 10,
        "clips_before": 80,
        "steps": 20,
        "clips": 160,
        "merged": "c" * 64,
        "updates": (MergedUpdate(envelope=b"signed", late=0, scale=65536),),
    }
    return CrewRound(**(fields | more))


@pytest.mark.parametrize(
    ("changes", "has_lead", "now_s", "action", "until_s"),
    [
        ({}, True, 159.0, "wait", 160.0),
        ({}, True, 160.0, "update", math.inf),
        ({"updated": True}, True, 500.0, "wait", math.inf),
        ({"tip": U, "updated": True}, True, 101.0, "adopt", math.inf),
        ({"tip": U, "outdated": True}, True, 101.0, "adopt", math.inf),
        ({"outdated": True}, True, 101.0, "renew", math.inf),
        ({}, False, 101.0, "update", math.inf),
        ({"updated": True}, False, 101.0, "claim", math.inf),
    ],
)
def test_a_worker_updates_once_a_base_and_follows_the_tip(
    changes: dict[str, Any], has_lead: bool, now_s: float, action: str, until_s: float
) -> None:
    step = worker_step(MemberView(**(SEEN | changes)), has_lead=has_lead, now_s=now_s)
    assert (step.action, step.until_s) == (action, until_s)


@pytest.mark.parametrize(
    ("changes", "now_s", "action", "until_s"),
    [
        ({"missing": 2}, 159.0, "wait", 160.0),
        ({"missing": 2}, 160.0, "update", math.inf),
        ({"missing": 2, "updated": True}, 160.0, "wait", 175.0),
        ({"missing": 2, "updated": True}, 175.0, "merge", math.inf),
        ({"missing": 0, "updated": True}, 160.0, "merge", math.inf),
        ({"missing": 2, "ending": True}, 101.0, "update", math.inf),
        ({"missing": 2, "ending": True, "updated": True, "outdated": True}, 101.0, "merge", math.inf),
        ({"card_out": True, "patience_ends_s": 300.0}, 299.0, "wait", 300.0),
        ({"card_out": True, "patience_ends_s": 300.0}, 300.0, "merge anew", math.inf),
        ({"card_out": True, "tip": U}, 120.0, "adopt", math.inf),
        ({"outdated": True}, 120.0, "renew", math.inf),
    ],
)
def test_a_lead_merges_when_all_came_or_grace_is_over(
    changes: dict[str, Any], now_s: float, action: str, until_s: float
) -> None:
    step = lead_step(LeadView(**(SEEN | changes)), now_s)
    assert (step.action, step.until_s) == (action, until_s)


def test_counts_move_for_those_who_were_merged_alone() -> None:
    a, b = sorted((A.peer_id, B.peer_id))
    assert next_counts({b: 80}, {a: 40}) == (Counted(peer=a, next=40), Counted(peer=b, next=80))
    assert next_counts({a: 8, b: 80}, {b: 160}) == (Counted(peer=a, next=8), Counted(peer=b, next=160))


def test_rounds_are_done_again_from_the_one_that_merged_into_the_state_here() -> None:
    rounds = [made_round((T,)), made_round((U, T)), made_round(("d" * 64, U, T))]
    assert [rounds_after(rounds, base) for base in (T, U, "d" * 64, "e" * 64)] == [0, 1, 2, None]


@pytest.mark.parametrize(
    ("base", "merged", "refused", "fate"),
    [
        (T, {"mine"}, {}, ("merged", "")),
        (T, {"other"}, {}, ("late", "late")),
        (T, {"other"}, {"mine": "late"}, ("late", "late")),
        (T, {"other"}, {"mine": "norm"}, ("lost", "norm")),
        (T, {"an earlier one"}, {"mine": "counted"}, ("merged", "")),
        ("e" * 64, {"other"}, {}, ("lost", "stale")),
    ],
)
def test_an_update_is_merged_or_waits_or_is_lost_with_a_reason(
    base: str, merged: set[str], refused: dict[str, str], fate: tuple[str, str]
) -> None:
    assert fate_of("mine", base, merged, refused, (U, T)) == fate


def test_who_is_late_again_and_again_is_not_waited_for_until_it_is_in_time() -> None:
    late: dict[str, int] = {}
    waited_for = []
    for here in ({"a"}, {"a"}, {"a"}, {"a", "b"}, {"a"}):
        waited_for.append(missing_members(late, ["a", "b"], {"a"}))
        late = late_after(late, ["a", "b"], here)
    assert waited_for == [1, 1, 0, 0, 1]
    assert late_after({"gone": 5}, ["a"], {"a"}) == {}


@pytest.mark.parametrize(
    ("workers", "tip_merged", "light_pays", "kept_alone", "enters"),
    [
        (0, False, False, False, False),
        (1, False, False, False, True),
        (1, False, False, True, False),
        (0, True, False, False, True),
        (0, False, True, True, True),
    ],
)
def test_a_lead_enters_rounds_for_workers_a_merged_tip_or_a_slow_line(
    workers: int, tip_merged: bool, light_pays: bool, kept_alone: bool, enters: bool
) -> None:
    found = enters_rounds(
        workers=workers, tip_merged=tip_merged, light_pays=light_pays, kept_alone=kept_alone
    )
    assert found is enters


@pytest.mark.parametrize(
    ("rounds_alone", "workers", "light_pays", "kept_alone", "leaves"),
    [
        (2, 0, False, False, False),
        (3, 0, False, False, True),
        (9, 1, False, False, False),
        (9, 0, True, False, False),
        (0, 4, False, True, True),
    ],
)
def test_a_lead_leaves_rounds_after_some_alone(
    rounds_alone: int, workers: int, light_pays: bool, kept_alone: bool, leaves: bool
) -> None:
    found = leaves_rounds(
        rounds_alone=rounds_alone, workers=workers, light_pays=light_pays, kept_alone=kept_alone
    )
    assert found is leaves


def test_a_crew_that_is_worse_than_its_lead_twice_in_a_row_is_left_for_a_while() -> None:
    worth = CrewWorth().compared(3.5)
    assert (worth.worse, worth.alone_left) == (1, 0)
    assert worth.compared(1.0) == CrewWorth()
    worth = worth.compared(4.0)
    assert worth == CrewWorth(0, AWAY_ROUNDS)
    for _ in range(AWAY_ROUNDS):
        worth = worth.round_over()
    assert worth == CrewWorth()


def test_a_lead_whose_rounds_come_to_nothing_goes_on_alone_for_a_while() -> None:
    worth = CrewWorth()
    for _ in range(ALONE_ROUNDS - 1):
        worth = worth.not_merged()
    assert not worth.stuck
    assert worth.merged() == CrewWorth()  # one that is merged ends it
    worth = worth.not_merged()
    assert (worth.stuck, worth.alone_left) == (True, AWAY_ROUNDS)
    alone: dict[str, Any] = {"workers": 3, "light_pays": True, "kept_alone": True, "stuck": worth.stuck}
    assert leaves_rounds(rounds_alone=0, **alone)
    assert not enters_rounds(tip_merged=False, **alone)
    for _ in range(AWAY_ROUNDS):
        worth = worth.round_over()
    assert worth == CrewWorth()
