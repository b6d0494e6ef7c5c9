"""A held claim: renewed in time, published under up to a margin before its end, and new after it ran out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.rules.claims import decide_claim, is_live
from paris_p2p.rules.heard import CLOCK_SLACK_S
from paris_p2p.rules.holding import Holding, holding_of, renew_in_s
from tests.rules.made import NOW, TIMING, A, B, claim
from tests.rules.test_claims import view

CLOCK_S = 5000.0  # monotonic
MINE = claim(A)
HELD = holding_of(MINE.record, CLOCK_S)


def test_a_lead_stops_publishing_before_others_may_take_over() -> None:
    end_s = CLOCK_S + TIMING.claim_s
    assert Holding(epoch=1, claimed_at=NOW, issued_at=NOW, ends_s=end_s) == HELD
    assert HELD.may_publish(end_s - TIMING.margin_s - 0.1, TIMING.margin_s)
    assert not HELD.may_publish(end_s - TIMING.margin_s, TIMING.margin_s)
    assert is_live(MINE, None, NOW + TIMING.claim_s, TIMING)


def test_a_renewal_keeps_its_place_also_under_a_higher_epoch() -> None:
    renewing = HELD.renewing(7, NOW + 40, CLOCK_S + 40)
    assert (renewing.epoch, renewing.claimed_at, renewing.issued_at) == (7, NOW, NOW + 40)
    assert renewing.ends_s == HELD.ends_s, "until the others were told of it the old claim runs out"
    assert renewing.renewed(CLOCK_S + 160).ends_s == CLOCK_S + 160


def test_a_claim_that_ran_out_comes_back_as_a_new_one() -> None:
    again = HELD.renewing(1, NOW + 500, CLOCK_S + 500)
    assert again.claimed_at == again.issued_at == NOW + 500


def test_a_claim_is_renewed_at_a_third_of_its_length_just_when_the_rules_say_hold() -> None:
    third_s = TIMING.claim_s / 3
    assert renew_in_s(NOW, NOW + 10, TIMING) == third_s - 10
    assert renew_in_s(NOW, NOW + third_s, TIMING) == 0.0
    for late_s, action in ((-0.5, "train"), (0.0, "hold"), (20.0, "hold")):
        assert decide_claim(view([MINE]), A.peer_id, NOW + third_s + late_s).action == action


def test_a_clock_that_was_set_back_does_not_put_off_the_renewal() -> None:
    assert renew_in_s(NOW, NOW - CLOCK_SLACK_S - 1, TIMING) == 0.0
    assert renew_in_s(NOW, NOW - CLOCK_SLACK_S + 1, TIMING) > 0


@given(st.floats(40, 400), st.booleans())
def test_who_may_publish_is_never_displaced_by_a_newcomer_whose_clock_is_right(
    later_s: float, cut_off: bool
) -> None:
    held = HELD if cut_off else HELD.renewing(1, NOW + 40, CLOCK_S + 40).renewed(CLOCK_S + 160)
    newest = MINE if cut_off else claim(A, claimed_at=NOW, issued_at=NOW + 40)
    if held.may_publish(CLOCK_S + later_s, TIMING.margin_s):
        assert decide_claim(view([newest]), B.peer_id, NOW + later_s).action == "standby"
