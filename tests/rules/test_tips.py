"""Tips: a quorum makes a card the tip, in any order of records; what an attestor refuses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.records import AttestationRecord, CardRecord
from paris_p2p.rules.rates import lowered_again
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.tips import (
    MAX_EPOCHS_AHEAD,
    Age,
    epochs_used,
    impossible,
    may_replace,
    parent_may_come,
    refuse_card,
    refuse_loss,
    tip_of,
)

from .made import PEERS, A, B, C, D, attest, card, tip

FIRST = card(A)
SECOND = card(A, FIRST)
FORK = card(A, FIRST, clips=150)
HANDED_OVER = card(B, FIRST)
CARDS = (FIRST, SECOND, FORK, HANDED_OVER)


def anyone(_: str) -> bool:
    return True


def tip_id(
    cards: list[Envelope[CardRecord]], attestations: list[Envelope[AttestationRecord]], quorum: int = 1
) -> str:
    found = tip_of(cards, attestations, anyone, quorum)
    return found.card.id if found else ""


some_attestations = st.lists(
    st.builds(attest, st.sampled_from(PEERS), st.sampled_from(CARDS), st.sampled_from([0.5, 1.0, 2.0])),
    max_size=10,
)


@settings(max_examples=60, deadline=None)
@given(some_attestations, st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_order_of_records_changes_no_tip(
    attestations: list[Envelope[AttestationRecord]], quorum: int, rng: random.Random
) -> None:
    cards, shuffled = list(CARDS), list(attestations)
    rng.shuffle(cards)
    rng.shuffle(shuffled)
    found = tip_of(CARDS, attestations, anyone, quorum)
    again = tip_of(cards, shuffled, anyone, quorum)
    assert found == again
    if found is not None and again is not None:
        assert found.best == again.best


@settings(max_examples=60, deadline=None)
@given(some_attestations, st.integers(1, 3))
def test_a_tip_always_has_a_quorum_of_others(
    attestations: list[Envelope[AttestationRecord]], quorum: int
) -> None:
    found = tip_of(CARDS, attestations, anyone, quorum)
    if found is not None:
        assert (
            len({a.signer for a in found.attestations} - {found.card.signer})
            == len(found.attestations)
            >= quorum
        )


def test_the_highest_epoch_then_seq_is_the_tip() -> None:
    third = card(A, SECOND)
    assert tip_id([FIRST, SECOND, third], [attest(C, FIRST), attest(C, SECOND), attest(C, third)]) == third.id
    assert tip_id([*CARDS, third], [attest(C, third), attest(C, HANDED_OVER)]) == HANDED_OVER.id


def test_two_cards_in_one_place_are_decided_by_the_smallest_id() -> None:
    assert tip_id(list(CARDS), [attest(C, SECOND), attest(D, FORK)]) == min(SECOND.id, FORK.id)


def test_the_quorum_counts_signers_not_signatures() -> None:
    twice = [attest(C, FIRST, 1.0), attest(C, FIRST, 0.5)]
    assert tip_id([FIRST], twice, quorum=2) == ""
    assert tip_id([FIRST], [*twice, attest(D, FIRST)], quorum=2) == FIRST.id


@pytest.mark.parametrize(
    "attestation",
    [
        attest(A, FIRST),
        attest(C, FIRST, slot="expert-1"),
        attest(C, FIRST, epoch=2),
        attest(C, FIRST, seq=2),
        attest(C, FIRST, card="ff" * 32),
    ],
    ids=["its own signer's", "another slot's", "another epoch's", "another seq's", "another card's"],
)
def test_an_attestation_that_does_not_fit_the_card_counts_for_nothing(
    attestation: Envelope[AttestationRecord],
) -> None:
    assert tip_id([FIRST], [attestation]) == ""
    assert tip_id([FIRST], [attestation, attest(C, FIRST)]) == FIRST.id


def test_strangers_have_no_weight_however_many_they_are() -> None:
    allowed: Callable[[str], bool] = {D.peer_id}.__contains__
    crowd = [attest(peer, HANDED_OVER) for peer in PEERS if peer not in (B, D)]
    found = tip_of(CARDS, [*crowd, attest(D, FIRST)], allowed, 1)
    assert found is not None
    assert found.card == FIRST


def test_the_best_card_is_what_the_attestor_with_the_lowest_loss_says() -> None:
    found = tip_of(
        [SECOND], [attest(C, SECOND, 2.0, best=SECOND.id), attest(D, SECOND, 1.0, best=FIRST.id)], anyone, 1
    )
    assert found is not None
    assert found.best == FIRST.id


def test_a_card_that_follows_the_tip_is_not_refused() -> None:
    assert refuse_card(FIRST, None, A.peer_id, None, D.peer_id) is None
    assert refuse_card(SECOND, tip(FIRST), A.peer_id, None, D.peer_id) is None
    assert refuse_card(SECOND, tip(FIRST), A.peer_id, SECOND.id, D.peer_id) is None
    assert refuse_card(HANDED_OVER, tip(FIRST), B.peer_id, None, D.peer_id) is None
    led_again = card(A, FIRST, epoch=2)
    assert refuse_card(led_again, tip(FIRST), A.peer_id, None, D.peer_id) is None


@pytest.mark.parametrize(
    ("child", "known", "may_come"),
    [
        (card(A, SECOND), [FIRST, SECOND], True),  # the parent lies after the tip, and lacks its quorum here
        (card(A, SECOND), [FIRST], True),  # nobody told this peer of the parent yet
        (SECOND, [FIRST], False),  # it follows the tip
        (card(B, epoch=9), [FIRST], False),  # a beginning, where there is a tip
    ],
)
def test_a_parent_that_is_unknown_or_waits_may_become_the_tip(
    child: Envelope[CardRecord], known: list[Envelope[CardRecord]], may_come: bool
) -> None:
    assert parent_may_come(child.record, tip(FIRST), {one.id: one for one in known}) is may_come


def test_a_parent_that_was_overtaken_never_becomes_the_tip() -> None:
    known = {one.id: one for one in (FIRST, SECOND)}
    late = card(B, FIRST, epoch=9)
    assert not parent_may_come(late.record, tip(SECOND), known)
    assert refuse_card(late, tip(SECOND), B.peer_id, None, D.peer_id) == "its parent is not the tip"
    assert parent_may_come(SECOND.record, None, {FIRST.id: FIRST})  # a peer that knows no tip yet


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (card(A, FIRST, parent="cc" * 32), "its parent is not the tip"),
        (card(A), "its parent is not the tip"),
        (card(A, FIRST, seq=3), "its seq does not follow the tip's"),
        (card(A, FIRST, seq=1), "its seq does not follow the tip's"),
        (card(A, FIRST, epoch=2 + MAX_EPOCHS_AHEAD), "its epoch does not follow the tip's"),
        (card(A, FIRST, epoch=0), "its epoch does not follow the tip's"),
        (card(A, FIRST, steps=10), "it counts no more steps or clips than its parent"),
        (card(A, FIRST, clips=100), "it counts no more steps or clips than its parent"),
    ],
)
def test_a_card_out_of_its_place_is_refused(bad: Envelope[CardRecord], reason: str) -> None:
    assert refuse_card(bad, tip(FIRST), A.peer_id, None, D.peer_id) == reason


def test_a_new_lead_must_raise_the_epoch_and_a_first_card_starts_at_one() -> None:
    assert (
        refuse_card(card(B, FIRST, epoch=1), tip(FIRST), B.peer_id, None, D.peer_id)
        == "its epoch does not follow the tip's"
    )
    assert (
        refuse_card(card(A, epoch=0), None, A.peer_id, None, D.peer_id)
        == "its epoch does not follow the tip's"
    )
    assert (
        refuse_card(card(A, seq=2), None, A.peer_id, None, D.peer_id) == "its seq does not follow the tip's"
    )


def test_only_the_lead_and_only_others_are_attested() -> None:
    assert refuse_card(SECOND, tip(FIRST), B.peer_id, None, D.peer_id) == "its signer did not hold the claim"
    assert refuse_card(SECOND, tip(FIRST), "", None, D.peer_id) == "its signer did not hold the claim"
    assert refuse_card(SECOND, tip(FIRST), A.peer_id, None, A.peer_id) == "it is this peer's own"


def test_a_card_whose_training_knew_fewer_notices_than_the_tips_is_refused_unless_it_goes_back() -> None:
    last = tip(card(A, FIRST, steps=10, clips=100, notices=3))
    for notices, reason in ((2, REASONS["notices"]), (3, None), (4, None)):
        made = card(A, last.card, steps=20, clips=200, notices=notices)
        assert refuse_card(made, last, A.peer_id, None, D.peer_id) == reason
    back = card(A, last.card, steps=5, clips=50, lowered=lowered_again(0))
    assert refuse_card(back, last, A.peer_id, None, D.peer_id) is None


def test_a_second_card_for_one_place_is_refused() -> None:
    assert (
        refuse_card(FORK, tip(FIRST), A.peer_id, SECOND.id, D.peer_id)
        == "another card was signed for this place"
    )


@pytest.mark.parametrize("maker", [A, B])
def test_past_a_used_up_place_a_lead_may_go_to_a_higher_epoch(maker: Identity) -> None:
    moved = card(maker, FIRST, epoch=4)
    assert refuse_card(moved, tip(FIRST), maker.peer_id, None, D.peer_id) is None
    assert tip_id([*CARDS, moved], [attest(C, SECOND), attest(D, HANDED_OVER), attest(D, moved)]) == moved.id


def test_a_place_is_used_up_by_what_allowed_attestors_signed_of_known_cards() -> None:
    def used(*attestations: Envelope[AttestationRecord]) -> dict[int, frozenset[str]]:
        return dict(epochs_used(CARDS, attestations, {C.peer_id, D.peer_id}.__contains__, tip(FIRST)))

    assert used(attest(C, SECOND), attest(D, FORK)) == {1: frozenset({SECOND.id, FORK.id})}
    assert used(attest(C, HANDED_OVER), attest(D, HANDED_OVER)) == {2: frozenset({HANDED_OVER.id})}
    assert used(attest(A, HANDED_OVER), attest(B, SECOND)) == {}  # strangers
    assert used(attest(C, card(A, FIRST, epoch=2000))) == {}  # of a card nobody has
    # of another place than the card's, of the tip
    assert used(attest(C, SECOND, epoch=2000), attest(C, FIRST)) == {}


@pytest.mark.parametrize(
    "stale", [card(A, FIRST), card(A, SECOND), card(A, FIRST, epoch=2), card(A, FIRST, epoch=9)]
)
def test_a_stale_leads_card_fails_once_its_successor_has_a_tip(stale: Envelope[CardRecord]) -> None:
    for lead in (A, B):
        assert refuse_card(stale, tip(HANDED_OVER), lead.peer_id, None, D.peer_id) is not None


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([A, B]), st.integers(0, 3), st.integers(0, 4), st.sampled_from([None, *CARDS]))
def test_whatever_is_attested_extends_the_tip(
    peer: Identity, epoch: int, seq: int, parent: Envelope[CardRecord] | None
) -> None:
    made = card(peer, parent, epoch=epoch, seq=seq)
    now = tip(SECOND)
    if refuse_card(made, now, peer.peer_id, None, D.peer_id) is None:
        assert tip_id([*CARDS, made], [attest(D, SECOND), attest(D, made)]) == made.id


def test_a_loss_beyond_the_tolerance_is_refused() -> None:
    assert refuse_loss(1.05, 1.0, 0.05, first=False) is None
    assert refuse_loss(1.06, 1.0, 0.05, first=False) == "its held-out loss is worse than the lineage's best"
    assert refuse_loss(1.5, 1.0, 0.05, first=True) is None
    assert refuse_loss(1.51, 1.0, 0.05, first=True) is not None


@pytest.mark.parametrize(
    ("loss", "reference"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, math.inf), (1.0, math.inf)]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_loss_that_is_not_finite_is_refused(loss: float, reference: float, first: bool) -> None:
    assert refuse_loss(loss, reference, 0.05, first=first) == "its held-out loss is not finite"


@pytest.mark.parametrize(("loss", "reference"), [(2e6, 2e6), (1.0, 2e6)])
def test_a_loss_that_no_record_can_say_is_refused_not_signed(loss: float, reference: float) -> None:
    assert (
        refuse_loss(loss, reference, 0.05, first=False) == "its held-out loss is larger than a record can say"
    )


TOP = (1 << 53) - 1
DAY = Age(86400.0, 600.0)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"seq": TOP, "epoch": TOP}, "its seq is more than the run's age allows"),
        ({"seq": 0}, "its seq is more than the run's age allows"),
        ({"seq": DAY.cards + 1}, "its seq is more than the run's age allows"),
        ({"seq": 2, "epoch": 2 * MAX_EPOCHS_AHEAD + 1}, "its epoch is more than its seq allows"),
        ({"steps": TOP}, "it counts more steps or clips than the run's age allows"),
        ({"clips": TOP}, "it counts more steps or clips than the run's age allows"),
    ],
)
def test_numbers_that_no_lineage_can_have_reached_are_refused_whoever_signed_them(
    numbers: dict[str, int], reason: str
) -> None:
    assert impossible(card(A, **numbers).record, DAY) == reason


def test_what_honest_leads_make_is_possible_in_a_young_run_an_old_one_and_with_many_leads() -> None:
    assert impossible(FIRST.record, Age(-2.0, 600.0)) is None  # the owner's clock is a little ahead
    # leads that hand over at once
    assert impossible(card(A, seq=60, epoch=60).record, Age(60.0, 600.0)) is None
    year = Age(365 * 86400.0, 600.0)
    assert impossible(card(A, seq=2 * 52_560, epoch=9000, steps=10**9, clips=10**12).record, year) is None
    ages = Age(4e9, 1.0)  # whatever passes leaves room to go on
    assert MAX_EPOCHS_AHEAD * ages.cards < TOP / 4


def test_a_peer_that_was_here_accepts_no_leap_and_one_that_was_away_what_the_swarm_got_meanwhile() -> None:
    here, away = Age(60.0, 600.0), Age(30 * 86400.0, 600.0)
    month_later = card(B, FIRST, seq=4000, epoch=300).record
    assert may_replace(month_later, tip(FIRST), away)
    assert not may_replace(month_later, tip(FIRST), here)
    assert may_replace(month_later, None, here)  # a newcomer has the run's age alone
    assert may_replace(SECOND.record, tip(FIRST), Age(0.0, 600.0))
    # a higher epoch, from one card further back
    assert may_replace(HANDED_OVER.record, tip(SECOND), Age(0.0, 600.0))
    assert not may_replace(card(B, FIRST, epoch=2 + MAX_EPOCHS_AHEAD).record, tip(FIRST), away)


@given(st.integers(0, TOP), st.integers(0, TOP), st.floats(0, 4e9), st.floats(1, 86400))
@settings(max_examples=60, deadline=None)
def test_whatever_passes_can_be_followed_by_a_card_of_the_next_lead(
    seq: int, epoch: int, age_s: float, every_s: float
) -> None:
    run = Age(age_s, every_s)
    seq, epoch = seq % (2 * run.cards), epoch % (2 * MAX_EPOCHS_AHEAD * max(1, seq))
    made = card(A, seq=seq, epoch=epoch)
    if impossible(made.record, run) is None:
        assert card(B, made, seq=seq + 1, epoch=epoch + MAX_EPOCHS_AHEAD).record.epoch < 1 << 53
