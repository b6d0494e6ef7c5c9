"""Tests which cards a fetch takes: those of the experts that the router knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from paris_p2p.errors import MissingBlobError, SlotMissingError, UsageError
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.flow.mixture import Routing
from paris_p2p.node.generator import Fetched, check_wanted, fetched_slot, generating_set
from paris_p2p.owner_records import AnyChange, DropExpert
from paris_p2p.records import BlobRef
from paris_p2p.rules.run_state import run_state
from tests.made.made_growth import both
from tests.rules.made import NOW, RUN, A, card, tip
from tests.rules.made_notices import chain_of
from tests.rules.test_growth import a_run

SPLIT = both(1, 2)  # notices 1 to 3


def node(*changes: AnyChange, router: int | None = 0, experts: tuple[int, ...] = (0, 1)) -> Any:
    """Returns as much of a node as is asked: its state, and a board with the tips of some experts, and of a
    router whose card names a notice.
    """
    state = run_state(RUN, a_run(), chain_of(RUN, changes), NOW + 999)
    tips = {f"expert-{k}": tip(card(A, slot=f"expert-{k}")) for k in experts}
    if router is not None:
        tips["router"] = tip(card(A, slot="router", notices=router))
    return SimpleNamespace(state=state, board=SimpleNamespace(tip=tips.get, slots=state.slots_ever))


def taken(made: Any) -> dict[str, str]:
    """Returns whose card each slot of the set takes."""
    spec, cards = generating_set(made)
    assert set(cards) <= set(spec.slots)
    return {slot: one.record.slot for slot, one in cards.items()}


def test_a_child_that_the_router_does_not_know_is_not_taken() -> None:
    assert set(taken(node(*SPLIT, experts=(0, 1, 2)))) == {"expert-0", "expert-1", "router"}


def test_a_child_that_the_router_knows_is_taken_and_stands_in_as_its_parent_while_it_has_no_checkpoint() -> (
    None
):
    assert taken(node(*SPLIT, router=3, experts=(0, 1, 2)))["expert-2"] == "expert-2"
    assert taken(node(*SPLIT, router=3))["expert-2"] == "expert-1"


def test_a_dropped_parent_still_stands_in_for_its_child() -> None:
    found = taken(node(*SPLIT, DropExpert(expert=1), router=3))
    assert found == {"expert-0": "expert-0", "expert-2": "expert-1", "router": "router"}


def test_a_router_that_knows_notices_which_are_not_known_here_is_not_taken() -> None:
    with pytest.raises(MissingBlobError, match=r"knows notice 3 .* more than 0; try again"):
        generating_set(node(router=3))


def test_what_is_missing_and_how_many_experts_there_are_is_told_of_the_set() -> None:
    spec, cards = generating_set(node(*SPLIT, DropExpert(expert=0), router=3, experts=(0,)))
    with pytest.raises(SlotMissingError, match="no checkpoint was attested yet for expert-1, expert-2;"):
        check_wanted(spec, set(cards), False, None)
    with pytest.raises(UsageError, match="--top-k 3: this run has 2 experts"):
        check_wanted(spec, set(cards), True, Routing(top_k=3))


def test_of_a_crews_light_card_the_newest_full_weights_are_fetched_and_their_age_is_told() -> None:
    first = card(A)
    rounds = tuple(BlobRef(id=f"{number:02x}" * 32, size_bytes=9) for number in (7, 8, 9))
    full = card(A, first, rounds=rounds[:2], merged="aa" * 32)
    light = card(A, full, rounds=rounds, merged="bb" * 32, full=full.id)
    assert [fetched_slot(one).behind for one in (first, full, light)] == [0, 0, 3]
    assert fetched_slot(light).weights == full.record.weights
    assert fetched_slot(light).card == light.id


def test_an_older_fetch_is_read_and_says_nothing_of_rounds() -> None:
    slot = {"card": "aa" * 32, "weights": {"id": "bb" * 32, "size_bytes": 3}}
    assert Fetched.model_validate({"slots": {"router": slot}}).slots["router"].behind == 0


@pytest.mark.parametrize(
    ("behind", "slot", "words"),
    [
        ({}, "", ""),
        ({"expert-0": 1}, "", ", the newest full weights, 1 round behind"),
        ({"expert-0": 1, "router": 4}, "", ", the newest full weights, up to 4 rounds behind"),
        ({"expert-0": 1, "router": 4}, "expert-0", ", the newest full weights, 1 round behind"),
        ({"expert-0": 1}, "router", ""),
    ],
)
def test_the_summary_says_how_far_a_crew_went_on(behind: dict[str, int], slot: str, words: str) -> None:
    run = FetchedRun(signed=SimpleNamespace(), weights={}, behind=behind)  # type: ignore[arg-type]
    assert run.behind_in_words(slot) == words
