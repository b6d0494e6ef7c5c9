"""Claims: the same records decide alike everywhere, one lead at a time, and what a liar can and cannot do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import (
    EPOCH_GAP,
    ClaimView,
    decide_claim,
    epoch_to_publish,
    held_when_made,
    lead_of,
    next_epoch,
)
from paris_p2p.rules.tips import MAX_EPOCHS_AHEAD, Tip
from paris_p2p.spec import TimingSpec

from .made import NOW, PEERS, SLOT, TIMING, A, B, C, card, claim, kept, tip

offsets = st.floats(-200, 10, allow_nan=False)
some_claims = st.lists(
    st.builds(
        lambda peer, epoch, claimed, age, released: claim(
            peer, epoch, NOW + claimed, NOW + claimed + age, released=released
        ),
        st.sampled_from(PEERS),
        st.integers(0, 3),
        offsets,
        st.floats(0, 200),
        st.booleans(),
    ),
    max_size=8,
)
FIRST = card(A)
tips = st.sampled_from([None, tip(FIRST), tip(card(B, FIRST))])


def view(claims: Sequence[Envelope[ClaimRecord]], at: Tip | None = None, **more: Any) -> ClaimView:
    return ClaimView(SLOT, kept(claims), at, TIMING, **more)


@settings(max_examples=60, deadline=None)
@given(some_claims, tips, st.floats(-10, 200), st.randoms(use_true_random=False))
def test_the_order_of_records_changes_no_decision(
    claims: list[Envelope[ClaimRecord]], at: Tip | None, later: float, rng: random.Random
) -> None:
    shuffled = claims + claims[:2]
    rng.shuffle(shuffled)
    now = NOW + later
    assert lead_of(kept(claims), at, now, TIMING) == lead_of(kept(shuffled), at, now, TIMING)
    for peer in PEERS:
        assert decide_claim(view(claims, at), peer.peer_id, now) == decide_claim(
            view(shuffled, at), peer.peer_id, now
        )


@settings(max_examples=60, deadline=None)
@given(some_claims, tips, st.floats(-10, 200))
def test_at_most_one_peer_trains_and_only_the_lead(
    claims: list[Envelope[ClaimRecord]], at: Tip | None, later: float
) -> None:
    now = NOW + later
    busy = [
        p.peer_id
        for p in PEERS
        if decide_claim(view(claims, at), p.peer_id, now).action in ("train", "hold", "settle")
    ]
    lead = lead_of(kept(claims), at, now, TIMING)
    assert busy in ([], [lead.signer if lead else ""])


@given(st.permutations(PEERS), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_peers_claiming_at_the_same_moment_end_with_exactly_one_lead(
    peers: list[Identity], count: int
) -> None:
    claims = [claim(peer) for peer in peers[:count]]
    settled = NOW + TIMING.settle_s
    actions = [decide_claim(view(claims), peer.peer_id, settled).action for peer in peers[:count]]
    assert actions.count("train") == 1
    assert actions.count("yield") == count - 1


def test_the_earlier_claim_wins() -> None:
    lead = lead_of([claim(A, claimed_at=NOW + 1), claim(B)], None, NOW + 2, TIMING)
    assert lead is not None
    assert lead.signer == B.peer_id


def test_a_renewal_keeps_its_place_in_the_order() -> None:
    renewed = claim(A, claimed_at=NOW, issued_at=NOW + 100)
    lead = lead_of(
        [claim(B, claimed_at=NOW + 1, issued_at=NOW + 90), claim(A), renewed], None, NOW + 130, TIMING
    )
    assert lead == renewed


def test_a_claim_is_honoured_until_the_margin_after_its_expiry() -> None:
    held = [claim(A)]
    end = NOW + TIMING.claim_s
    assert lead_of(held, None, end + TIMING.margin_s - 0.1, TIMING) is not None
    assert lead_of(held, None, end + TIMING.margin_s, TIMING) is None


@pytest.mark.parametrize(
    "bad",
    [
        claim(A, released=True),
        claim(A, epoch=0),
        claim(A, epoch=1 + MAX_EPOCHS_AHEAD),
        claim(A, claimed_at=NOW + 4.0),
        claim(A, claimed_at=NOW + 1, issued_at=NOW),
        claim(A, expires_at=NOW + TIMING.claim_s + 60),
        claim(A, claimed_at=NOW - 126.0),
    ],
    ids=[
        "released",
        "epoch 0",
        "epoch far ahead",
        "from the future",
        "claimed after it was issued",
        "too long",
        "expired",
    ],
)
def test_a_claim_that_does_not_hold_is_passed_over(bad: Envelope[ClaimRecord]) -> None:
    assert lead_of([bad], None, NOW, TIMING) is None


@given(st.floats(1.7e9, 2e9), st.floats(2, 3600))
def test_a_claim_of_exactly_the_runs_length_holds_whatever_the_clock_shows(
    at: float, length_s: float
) -> None:
    timing = TimingSpec(claim_s=length_s)
    assert lead_of([claim(A, claimed_at=at, expires_at=at + length_s)], None, at, timing) is not None


def test_a_backdated_claim_cannot_displace_a_lead_that_made_the_tip() -> None:
    made = tip(card(A, issued_at=NOW + 50))
    mine = claim(A, epoch=1, claimed_at=NOW, issued_at=NOW + 90)
    liars = [
        claim(B, epoch=2, claimed_at=1.0, issued_at=NOW + 90),
        claim(C, epoch=1, claimed_at=1.0, issued_at=NOW + 90),
    ]
    assert lead_of([*liars, mine], made, NOW + 100, TIMING) == mine


def test_a_lead_that_lapsed_and_comes_back_stands_behind_its_successor() -> None:
    made = tip(card(A, issued_at=NOW + 50))
    successor = claim(B, epoch=2, claimed_at=NOW + 130)
    for epoch in (1, 2):
        back = claim(A, epoch=epoch, claimed_at=NOW + 140)
        assert lead_of([back, successor], made, NOW + 150, TIMING) == successor


def test_a_successors_tip_ends_every_claim_of_the_epoch_before() -> None:
    stale = claim(A, epoch=1, claimed_at=NOW)
    made = tip(card(B, FIRST))
    assert lead_of([stale], made, NOW + 1, TIMING) is None
    assert decide_claim(view([stale], made), A.peer_id, NOW + 1).action == "yield"


def test_who_lost_a_claim_to_its_own_later_one_is_not_told_of_a_stranger() -> None:
    stale = claim(A, epoch=1, claimed_at=NOW)
    words = {
        peer: decide_claim(view([stale], tip(card(peer, FIRST, epoch=2))), A.peer_id, NOW + 1).reason
        for peer in (A, B)
    }
    assert words[A] == "it went on under epoch 2, an earlier claim of this peer"
    assert words[B] == f"it went on under epoch 2, led by {B.peer_id[-8:]}"


def test_a_lead_that_died_without_a_card_uses_up_no_epoch() -> None:
    dead = claim(A, epoch=2, claimed_at=NOW)
    made = tip(card(C, issued_at=NOW - 500))
    late = NOW + TIMING.claim_s + TIMING.margin_s
    decision = decide_claim(view([dead], made), B.peer_id, late)
    assert (decision.action, decision.epoch) == ("claim", next_epoch(made)) == ("claim", 2)
    successor = claim(B, epoch=2, claimed_at=late)
    assert lead_of([dead, successor], made, late, TIMING) == successor


def test_a_successor_goes_above_every_epoch_that_attestors_used_up() -> None:
    made = tip(card(C, issued_at=NOW - 500))
    assert next_epoch(made, {1, 2}) == 3
    assert next_epoch(made, {3}) == 4  # above all of them: of epoch 2 this peer may not have heard
    late = view([], made, used=frozenset({2, 3}))
    assert decide_claim(late, B.peer_id, NOW).epoch == 4
    stale, successor = claim(A, epoch=2, claimed_at=NOW + 9), claim(B, epoch=4)
    assert lead_of([stale, successor], made, NOW + 10, TIMING) == successor


def test_invented_epochs_neither_run_away_nor_keep_an_honest_claim_from_holding() -> None:
    assert next_epoch(None, {(1 << 53) - 1, MAX_EPOCHS_AHEAD, 1}) == 2
    # every card a board keeps, as far apart as counts
    crowd = {1 + number * (1 + EPOCH_GAP) for number in range(128)}
    highest = next_epoch(None, crowd)
    assert highest < MAX_EPOCHS_AHEAD
    assert lead_of([claim(A, epoch=highest)], None, NOW, TIMING) is not None
    assert next_epoch(None, range(2 * MAX_EPOCHS_AHEAD)) == MAX_EPOCHS_AHEAD


def test_a_new_lead_claims_no_epoch_below_the_floor_that_a_card_taken_back_left() -> None:
    made = tip(card(A))
    assert next_epoch(made, {1, 2}, floor=9) == 9
    assert next_epoch(made, {9}, floor=9) == 10  # and above what attestors are bound to
    assert next_epoch(made, floor=1) == 2  # a low floor changes nothing
    far = 10 * MAX_EPOCHS_AHEAD  # who made the cards that were taken back chose their epochs
    assert next_epoch(made, floor=far) == far
    assert next_epoch(made, {far}, floor=far) == far + 1
    assert epoch_to_publish(far, (), made, {far: {"a"}}, far) == far + 1
    decision = decide_claim(view([], made, floor=9), A.peer_id, NOW)
    assert (decision.action, decision.epoch) == ("claim", 9)


def test_a_sitting_lead_leaves_a_place_that_is_used_up_and_only_then() -> None:
    made = tip(FIRST)
    assert epoch_to_publish(1, {"a"}, made, {}) == 1
    assert epoch_to_publish(1, {"a"}, made, {2: {"b"}}) == 1  # not its place
    # a newcomer attests that one, and all goes on after it
    assert epoch_to_publish(1, {"a", "c"}, made, {1: {"a"}}) == 1
    assert epoch_to_publish(1, {"a", "c"}, made, {1: {"a", "c"}}) == 2
    assert epoch_to_publish(2, {"a"}, made, {2: {"b"}, 3: {"d"}}) == 4
    assert epoch_to_publish(100, {"a"}, made, {100: {"b"}}) == 101
    ends = 1 + MAX_EPOCHS_AHEAD
    assert epoch_to_publish(ends, {"a"}, made, {ends: {"b"}}) == ends


def test_a_lead_that_goes_to_a_higher_epoch_keeps_its_place_among_the_claims() -> None:
    made = tip(card(A, issued_at=NOW + 50))
    moved = claim(A, epoch=3, claimed_at=NOW, issued_at=NOW + 60)
    later = claim(B, epoch=2, claimed_at=NOW + 55)
    assert lead_of([later, moved], made, NOW + 70, TIMING) == moved
    assert decide_claim(view([later, moved], made), A.peer_id, NOW + 70).action == "train"


def test_a_card_was_made_under_a_claim_if_its_makers_newest_says_so() -> None:
    renewed = kept([claim(A), claim(A, claimed_at=NOW, issued_at=NOW + 40)])
    ends = NOW + 40 + TIMING.claim_s
    assert held_when_made(card(A, issued_at=NOW), renewed)
    assert held_when_made(card(A, issued_at=ends), renewed)
    assert not held_when_made(card(A, issued_at=ends + 1), renewed)
    assert not held_when_made(card(A, issued_at=NOW - 1), renewed)
    assert not held_when_made(card(B, issued_at=NOW), renewed)


def test_the_life_of_a_claim() -> None:
    mine, me = claim(A), A.peer_id
    assert decide_claim(view([]), me, NOW).action == "claim"
    assert decide_claim(view([mine]), me, NOW + 1).action == "settle"
    assert decide_claim(view([mine]), me, NOW + 5).action == "train"
    assert decide_claim(view([mine]), me, NOW + 40).action == "hold"
    assert decide_claim(view([mine], wanted=False), me, NOW + 40).action == "release"
    assert decide_claim(view([mine]), me, NOW + 120).action == "claim"
    assert decide_claim(view([], wanted=False), me, NOW).action == "standby"
    assert decide_claim(view([mine]), B.peer_id, NOW + 124).action == "standby"
    assert decide_claim(view([mine]), B.peer_id, NOW + 125).action == "claim"
    assert decide_claim(view([claim(A, released=True)]), B.peer_id, NOW).action == "claim"


def test_a_decision_says_who_and_which_epoch() -> None:
    reason = decide_claim(view([claim(A)]), B.peer_id, NOW + 1).reason
    assert A.peer_id[-8:] in reason
    assert "epoch 1" in reason
