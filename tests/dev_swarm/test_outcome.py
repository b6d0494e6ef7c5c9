"""The verdict on a dev-swarm: each thing that must hold is found broken where it is broken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paris_p2p.dev_swarm.chronicle import Chronicle, TipSeen
from paris_p2p.dev_swarm.outcome import (
    OWNER,
    MustHold,
    Outcome,
    Witnessed,
    caught_up,
    figures,
    outcome_of,
)
from paris_p2p.dev_swarm.papers import Papers
from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord
from tests.dev_swarm.made_papers import LEADS, SLOT, attestation, card, chain, papers_of

CARDS = chain((0, 1, 100), (0, 1, 200), (1, 2, 300), (1, 2, 400))


def status(of: Envelope[CardRecord] | None, *, steps: int | None = None, phase: str = "standby") -> Any:
    slot: dict[str, Any] = {"slot": SLOT, "tip": "", "tip_epoch": 0, "tip_seq": 0, "steps": 0, "clips": 0}
    if of is not None:
        record = of.record
        slot |= {"tip": of.id, "tip_epoch": record.epoch, "tip_seq": record.seq, "steps": record.steps}
    training = {"slot": SLOT, "epoch": 1, "steps": steps, "loss": 1.0} if steps is not None else None
    return {"phase": phase, "why": "so", "slots": [slot], "training": training}


def told(cards: list[Envelope[CardRecord]] = CARDS) -> Chronicle:
    """Each node hears of the cards at 10, 40, 70 and 100 s."""
    chronicle = Chronicle()
    for number, one in enumerate(cards):
        for node in (OWNER, "a", "b"):
            chronicle.note(node, 10.0 + 30.0 * number, status(one))
    return chronicle


def witnessed(**changes: Any) -> Witnessed:
    seen = Witnessed(
        slots=(SLOT,),
        peers=("a", "b"),
        quorum=1,
        chronicle=told(),
        papers=papers_of(CARDS),
        struck=(),
        began_s=20.0,
        quiet_s=0.0,
        ended_s=80.0,
        stores={OWNER: "", "a": "", "b": ""},
        stores_words="9 blobs",
    )
    return replace(seen, **changes)


def broken(outcome: Outcome) -> list[MustHold]:
    return [one for one in outcome.held if not one.holds]


def test_a_swarm_that_came_through_passes_with_its_figures() -> None:
    outcome = outcome_of(witnessed())
    assert outcome.passed, broken(outcome)
    assert [one.steps for one in outcome.advances] == [200]
    assert figures(outcome)[0] == f"tip: {SLOT} from step 100 (seq 1) to step 300 (seq 3)"


def fork() -> Papers:
    """A fenced lead's card was accepted: it stands after the higher epoch's, at the next place."""
    late = card(0, 1, 5, CARDS[-1].id, steps=500, at=50.0)
    higher = card(2, 3, 6, late.id, steps=600, at=60.0)
    return papers_of([*CARDS, late, higher])


def backwards() -> Papers:
    """An attestor signed the old lead's card once it had signed the new one's."""
    late = card(0, 1, 3, CARDS[1].id, steps=310, at=45.0)
    return papers_of([*CARDS, late], [*map(attestation, CARDS), attestation(late)])


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"began_s": 75.0}, "every slot's tip advances", "step 300 (seq 3) to step 300"),
        ({"stores": {"a": "blob 12… is damaged"}}, "no store is damaged", "a: blob 12…"),
        ({"stores": {}}, "no store is damaged", ""),
        ({"papers": fork()}, "no card of a fenced lead is accepted", "epoch 1 after a higher one"),
        ({"papers": backwards()}, "no card of a fenced lead is accepted", "after (2, 4)"),
        ({"papers": papers_of(CARDS[:2])}, "one lead per slot", "a's tip of expert-0, seq 4"),
        ({"stuck": {"a": "it does not answer"}}, "nobody is stuck", "a: it does not answer"),
        ({"ended_s": 105.0}, "nobody is stuck", "no new tip after the troubles"),
        ({"left_behind": ["p2pd of a"]}, "nothing outlives", "p2pd of a"),
        ({"faults": ["a: KeyError"]}, "fault of its own", "KeyError"),
    ],
)
def test_what_does_not_hold_is_named(changes: dict[str, Any], name: str, words: str) -> None:
    outcome = outcome_of(witnessed(**changes))
    assert not outcome.passed
    (found,) = [one for one in broken(outcome) if name in one.name]
    assert words in found.found


@pytest.mark.parametrize(("steps", "holds"), [((100, 200, 300, 400), True), ((100, 999, 1900, 2000), False)])
def test_a_swarm_in_trouble_is_compared_with_itself_when_it_was_quiet(
    steps: tuple[int, ...], holds: bool
) -> None:
    """A hundred steps in 30 s of troubles; quiet, 200 or 1,800 in 60 s."""
    cards = chain(*((0, 1, count) for count in steps))
    seen = witnessed(
        chronicle=told(cards),
        papers=papers_of(cards),
        began_s=75.0,
        ended_s=105.0,
        quiet_s=60.0,
    )
    (found,) = [one for one in outcome_of(seen).held if "quiet swarm" in one.name]
    assert found.holds is holds, found
    assert "100 steps in 30 s" in found.found


OVER = {SLOT: "rests as converged"}


def test_a_slot_that_is_over_is_not_stuck_nor_behind_a_quiet_swarm() -> None:
    assert outcome_of(witnessed(ended_s=105.0, over=OVER)).passed
    assert not outcome_of(witnessed(ended_s=105.0)).passed
    cards = chain((0, 1, 100), (0, 1, 999), (0, 1, 1900), (0, 1, 2000))
    slow = witnessed(
        chronicle=told(cards), papers=papers_of(cards), began_s=75.0, ended_s=105.0, quiet_s=60.0
    )
    assert not outcome_of(slow).passed
    rested = outcome_of(replace(slow, over=OVER))
    assert rested.passed, broken(rested)
    assert any("where it rests as converged" in one.found for one in rested.held)


def test_slots_that_were_over_before_the_troubles_show_nothing() -> None:
    (found,) = broken(outcome_of(witnessed(began_s=105.0, ended_s=110.0, over=OVER)))
    assert found.name == "every slot's tip advances"
    assert "where it rests as converged" in found.found


@pytest.mark.parametrize(
    ("changes", "over"),
    [
        ({}, {}),
        ({"done": True}, {SLOT: "has all its steps"}),
        ({"rests_until_s": 1001.0}, OVER),
        ({"rests_until_s": 999.0}, {}),
        ({"rests_until_s": 0.0, "done": False}, {}),
    ],
)
def test_a_slot_is_over_where_its_node_says_so(changes: dict[str, Any], over: dict[str, str]) -> None:
    said = status(CARDS[0])
    said["slots"][0] |= changes
    chronicle = Chronicle()
    assert chronicle.over(OWNER, 1000.0) == {}
    chronicle.note(OWNER, 1.0, said)
    assert chronicle.over(OWNER, 1000.0) == over


def test_a_tip_that_goes_back_is_noticed() -> None:
    chronicle = told()
    chronicle.note("a", 120.0, status(CARDS[1]))
    outcome = outcome_of(witnessed(chronicle=chronicle))
    (found,) = broken(outcome)
    assert "a saw expert-0 go back from (2, 4) to (1, 2)" in found.found


def test_a_card_that_was_overtaken_before_it_was_accepted_breaks_nothing() -> None:
    """Two leads made a card for one place, and one attestor each signed it before it had heard of the other:
    the higher epoch's goes on.
    """
    rival = card(0, 1, 3, CARDS[1].id, steps=290, at=29.0)
    signed = [*map(attestation, CARDS), attestation(rival, by=LEADS[2])]
    outcome = outcome_of(witnessed(papers=papers_of([*CARDS, rival], signed)))
    assert outcome.passed, broken(outcome)
    assert any("1 attested cards were overtaken" in one.found for one in outcome.held)


def test_a_peer_has_caught_up_once_it_answers_takes_part_and_knows_the_tips() -> None:
    chronicle, goal = told(), TipSeen(0.0, 2, 4, 400, 0, CARDS[-1].id)
    assert caught_up(chronicle, "a", {SLOT: goal}, 90.0) == ""
    assert caught_up(chronicle, "a", {SLOT: goal}, 101.0) == "it does not answer"
    assert caught_up(chronicle, "c", {SLOT: goal}, 0.0) == "it does not answer"
    assert caught_up(chronicle, "a", {SLOT: replace(goal, seq=5)}, 90.0) == "it lacks the tip of expert-0"
    chronicle.note("a", 120.0, status(CARDS[-1], phase="contradicted"))
    assert "it is contradicted" in caught_up(chronicle, "a", {SLOT: goal}, 90.0)
