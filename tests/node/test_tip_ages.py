"""Ages by the monotonic clock where this machine's other one was set."""

from __future__ import annotations

from paris_p2p.node.tip_ages import TipAges
from tests.rules.made import NOW, SLOT, A, card, tip


def test_a_tip_grows_old_also_where_the_clock_was_set_back() -> None:
    ages, first = TipAges(), tip(card(A))
    assert ages.age_s(SLOT, first, NOW + 10.0, 1000.0) == 10.0
    day_s = 86400.0
    assert ages.age_s(SLOT, first, NOW + 70.0 - day_s, 1060.0) == 60.0
    assert ages.age_s(SLOT, first, NOW + 4000.0 - day_s, 4990.0) == 3990.0
    following = tip(card(A, first.card))
    assert ages.age_s(SLOT, following, NOW - day_s, 5000.0) == 0.0
    assert ages.age_s(SLOT, following, NOW - day_s + 7.0, 5007.0) == 7.0
