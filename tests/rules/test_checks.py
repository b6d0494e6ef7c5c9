"""Which card an attestor checks next: the lead's first, and one reading of the board for whatever a flood
brings.
"""

from __future__ import annotations

from dataclasses import replace

from paris_p2p.rules.checks import (
    NO_PLACE,
    Candidate,
    is_held_up,
    read_every_s,
    triage,
    turn_s,
    yields_to,
)
from paris_p2p.rules.tips import NO_CLAIM, NO_PARENT

from .made import PEERS, A, card

LEADS = Candidate(card(A), came_s=10.0, place=0)
FLOOD = [
    Candidate(
        card(peer, epoch=2000 + number), came_s=5.0 + number, place=NO_PLACE, objection=NO_CLAIM, attested=9
    )
    for number, peer in enumerate(PEERS[1:])
]


def test_the_leads_card_comes_first_whatever_epochs_and_signatures_others_bring() -> None:
    rival = Candidate(card(PEERS[1], epoch=2000), came_s=1.0, place=NO_PLACE, attested=50)
    assert triage([rival, *FLOOD, LEADS], 0.0).check == (LEADS, rival)


def test_a_card_that_cannot_be_had_does_not_hold_up_the_others() -> None:
    missing, second = replace(LEADS, failed=1), Candidate(card(PEERS[1]), came_s=1.0, place=1)
    assert triage([missing, second], 0.0).check == (second, missing)
    assert yields_to(second, replace(LEADS, card=card(PEERS[2])))
    assert not yields_to(second, missing)


def test_of_one_leads_cards_the_one_that_lacks_least_comes_first() -> None:
    half = replace(LEADS, card=card(A, steps=1000), attested=1)
    assert triage([LEADS, half], 0.0).check == (half, LEADS)


def test_one_reading_answers_for_every_card_that_came_before_it() -> None:
    assert triage(FLOOD, 0.0).unread
    assert triage(FLOOD, 0.0).put_off == triage(FLOOD, 0.0).refuse == ()
    read = triage([*FLOOD, LEADS], 20.0)
    assert not read.unread
    assert set(read.put_off) == set(FLOOD)
    assert triage(FLOOD, 6.0).unread  # some came later


def test_want_of_a_claim_is_no_refusal_for_good_and_a_wrong_place_is() -> None:
    wrong = replace(FLOOD[0], objection="its parent is not the tip")
    step = triage([wrong, FLOOD[1]], 20.0)
    assert (step.refuse, step.put_off) == ((wrong,), (FLOOD[1],))


def test_want_of_a_parents_quorum_is_no_refusal_for_good_either() -> None:
    early = replace(LEADS, objection=NO_PARENT)
    assert triage([early], 0.0).unread
    step = triage([early], 20.0)
    assert (step.check, step.refuse, step.put_off) == ((), (), (early,))


def test_the_board_is_read_for_waiting_cards_once_an_interval() -> None:
    assert read_every_s(3.0) == 1.5
    assert read_every_s(86400.0) == 20.0


def test_a_check_holds_up_another_makers_card_for_its_turn_and_the_next_time_twice_as_long() -> None:
    second = Candidate(card(PEERS[1]), came_s=1.0, place=1)
    assert is_held_up(LEADS, second)
    assert is_held_up(LEADS, replace(second, failed=1))  # both are slow: they take turns
    assert not is_held_up(LEADS, replace(second, failed=2))
    assert not is_held_up(LEADS, replace(second, objection=NO_CLAIM))
    assert not is_held_up(LEADS, replace(LEADS, card=card(A, steps=1000)))  # of the same maker
    assert not yields_to(second, replace(LEADS, failed=1))  # whose turn is over does not come back in between
    of_a_small_run = turn_s(29 * 10**6, 600.0, 0)
    assert 150 < of_a_small_run < 200
    assert turn_s(29 * 10**6, 600.0, 3) == 8 * of_a_small_run
    assert turn_s(10**9, 600.0, 10**6) < 1e9
