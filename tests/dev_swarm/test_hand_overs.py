"""How long slots stood still, and what work was lost, from what was seen."""

from __future__ import annotations

import pytest

from paris_p2p.dev_swarm.chronicle import StepSeen
from paris_p2p.dev_swarm.hand_overs import (
    HandOver,
    Lost,
    Struck,
    hand_overs,
    losses,
    spread_of,
    with_slot,
)
from tests.dev_swarm.made_papers import SLOT, chain


def seen(at_s: float, peer: str, steps: int, epoch: int = 1) -> StepSeen:
    return StepSeen(at_s, peer, SLOT, epoch, steps)


LED = [seen(at_s, "a", int(10 * at_s)) for at_s in (92.0, 94.0, 96.0, 98.0)]


def struck(kind: str, *, ends_s: float = 130.0, at_s: float = 99.0) -> Struck:
    return with_slot(Struck(at_s, kind, "a", ends_s, 1000.0 + at_s), LED)  # type: ignore[arg-type]


def test_a_blow_knows_what_the_peer_led_and_one_to_an_idle_peer_counts_for_nothing() -> None:
    assert (struck("kill").slot, struck("kill").steps) == (SLOT, 980)
    assert struck("kill", at_s=200.0).slot == ""
    assert hand_overs([struck("kill", at_s=200.0)], [seen(300.0, "b", 5)]) == []


def test_a_hand_over_lasts_from_the_blow_to_the_first_step_of_whom_trains_on() -> None:
    after = [*LED, seen(131.5, "b", 900, 2), seen(133.5, "b", 920, 2)]
    for kind in ("kill", "pause", "cut"):
        assert hand_overs([struck(kind)], after) == [HandOver(SLOT, kind, "a", 32.5, "b")]  # type: ignore[arg-type]


def test_a_killed_lead_that_is_back_first_took_over_from_itself() -> None:
    assert hand_overs([struck("kill")], [*LED, seen(120.0, "a", 900, 2)]) == [
        HandOver(SLOT, "kill", "a", 21.0, "a")
    ]


@pytest.mark.parametrize("kind", ["pause", "cut"])
def test_a_lead_that_kept_its_slot_handed_nothing_over(kind: str) -> None:
    own = [seen(110.0, "a", 1100), seen(131.0, "a", 1300)]  # one that was cut off trains on alone
    assert hand_overs([struck(kind)], [*LED, *own]) == []
    # what comes long after is another story
    assert hand_overs([struck(kind)], [*LED, *own, seen(300.0, "b", 1400, 2)]) == []
    # a lead that is back goes on until it has heard who leads
    assert hand_overs([struck(kind)], [*LED, *own, seen(133.0, "b", 960, 2)]) == [
        HandOver(SLOT, kind, "a", 34.0, "b")  # type: ignore[arg-type]
    ]


def test_a_slot_that_nobody_took_has_no_time_to_count() -> None:
    assert hand_overs([struck("kill")], LED) == []


def test_lost_is_what_no_attested_card_from_before_the_blow_holds() -> None:
    cards = chain((0, 1, 930), (1, 2, 1500), every_s=95.0)  # signed at 95 s, and long after the blow
    assert losses([struck("kill")], LED, {SLOT: cards}) == [Lost(SLOT, "a", 50, 7.0)]
    assert losses([struck("pause")], LED, {SLOT: cards}) == []
    kept = chain((0, 1, 985), every_s=98.5)
    assert losses([struck("kill")], LED, {SLOT: kept}) == [Lost(SLOT, "a", 0, 0.0)]
    # of one that nobody ever signed a card of, all is lost
    assert losses([struck("kill")], LED, {}) == [Lost(SLOT, "a", 980, 7.0)]


def test_a_spread_is_read_off_the_ranks() -> None:
    spread = spread_of(float(number) for number in range(1, 11))
    assert (spread.count, spread.least, spread.median, spread.p90, spread.most) == (10, 1.0, 5.5, 9.0, 10.0)
    assert spread_of([4.0]).p90 == 4.0
    assert spread_of([]).in_words() == "none"
