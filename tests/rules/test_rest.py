"""When a slot trains on more slowly, when it rests and when that ends: the same answer on every peer, and
on no one's word alone.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.envelope import seal
from paris_p2p.records import MAX_LOWERED, RefusalRecord
from paris_p2p.rules.rates import RESTS, lowered_after, lowered_again, rate_factor
from paris_p2p.rules.refusals import REASONS, WORSE, code_of, words_of
from paris_p2p.rules.rest import (
    MAX_REST_S,
    goes_back,
    is_back_at,
    is_backed,
    refusal_counts,
    rests,
    rests_until_s,
    tolerance_after,
)
from paris_p2p.rules.tips import Tip, refuse_card
from tests.rules.made import NOW, RUN, SLOT, TIMING, A, B, D, attest, card, tip

FIRST = card(A)
SECOND = card(A, FIRST)


def resting(lowered: int = RESTS, issued_at: float = NOW) -> Tip:
    return tip(card(A, FIRST, lowered=lowered, steps=5, issued_at=issued_at))


def test_every_peer_computes_the_same_rate_and_none_is_left_at_the_end() -> None:
    assert [rate_factor(lowered) for lowered in range(RESTS)] == pytest.approx([1.0, 0.3, 0.09, 0.027])
    assert [lowered_after(lowered) for lowered in range(RESTS + 2)] == [0, 1, 2, 3, 0, 0]
    assert lowered_again(MAX_LOWERED) == MAX_LOWERED


def test_a_card_that_goes_back_may_count_no_steps_more_and_no_other_may() -> None:
    back = card(A, SECOND, lowered=1, steps=10, clips=100)
    assert goes_back(back.record, tip(SECOND))
    assert is_back_at(back.record, FIRST.record)
    assert not is_back_at(back.record, SECOND.record)
    assert not is_back_at(back.record.model_copy(update={"notices": 1}), FIRST.record)
    assert refuse_card(back, tip(SECOND), A.peer_id, None, D.peer_id) is None
    assert (
        refuse_card(card(A, SECOND, steps=10, clips=100), tip(SECOND), A.peer_id, None, D.peer_id)
        == REASONS["steps"]
    )


@pytest.mark.parametrize(
    ("tips", "cards"), [(0, 2), (1, 0), (2, 1), (RESTS, 1), (RESTS, RESTS), (RESTS, RESTS + 2)]
)
def test_a_rate_that_does_not_follow_the_tips_is_refused(tips: int, cards: int) -> None:
    last = tip(card(A, FIRST, lowered=tips))
    made = card(A, last.card, lowered=cards)
    assert refuse_card(made, last, A.peer_id, None, D.peer_id) == REASONS["rate"]


def test_a_slot_without_a_lower_rate_rests_and_one_checkpoint_is_tried_after_longer_rests() -> None:
    assert rests_until_s(None, TIMING) == rests_until_s(tip(card(A, FIRST, lowered=RESTS - 1)), TIMING) == 0.0
    lengths = [rests_until_s(resting(lowered), TIMING) - NOW for lowered in range(RESTS, RESTS + 4)]
    assert lengths == [min(lengths[0] * 2**doubled, MAX_REST_S) for doubled in range(4)]
    assert lengths[0] == 24 * TIMING.checkpoint_s
    assert lengths[1] > lengths[0]
    now = rests_until_s(resting(), TIMING)
    assert rests(resting(), now - 1, TIMING)
    assert not rests(resting(), now, TIMING)


def test_a_lead_that_makes_bad_cards_on_purpose_stops_a_slot_for_a_day_at_most_or_for_24_intervals() -> None:
    longest = [rests_until_s(resting(lowered), TIMING) - NOW for lowered in range(RESTS, MAX_LOWERED + 1)]
    assert max(longest) == longest[-1] == 86400.0
    slow = TIMING.model_copy(update={"checkpoint_s": 7200.0})
    assert rests_until_s(resting(MAX_LOWERED), slow) - NOW == 24 * 7200.0


def test_a_date_in_the_future_makes_no_rest_longer() -> None:
    assert rests_until_s(resting(issued_at=NOW + 1e9), TIMING) == rests_until_s(resting(), TIMING)


def test_the_owners_word_or_new_data_ends_a_rest_that_began_before() -> None:
    assert not rests(resting(), NOW + 2, TIMING, woken_at_s=NOW + 1)
    assert rests(resting(), NOW + 2, TIMING, woken_at_s=NOW - 1)


def test_what_a_card_may_lose_shrinks_with_the_rate_and_after_a_rest_only_something_better_counts() -> None:
    allowed = [tolerance_after(tip(card(A, FIRST, lowered=lowered)), 0.05) for lowered in range(RESTS + 2)]
    assert allowed == pytest.approx([0.05, 0.015, 0.0045, 0.00135, 0, 0])
    assert tolerance_after(None, 0.05) == 0.05


def refusal(of: str, reason: str) -> RefusalRecord:
    head = {"run": RUN, "slot": SLOT, "seq": 1, "issued_at": NOW, "expires_at": NOW + 60}
    return RefusalRecord(**head, epoch=1, card="cd" * 32, parent=of, reason=reason)


def test_an_attestor_signs_a_card_that_goes_back_only_after_it_measured_a_worse_one_itself() -> None:
    last = tip(SECOND)
    assert is_backed(last, [seal(D, refusal(SECOND.id, "loss"))])
    assert not is_backed(last, [])
    assert not is_backed(last, [seal(D, refusal(SECOND.id, "malformed"))])
    assert not is_backed(last, [seal(D, refusal(FIRST.id, "loss"))])


def test_what_a_lead_measured_decides_however_many_refuse() -> None:
    everybody = {"a", "b", "c"}
    assert refusal_counts(True, {"a"}, everybody, 1)
    assert not refusal_counts(False, everybody, everybody, 1)
    assert not refusal_counts(None, {"a", "b"}, everybody, 1)  # the third may attest it
    assert refusal_counts(None, everybody, everybody, 1)
    assert refusal_counts(None, {"a", "b"}, everybody, 2)  # two are needed, one is left
    assert not refusal_counts(None, {"x", "y", "z"}, everybody, 1)  # keys nobody knows
    assert not refusal_counts(None, {"x"}, set(), 1)


@given(st.text(max_size=30))
def test_words_and_codes_go_together_and_an_unknown_code_is_said_to_be_one(code: str) -> None:
    assert all(code_of(words) == known for known, words in REASONS.items())
    assert set(WORSE) <= set(REASONS)
    assert code_of(code) in REASONS
    assert words_of(code) == REASONS.get(code, words_of(code))


def test_another_attested_tip_ends_a_rest() -> None:
    better = card(B, resting().card, epoch=2, steps=500, clips=5000)
    assert refuse_card(better, resting(), B.peer_id, None, D.peer_id) is None
    assert not rests(Tip(better, (attest(D, better),)), NOW, TIMING)
