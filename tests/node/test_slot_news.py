"""What a table says of a slot without a checkpoint."""

import pytest

from paris_p2p.node.slot_news import slot_news
from paris_p2p.spec import TimingSpec
from tests.rules.made import NOW, A, card, claim, tip

TIMING = TimingSpec(checkpoint_s=20.0)


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
    assert said in slot_news(lead, None, pending, NOW, TIMING)


def test_a_slot_that_goes_its_way_says_nothing():
    good = tip(card(A))
    assert slot_news(claim(A, claimed_at=NOW - 30), good, 1, NOW, TIMING) == ""
    assert "its tip stays" in slot_news(None, good, 0, NOW, TIMING)
    assert slot_news(None, good, 0, NOW, TIMING, done=True) == ""
