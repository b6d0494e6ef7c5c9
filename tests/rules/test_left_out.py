"""Which updates an attestor asks for that a lead left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paris_p2p.crew_records import MAX_REFUSED
from paris_p2p.envelope import Envelope
from paris_p2p.rules.left_out import disputed_updates, due_before_s
from paris_p2p.rules.round_checks import state_before
from paris_p2p.rules.rounds import HeardUpdate
from paris_p2p.rules.update_sizes import UPLOAD_SHARE, expected_bytes, step_for_line
from tests.rules.made import NOW, A, B, C, D, card
from tests.rules.made_rounds import CREW, RULES, chain, light_card, opened_round, update

ROUND_S = 400.0
SOLO = card(A)
BEFORE = state_before(SOLO, None)
CARD_S = NOW + 1000.0
EARLY_S = CARD_S - 600.0


def held(one: Envelope[Any], since_s: float = EARLY_S) -> HeardUpdate:
    return HeardUpdate(one.id, one.signer, one.record, since_s)


def asked_for(merged: list[Any], mine: list[HeardUpdate], me: str = D.peer_id, **more: Any) -> Any:
    one = opened_round(BEFORE, merged, **more)
    made = light_card(A, SOLO, [one], issued_at=CARD_S)
    found = disputed_updates(made, BEFORE, [one], mine, RULES, me=me, round_s=ROUND_S)
    return [(each.update.id, each.late, each.reason) for each in found]


OWN, OTHER = update(A, SOLO.id), update(B, SOLO.id)


def test_an_update_held_for_long_and_not_merged_is_asked_for() -> None:
    assert asked_for([OWN], [held(OTHER)]) == [(OTHER.id, 0, "")]
    assert asked_for([OWN, OTHER], [held(OTHER)]) == []


def test_a_lead_gets_half_a_round_to_fetch_it_and_one_and_a_half_for_the_attestors_own() -> None:
    made = light_card(A, SOLO, [opened_round(BEFORE, [OWN])], issued_at=CARD_S).record
    others_s, own_s = (due_before_s(made, ROUND_S, own=own) for own in (False, True))
    assert own_s < others_s < CARD_S - ROUND_S / 2
    assert own_s < CARD_S - 3 * ROUND_S / 2
    assert asked_for([OWN], [held(OTHER, others_s)]) == []
    assert asked_for([OWN], [held(OTHER, others_s - 1)]) != []
    assert asked_for([OWN], [held(OTHER, others_s - 1)], me=B.peer_id) == []
    assert asked_for([OWN], [held(OTHER, own_s - 1)], me=B.peer_id) != []


def test_a_lead_that_gets_an_update_as_its_makers_line_sends_it_is_not_refused_by_the_maker() -> None:
    """The slowest line that no coarser step is taken for: half a round a copy, and three fetch at once."""
    bytes_per_s = expected_bytes(CREW, 1 << 20, CREW.step) / (UPLOAD_SHARE * ROUND_S)
    assert step_for_line(CREW, ROUND_S, bytes_per_s, 1 << 20) == CREW.step
    all_three_have_it_s = 3 * expected_bytes(CREW, 1 << 20, CREW.step) / bytes_per_s
    mine = [held(OTHER, CARD_S - all_three_have_it_s)]
    assert asked_for([OWN], mine, me=B.peer_id) == []


def test_a_new_leads_first_card_is_asked_for_nothing() -> None:
    rules = replace(RULES, known={SOLO.id: SOLO})
    one = opened_round(BEFORE, [update(B, SOLO.id)])
    mine = [held(OWN)]
    for lead, asked in ((A, [OWN.id]), (B, [])):
        made = light_card(lead, SOLO, [one], issued_at=CARD_S)
        found = disputed_updates(made, BEFORE, [one], mine, rules, me=D.peer_id, round_s=ROUND_S)
        assert [each.update.id for each in found] == asked


@pytest.mark.parametrize(
    ("reason", "looked_into"),
    [("loss", "loss"), ("format", "format"), ("late", ""), ("counted", ""), ("stale", "")],
)
def test_reasons_that_the_records_disprove_count_as_none(reason: str, looked_into: str) -> None:
    refused = [(OTHER.id, OTHER.signer, reason)]
    assert asked_for([OWN], [held(OTHER)], refused=refused) == [(OTHER.id, 0, looked_into)]


@pytest.mark.parametrize(
    "wrong", [{"base": "0a" * 32}, {"clips": 51}, {"steps": 0, "clips": 0}], ids=["stale", "rate", "nothing"]
)
def test_what_cannot_count_is_not_asked_for(wrong: dict[str, Any]) -> None:
    assert asked_for([OWN], [held(update(B, SOLO.id, **wrong))]) == []


def test_who_has_another_update_in_the_round_waits_for_the_next() -> None:
    newer = update(B, SOLO.id, 50, seq=2)
    assert asked_for([OWN, newer], [held(OTHER)]) == []
    assert asked_for([OWN, OTHER], [held(newer)]) == []


def test_a_full_round_is_asked_only_for_those_who_contributed_before_its_newcomers() -> None:
    made = chain((A, B), A, 1)
    tip, last = made[-1]
    before = state_before(tip, last)
    rules = replace(RULES, crew=CREW.model_copy(update={"peers": 2}))
    known, strange = held(update(B, tip.id, 50)), held(update(C, tip.id))

    def asked(merged: list[Any]) -> set[str]:
        one = opened_round(before, merged)
        child = light_card(A, tip, [one], issued_at=CARD_S)
        mine = [known, strange]
        found = disputed_updates(child, before, [one], mine, rules, me=D.peer_id, round_s=ROUND_S)
        return {each.update.signer for each in found}

    newcomer = update(D, tip.id)
    assert asked([update(A, tip.id, 50), newcomer]) == {B.peer_id}
    assert asked([update(A, tip.id, 50), update(B, tip.id, 50)]) == set()
    assert asked([update(A, tip.id, 50)]) == {B.peer_id, C.peer_id}


def test_a_lead_that_names_made_up_updates_has_no_less_room_for_those_who_contributed() -> None:
    made_up = [(f"{number:064x}", D.peer_id, "format") for number in range(MAX_REFUSED)]
    assert asked_for([OWN], [held(OTHER)], refused=made_up) == []  # it is nobody yet
    known = replace(BEFORE, counted={A.peer_id: 0, B.peer_id: 0})
    one = opened_round(known, [OWN], made_up)
    made = light_card(A, SOLO, [one], issued_at=CARD_S)
    found = disputed_updates(made, known, [one], [held(OTHER)], RULES, me=D.peer_id, round_s=ROUND_S)
    assert [each.update.id for each in found] == [OTHER.id]
