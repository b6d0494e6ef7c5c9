"""What stays on a peer's disk: the tip, the best, and what may yet follow; nothing that was refused or
overtaken.
"""

from __future__ import annotations

from paris_p2p.rules.keeping import WAITING_KEPT, cards_kept
from paris_p2p.rules.tips import Tip
from tests.rules.made import A, B, D, attest, card

FIRST = card(A)
SECOND = card(A, FIRST)
TIP = Tip(SECOND, (attest(D, SECOND, loss=1.04, best=FIRST.id),))


def test_the_tip_its_best_and_the_newest_waiting_cards_of_each_maker_stay() -> None:
    mine = [card(A, SECOND, steps=100 + number) for number in range(5)]
    theirs = card(B, SECOND)
    kept = cards_kept([FIRST, SECOND, theirs, *mine], TIP, (), ())
    assert kept == {FIRST.id, SECOND.id, theirs.id, *(one.id for one in mine[-WAITING_KEPT:])}


def test_what_this_peer_refused_goes_unless_another_attested_it() -> None:
    refused, split = card(A, SECOND), card(B, SECOND)
    kept = cards_kept([FIRST, SECOND, refused, split], TIP, {split.id}, {refused.id, split.id})
    assert kept == {FIRST.id, SECOND.id, split.id}


def test_an_older_waiting_card_that_was_attested_is_not_crowded_out_by_its_makers_newer_ones() -> None:
    waiting = [card(A, SECOND, steps=100 + number) for number in range(5)]
    assert waiting[0].id in cards_kept(waiting, TIP, {waiting[0].id}, ())


def test_an_overtaken_card_of_a_former_lead_goes() -> None:
    overtaken = card(B, FIRST, epoch=7)
    assert cards_kept([FIRST, SECOND, overtaken], TIP, {overtaken.id}, ()) == {FIRST.id, SECOND.id}


def test_before_there_is_a_tip_first_cards_stay() -> None:
    assert cards_kept([FIRST, SECOND], None, (), ()) == {FIRST.id}


def test_the_card_before_the_tip_stays_for_when_the_owner_takes_the_tip_back() -> None:
    third = card(A, SECOND)
    at_third = Tip(third, (attest(D, third),))
    assert cards_kept([FIRST, SECOND, third], at_third, (), ()) == {SECOND.id, third.id}
