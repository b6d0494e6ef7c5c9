"""What becomes of a card that its lead left behind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.own_card import BeginsWith, OwnCard, OwnView, begins_with, may_become_tip, own_step
from paris_p2p.rules.rates import RESTS
from paris_p2p.rules.tips import Tip

from .made import NOW, A, B, card, tip

PATIENCE_S = 100.0
FIRST = card(A)
OUT = card(A, FIRST)  # went out first
OWN = card(A, FIRST, steps=40, clips=400)  # the same training, further on
OWNED = OwnCard(OWN, frozenset({OUT.id}))


def view(at: Tip | None = None, **more: Any) -> OwnView:
    return OwnView(**{"tip": at or tip(FIRST), "has_blobs": True, "patience_s": PATIENCE_S} | more)


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_after_a_restart_exactly_a_card_that_may_yet_become_the_tip_is_told_again(
    has_blobs: bool, counts: bool, follows: bool, lives: bool
) -> None:
    at = tip(FIRST if follows else card(B, FIRST))
    now_s = OWN.record.expires_at + (-1 if lives else 1)
    may = has_blobs and counts and follows and lives
    seen = view(at, has_blobs=has_blobs, counts=counts)
    assert own_step(OWNED, seen, now_s) == ("tell" if may else "nothing")
    assert begins_with(OWNED, seen, now_s) == ("own" if may else "tip")
    assert may_become_tip(OWNED, seen, now_s) == may


def test_it_waits_while_attestors_may_be_at_an_earlier_card_of_the_same_training() -> None:
    seen = view(waiting=(OUT, OWN))
    assert own_step(OWNED, seen, NOW + PATIENCE_S - 1) == "wait"
    assert own_step(OWNED, seen, NOW + PATIENCE_S + 1) == "tell"
    assert own_step(OWNED, seen, NOW - 1) == "tell"  # the clock was set back
    assert own_step(OWNED, view(waiting=(card(B, FIRST), OWN)), NOW) == "tell"  # another's holds nothing up
    assert begins_with(OWNED, seen, NOW) == "own"  # a new leadership trains on from it meanwhile


def test_it_is_signed_once_more_after_an_earlier_card_of_the_same_training_became_the_tip() -> None:
    assert own_step(OWNED, view(tip(OUT)), NOW) == "sign again"
    assert begins_with(OWNED, view(tip(OUT)), NOW) == "own"
    stranger = card(B, FIRST)
    assert own_step(OWNED, view(tip(stranger)), NOW) == "nothing"
    assert begins_with(OWNED, view(tip(stranger)), NOW) == "tip"
    assert own_step(OWNED, view(tip(OWN)), NOW) == "nothing"
    assert begins_with(OWNED, view(tip(OWN)), NOW) == "tip"


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": OUT.record.steps},  # nothing was learned since
        {"clips": OUT.record.clips},
        {"lowered": 1},  # it goes back, or another one went back meanwhile
        {"merged": "ab" * 32, "rounds": (BlobRef(id="03" * 32, size_bytes=1),), "full": FIRST.id},
    ],
)
def test_what_does_not_train_on_from_the_tip_is_not_signed_again_nor_gone_on_from(changed: Any) -> None:
    own = OwnCard(_changed(OWN, changed), OWNED.before)
    assert own_step(own, view(tip(OUT)), NOW) == "nothing"
    assert begins_with(own, view(tip(OUT)), NOW) == "tip"


def test_a_first_card_and_one_after_a_rest_are_gone_on_from() -> None:
    first = OwnCard(card(A, lowered=2))
    assert begins_with(first, OwnView(None, has_blobs=True), NOW) == "own"
    assert begins_with(OWNED, OwnView(None, has_blobs=True), NOW) == "tip"
    rested = card(A, lowered=RESTS)
    assert begins_with(OwnCard(card(A, rested)), view(tip(rested)), NOW) == "own"
    assert begins_with(OwnCard(card(A, rested, lowered=RESTS)), view(tip(rested)), NOW) == "tip"


MERGED = {"merged": "ab" * 32, "rounds": (BlobRef(id="03" * 32, size_bytes=1),), "full": FIRST.id}


def test_a_crews_round_is_merged_from_and_not_gone_on_from_though_it_may_become_the_tip() -> None:
    own = OwnCard(card(A, FIRST, **MERGED), frozenset({OUT.id}))
    assert may_become_tip(own, view(), NOW)
    assert begins_with(own, view(), NOW) == "tip"
    assert not may_become_tip(own, view(tip(OUT)), NOW)  # it was merged into another card's state


@pytest.mark.parametrize(
    ("since_s", "begins"),
    [(0.0, "wait"), (2 * PATIENCE_S - 1, "wait"), (2 * PATIENCE_S, "tip"), (-1.0, "tip")],
)
def test_nothing_trains_before_an_own_card_that_goes_back_is_the_tip_or_late(
    since_s: float, begins: BeginsWith
) -> None:
    back = OwnCard(card(A, FIRST, steps=5, clips=50, lowered=1))
    assert begins_with(back, view(), NOW + since_s) == begins
    assert begins_with(back, view(counts=False), NOW + since_s) == "tip"
    assert begins_with(back, view(has_blobs=False), NOW + since_s) == "tip"
    assert begins_with(back, view(tip(back.card)), NOW + since_s) == "tip"
    assert begins_with(back, view(tip(card(B, FIRST))), NOW + since_s) == "tip"
    assert not may_become_tip(back, view(), NOW + since_s)


def _changed(of: Envelope[CardRecord], fields: dict[str, Any]) -> Envelope[CardRecord]:
    return card(A, FIRST, **{"steps": of.record.steps, "clips": of.record.clips} | fields)
