"""How many cards an attestor checks, and how long its gate waits for the next."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.rules.gate_life import LEAST_IDLE_S, card_gap_s, gate_idle_s

COUNTS = st.integers(1, 300)


def test_an_attestor_checks_its_share_of_the_cards() -> None:
    assert card_gap_s(600.0, slots=4, quorum=1, attestors=1) == 150.0
    assert card_gap_s(600.0, slots=4, quorum=1, attestors=5) == 750.0
    assert card_gap_s(600.0, slots=4, quorum=5, attestors=10) == 300.0


def test_where_too_few_attest_each_checks_every_card_and_no_card_twice() -> None:
    assert card_gap_s(600.0, slots=4, quorum=3, attestors=2) == 150.0
    assert card_gap_s(600.0, slots=4, quorum=1, attestors=0) == 150.0
    assert card_gap_s(600.0, slots=0, quorum=1, attestors=1) == math.inf


@given(st.floats(1, 86400), COUNTS, COUNTS, COUNTS)
def test_all_attestors_together_check_each_card_as_often_as_it_needs(
    checkpoint_s: float, slots: int, quorum: int, attestors: int
) -> None:
    checks = attestors * checkpoint_s / card_gap_s(checkpoint_s, slots, quorum, attestors)
    assert math.isclose(checks, slots * min(quorum, attestors))


def test_a_gate_is_kept_between_cards_that_come_often_and_only_between_those() -> None:
    assert gate_idle_s(5.0) == LEAST_IDLE_S
    assert gate_idle_s(60.0) >= 2 * 60.0
    assert gate_idle_s(600.0) == LEAST_IDLE_S
    assert gate_idle_s(math.inf) == LEAST_IDLE_S


@given(st.floats(0.01, 1e6))
def test_a_gate_is_never_kept_for_long(gap_s: float) -> None:
    assert LEAST_IDLE_S <= gate_idle_s(gap_s) <= 300.0
