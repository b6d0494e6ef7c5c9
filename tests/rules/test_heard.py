"""What readers remember of claims: a lie about the time gains nothing, and claims are worth what their
cards are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest

from paris_p2p.envelope import Envelope
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import ClaimView, decide_claim, has_room, lead_of, leads_of
from paris_p2p.rules.heard import MAX_DOUBLINGS, Heard, Spell, hear, hear_slot, patience_s
from paris_p2p.rules.tips import Tip
from paris_p2p.spec import TimingSpec
from tests.rules.made import may_publish

from .made import NOW, PEERS, SLOT, TIMING, A, B, C, card, claim, kept, tip

PATIENCE_S = 600.0
Heard_at = tuple[float, Envelope[ClaimRecord]]


def listened(arrivals: Sequence[Heard_at]) -> Heard:
    """What a reader heard that was there all the while."""
    heard, newest = Heard(PATIENCE_S), dict[str, Envelope[ClaimRecord]]()
    for now_s, one in arrivals:
        before = newest.get(one.signer)
        spells = dict(heard.spells)
        record = before.record if before else None
        spells[one.signer] = hear(spells.get(one.signer), one.record, record, now_s, heard, counts=True)
        newest[one.signer] = one
        heard = dataclasses.replace(heard, spells=spells, slot=hear_slot(heard.slot, spells, now_s))
    return heard


def renewed(peer: object, start_s: float, until_s: float, **more: float) -> list[Heard_at]:
    """A claim and its renewals, each heard at once."""
    every_s = TIMING.claim_s / 3
    claimed_at = more.get("claimed_at", start_s)
    times = [start_s + number * every_s for number in range(int((until_s - start_s) / every_s) + 1)]
    return [(at, claim(peer, claimed_at=claimed_at, issued_at=at)) for at in times]  # type: ignore[arg-type]


def view_of(arrivals: Sequence[Heard_at], at: Tip | None = None, until_s: float = math.inf) -> ClaimView:
    came = [arrival for arrival in arrivals if arrival[0] <= until_s]
    return ClaimView(SLOT, kept(one for _, one in came), at, TIMING, heard=listened(came))


def leads(view: ClaimView, now_s: float) -> list[str]:
    return [one.signer for one in leads_of(view.claims, view.tip, now_s, view.timing, view.heard)]


def test_a_claim_from_1970_counts_from_when_it_was_heard() -> None:
    view = view_of([(NOW, claim(A)), (NOW + 20, claim(B, claimed_at=1.0, issued_at=NOW + 20))])
    assert leads(view, NOW + 21) == [A.peer_id]
    assert decide_claim(view, A.peer_id, NOW + 21).action == "train"


def test_late_news_of_an_honest_claim_are_believed() -> None:
    arrivals = [(NOW + 3, claim(B, claimed_at=NOW + 3)), (NOW + 5, claim(A))]
    assert leads(view_of(arrivals), NOW + 6) == [A.peer_id]


def test_a_newcomer_that_first_reads_old_claims_waits_for_the_lead_it_did_not_expect() -> None:
    newcomer = view_of(
        [
            (NOW + 500, claim(A, issued_at=NOW + 490)),
            (NOW + 500, claim(B, claimed_at=1.0, issued_at=NOW + 480)),
        ]
    )
    assert decide_claim(newcomer, C.peer_id, NOW + 501).action == "standby"
    made = [may_publish(newcomer, card(peer, issued_at=NOW + 502), NOW + 502) for peer in (A, B)]
    assert sorted(made) == [False, True]  # one of them waits, and no longer than claims go without a tip:
    later = [
        *renewed(A, NOW + 500, NOW + 1200, claimed_at=NOW),
        *renewed(B, NOW + 500, NOW + 1200, claimed_at=1.0),
    ]
    late = view_of(sorted(later, key=lambda one: one[0]))
    assert all(may_publish(late, card(peer, issued_at=NOW + 1200), NOW + 1200) for peer in (A, B))


def test_who_holds_a_slot_for_a_patience_without_a_card_stands_behind_the_next() -> None:
    squatter = renewed(A, NOW, NOW + 1000)
    early, view = (view_of(squatter, until_s=NOW + PATIENCE_S + late_s) for late_s in (-1, 1))
    assert not has_room(early, B.peer_id, NOW + PATIENCE_S - 1)
    assert has_room(view, B.peer_id, NOW + PATIENCE_S + 1)
    decision = decide_claim(view, B.peer_id, NOW + PATIENCE_S + 1)
    assert decision.action == "claim"
    assert decision.epoch == 2  # beside the other's 1
    assert "has long brought no checkpoint" in decision.reason
    after = view_of([*squatter, (NOW + 1001, claim(B, epoch=2, claimed_at=NOW + 1001))])
    assert leads(after, NOW + 1002) == [B.peer_id, A.peer_id]


def test_a_slow_honest_lead_keeps_its_place_beside_the_one_that_came() -> None:
    view = view_of([*renewed(A, NOW, NOW + 640), (NOW + 650, claim(B, epoch=2, claimed_at=NOW + 650))])
    assert decide_claim(view, A.peer_id, NOW + 651).action in ("train", "hold")
    assert may_publish(view, card(A, issued_at=NOW + 660), NOW + 660)


def test_places_double_with_each_patience_until_claims_are_asked_of_nobody() -> None:
    heard = Heard(100.0, slot=Spell(NOW, NOW, NOW + 1e6))
    assert [heard.places(NOW + 100 * number + 1) for number in range(5)] == [1, 2, 4, 8, 16]
    assert not heard.is_open(NOW + 100 * MAX_DOUBLINGS - 1)
    assert heard.is_open(NOW + 100 * MAX_DOUBLINGS)
    view = ClaimView(SLOT, tuple(claim(peer) for peer in PEERS[1:]), None, TIMING, heard=heard)
    assert may_publish(view, card(A), NOW + 100 * MAX_DOUBLINGS + 1)


def test_releasing_and_coming_back_does_not_make_wasted_time_good_and_resting_does() -> None:
    held = renewed(A, NOW, NOW + 520)
    back = [
        *held,
        (NOW + 540, claim(A, issued_at=NOW + 540, released=True)),
        (NOW + 541, claim(A, claimed_at=NOW + 541)),
    ]
    assert listened(back).wasted(A.peer_id, NOW + 610) == 1
    rested_s = NOW + 541 + TIMING.claim_s + 4 * PATIENCE_S + 1
    assert listened([*back, (rested_s, claim(A, claimed_at=rested_s))]).wasted(A.peer_id, rested_s + 10) == 0


def test_an_incumbent_that_makes_no_more_tips_loses_its_place() -> None:
    made = tip(card(A, issued_at=NOW))
    sitting = renewed(A, NOW - 40, NOW + 1000, claimed_at=NOW - 40)
    challenger = (NOW + 700, claim(B, epoch=2, claimed_at=NOW + 700))
    view = view_of([*sitting, challenger], made)
    assert leads(view_of(sitting, made, NOW + 550), NOW + 550) == [A.peer_id]
    assert leads(view, NOW + 710)[0] == B.peer_id


def test_a_tip_of_its_maker_makes_all_it_held_before_good() -> None:
    spell = Spell(NOW, NOW, NOW + 900).proved(NOW + 700)
    assert (spell.held_s(NOW + 700), spell.held_s(NOW + 800), spell.since_s) == (0.0, 100.0, NOW)


def test_nobody_is_held_to_have_wasted_time_in_which_nobody_could_attest() -> None:
    heard = Heard(PATIENCE_S)
    spell = hear(None, claim(A).record, None, NOW, heard, counts=False)
    assert spell.held_s(NOW + 100) == 0.0


@pytest.mark.parametrize("pace_s", [0.0, 1e3, 1e9])
def test_patience_follows_what_has_to_be_moved_and_the_pace_of_the_tips_within_bounds(pace_s: float) -> None:
    timing = TimingSpec(checkpoint_s=600.0)
    least_s = patience_s(timing, 0)
    assert least_s >= 4 * 600
    assert patience_s(timing, 46 * 10**9) > 46e9 / 1e6  # 1.3 B parameters over a home line, both ways
    assert least_s <= patience_s(timing, 0, pace_s) <= 4 * least_s
    assert patience_s(timing, 0, 2000.0) == 4000.0


def test_with_nothing_heard_the_earliest_claim_leads_for_ever() -> None:
    lead = lead_of([claim(A, issued_at=NOW + 1e6)], None, NOW + 1e6 + 1, TIMING, Heard())
    assert lead is not None
    assert lead.signer == A.peer_id
