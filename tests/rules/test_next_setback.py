"""When a lead goes back because its card was refused: on what it measured, on no one's word alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.records import CardRecord, RefusalRecord
from paris_p2p.rules.next_setback import (
    READ_S,
    Refused,
    SetbackView,
    next_setback,
    not_yet_said,
    way_back,
    words_of_refusal,
)
from paris_p2p.rules.rates import RESTS
from paris_p2p.rules.refusals import REASONS, WORSE
from tests.rules.made import NOW, PEERS, SLOT, A, B, C, D, card, tip

FIRST = card(A)
SECOND, NEWER = card(A, FIRST), card(A, FIRST, steps=30)
OTHERS = frozenset({B.peer_id, C.peer_id, D.peer_id})


def refusal(
    of: Envelope[CardRecord], by: Identity = D, reason: str = "loss", **more: Any
) -> Envelope[RefusalRecord]:
    head = {"run": of.record.run, "slot": SLOT, "seq": 2, "issued_at": NOW, "expires_at": NOW + 60}
    fields = {"epoch": 1, "card": of.id, "parent": of.record.parent, "reason": reason} | more
    return seal(by, RefusalRecord(**head, **fields))


def view(*refusals: Envelope[RefusalRecord], mine: Any = (SECOND,), quorum: int = 1) -> SetbackView:
    return SetbackView(mine, refusals, OTHERS, quorum)


def test_a_refused_card_is_measured_once_and_what_was_measured_decides() -> None:
    seen = view(refusal(SECOND))
    first = next_setback(Refused(), seen)
    assert (first.action, first.card) == ("measure", SECOND)
    assert next_setback(Refused().measured(SECOND.id, True, seen), seen).action == "go back"
    assert next_setback(Refused().measured(SECOND.id, False, seen), seen).action == "train on"


def test_of_several_cards_the_newest_is_measured() -> None:
    assert next_setback(Refused(), view(refusal(SECOND), mine=(SECOND, NEWER))).card is NEWER


def test_a_card_that_goes_out_while_another_is_measured_does_not_put_off_what_that_one_came_to() -> None:
    seen, then = view(refusal(SECOND)), view(refusal(SECOND), mine=(SECOND, NEWER))
    assert next_setback(Refused().measured(SECOND.id, True, seen), then).action == "go back"
    assert next_setback(Refused().measured(SECOND.id, False, seen), then).card is NEWER


def test_a_card_that_cannot_be_measured_counts_once_too_few_are_left_who_did_not_refuse_it() -> None:
    refusals = [refusal(SECOND, peer) for peer in (B, C, D)]
    unknown = Refused().measured(SECOND.id, None, view())
    assert next_setback(unknown, view(*refusals[:2])).action == "train on"
    assert next_setback(unknown, view(*refusals)).action == "go back"
    assert next_setback(unknown, view(*refusals[:2], quorum=2)).action == "go back"


@given(
    st.lists(st.tuples(st.sampled_from(PEERS), st.sampled_from([*REASONS, "madeup"])), max_size=12),
    st.booleans(),
)
def test_no_number_of_false_refusals_sends_a_lead_back_or_costs_it_a_second_check(
    made_up: list[tuple[Identity, str]], other_cards: bool
) -> None:
    mine = (SECOND, NEWER) if other_cards else (NEWER,)
    seen = view(*(refusal(NEWER, peer, reason) for peer, reason in made_up), mine=mine)
    state, checks = Refused(), 0
    for _ in range(3):
        decision = next_setback(state, seen)
        if decision.card is not None:
            checks += 1
            state = state.measured(decision.card.id, False, seen)
        assert decision.action != "go back"
    assert checks <= 1


@pytest.mark.parametrize("reason", [code for code in REASONS if code not in WORSE])
def test_a_refusal_for_what_was_not_measured_sends_nobody_back(reason: str) -> None:
    assert next_setback(Refused(), view(refusal(SECOND, reason=reason))).action == "train on"


def test_without_a_card_after_the_tip_nothing_is_measured() -> None:
    assert next_setback(Refused(), view(mine=())).action == "train on"


def test_each_reason_is_said_once_a_card_and_made_up_reasons_once_together() -> None:
    same = [refusal(SECOND, peer) for peer in (B, C)]
    made_up = [refusal(SECOND, D, f"madeup{letter}") for letter in "abcde"]
    seen = view(*same, *made_up)
    assert not_yet_said(Refused(), seen) == (same[0], made_up[0])
    assert not_yet_said(Refused().told(seen), seen) == ()


def test_what_was_said_and_measured_of_cards_before_the_tip_is_forgotten() -> None:
    before = view(refusal(SECOND))
    state = Refused().told(before).measured(SECOND.id, False, before)
    after = view(refusal(NEWER), mine=(NEWER,))
    state = state.told(after).measured(NEWER.id, True, after)
    assert {key[0] for key in state.said} == set(state.worse) == {NEWER.id}


def test_the_words_name_who_refused_what_and_the_figures_where_there_are_some() -> None:
    words = words_of_refusal(refusal(SECOND, B, loss=1.25, reference_loss=1.0))
    assert words == f"{B.peer_id[-8:]} refused {SLOT} seq 2: {REASONS['loss']}, 1.25 against 1"
    assert words_of_refusal(refusal(SECOND, B)).endswith(REASONS["loss"])


def test_refusals_are_read_again_after_a_while() -> None:
    assert Refused().read(100.0).read_due_s == 100.0 + READ_S


def test_without_a_tip_a_slot_begins_again_until_every_rate_was_tried() -> None:
    ways = [way_back(None, lowered) for lowered in range(RESTS)]
    assert ways == [*["to the beginning"] * (RESTS - 1), "give up"]
    assert way_back(tip(FIRST), RESTS) == "to the best"
