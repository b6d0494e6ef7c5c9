"""What a table says of a slot without a checkpoint."""

import pytest

from paris_p2p.node.slot_news import slot_news
from paris_p2p.rules.claims import ClaimView
from paris_p2p.rules.tips import Tip
from paris_p2p.spec import TimingSpec
from tests.rules.made import NOW, SLOT, A, card, claim, tip

TIMING = TimingSpec(checkpoint_s=20.0)


def seen(tip: Tip | None) -> ClaimView:
    return ClaimView(SLOT, (), tip, TIMING)


@pytest.mark.parametrize(
    ("lead", "pending", "said"),
    [
        (None, 0, "nobody leads it: it waits for a peer"),
        (claim(A, claimed_at=NOW - 30), 0, "claimed 30 s ago; its first checkpoint"),
        (claim(A, claimed_at=NOW - 30), 1, "waits until an attestor"),
        (None, 1, "waits until an attestor"),
    ],
)
def test_a_slot_without_a_checkpoint_says_what_it_waits_for(lead, pending, said):
    assert said in slot_news(seen(None), lead, pending, NOW)


def test_a_slot_that_goes_its_way_says_nothing():
    good = tip(card(A))
    assert slot_news(seen(good), claim(A, claimed_at=NOW - 30), 1, NOW) == ""
    assert "its tip stays" in slot_news(seen(good), None, 0, NOW)
    assert slot_news(seen(good), None, 0, NOW, done=True) == ""
