"""An attestor's decisions on a hand-moved clock: what it checks, refuses, puts off, reads and signs, whatever
others send.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.records import BlobRef, CardRecord, ClaimRecord, RefusalRecord
from paris_p2p.rules.checks import read_every_s
from paris_p2p.rules.claims import ClaimView
from paris_p2p.rules.heard import Heard
from paris_p2p.rules.next_check import (
    LOOK_AGAIN_S,
    Leads,
    OwnChecks,
    Round,
    SlotCards,
    candidates,
    go_on,
    may_sign,
    newly_led,
    next_check,
    turn_left_s,
)
from paris_p2p.rules.placement import attest_turn_s
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.round_checks import state_before
from paris_p2p.rules.tips import NO_CLAIM, NO_NOTICE, NO_PARENT, NOT_YET, Tip

from .made import NOW, PEERS, RUN, SLOT, TIMING, A, B, C, D, attest, card, claim, tip
from .made_rounds import CREW, light_card, opened_round, update

ME = D
STRANGERS = PEERS[4:]
EVERY_S = read_every_s(TIMING.checkpoint_s)


def on_board(
    *cards: Envelope[CardRecord],
    claims: tuple[Envelope[ClaimRecord], ...] = (),
    after: Tip | None = None,
    now_s: float = NOW + 10.0,
    **more: Any,
) -> SlotCards:
    """What the attestor sees: the cards came at NOW, A leads where no claims are given."""
    view = ClaimView(SLOT, claims or (claim(A, epoch=1),), after, TIMING)
    known = {one.id: one for one in cards}
    fields: dict[str, Any] = {
        "known": known,
        "came_s": dict.fromkeys(known, NOW),
        "attestors": {},
        "best": after.card if after else None,
        "largest_bytes": (10**9, 10**9),
    } | more
    return SlotCards(ME.peer_id, Leads(view, now_s), cards, **fields)


READ = OwnChecks(read_s=NOW + 1.0)  # after all cards came


def test_the_leads_card_is_checked_and_a_strangers_is_put_off_once_the_board_was_read() -> None:
    of_lead, strange = card(A), card(C, epoch=2000)
    cards = on_board(strange, of_lead)
    first = next_check(cards, READ)
    assert first.check is not None
    assert first.check.card == of_lead
    then = next_check(cards, READ, Round(tried={of_lead.id}))
    assert then.check is None
    assert [one.card for one in then.put_off] == [strange]
    assert (then.refuse, then.read, then.wait_s) == ((), False, LOOK_AGAIN_S)


def test_nothing_is_held_against_a_card_before_the_board_was_read_after_it_came() -> None:
    strange = card(C)
    unread = next_check(on_board(strange), OwnChecks())
    assert (unread.read, unread.put_off, unread.refuse) == (True, (), ())
    just_read = next_check(on_board(strange, came_s={strange.id: NOW + 9.5}), OwnChecks(read_s=NOW + 9.0))
    assert not just_read.read
    assert just_read.wait_s == pytest.approx(EVERY_S - 1.0)


def test_a_card_of_newer_notices_waits_until_they_are_known_here_and_is_checked_then() -> None:
    newer = card(A, notices=3)
    unknown = next_check(on_board(newer, notices=2), READ)
    assert unknown.check is None
    assert [one.objection for one in unknown.put_off] == [NO_NOTICE]
    assert next_check(on_board(newer, notices=2), OwnChecks()).read  # the board may tell of them
    for known in (3, 4):
        step = next_check(on_board(newer, notices=known), READ)
        assert step.check is not None
        assert step.check.objection is None


def test_a_lead_that_publishes_without_end_keeps_no_other_card_from_being_looked_at() -> None:
    strange, first, second = card(C, epoch=2000), card(A), card(A, steps=20)
    cards = on_board(strange, first, second, came_s={second.id: NOW + 5.0})
    step = next_check(cards, READ, Round({strange.id, first.id}, {first.id}))
    assert (step.check, [one.card for one in step.put_off]) == (None, [strange])
    later = next_check(cards, READ, Round({strange.id, first.id, second.id}))
    assert later.check is not None


def test_a_clock_that_was_set_back_keeps_no_waiting_card_from_being_checked() -> None:
    waits = card(A)
    step = next_check(on_board(waits, came_s={waits.id: NOW + 3600.0}, now_s=NOW), READ, Round({waits.id}))
    assert step.check is not None


def test_a_peer_whose_turn_has_not_come_waits_for_it_and_no_longer() -> None:
    made, others = card(A), {B.peer_id, C.peer_id, D.peer_id}
    turns = {
        me.peer_id: turn_left_s(made, replace(on_board(made, now_s=NOW, others=others), me=me.peer_id))
        for me in (B, C, D)
    }
    every_s = attest_turn_s(TIMING.checkpoint_s)
    assert sorted(turns.values()) == [0.0, every_s, 2 * every_s]
    last = max(turns, key=lambda me: turns[me])
    waits = next_check(replace(on_board(made, now_s=NOW, others={*turns}), me=last), READ)
    assert (waits.check, waits.wait_s) == (None, min(LOOK_AGAIN_S, 2 * every_s))
    at_last = replace(on_board(made, now_s=NOW + 2 * every_s, others={*turns}), me=last)
    assert next_check(at_last, READ).check is not None


def test_a_quorum_of_attestors_begins_at_once() -> None:
    made, others = card(A), {B.peer_id, C.peer_id, D.peer_id}
    left = [
        turn_left_s(made, replace(on_board(made, now_s=NOW, others=others, quorum=2), me=me))
        for me in sorted(others)
    ]
    assert sorted(left)[:2] == [0.0, 0.0]
    assert sorted(left)[2] > 0


@pytest.mark.parametrize(
    ("objection", "fields"),
    [
        (REASONS["size"], {"largest_bytes": (0, 0)}),
        (NO_PARENT, {"known": {}}),
        (REASONS["steps"], {}),
    ],
    ids=["too large", "parent unknown", "no progress"],
)
def test_what_the_words_of_a_card_say_against_it_is_known_before_anything_is_fetched(
    objection: str, fields: dict[str, Any]
) -> None:
    parent = card(A)
    made = card(A, parent, steps=parent.record.steps) if objection == REASONS["steps"] else card(A, parent)
    after = None if objection == NO_PARENT else tip(parent, by=B)
    cards = on_board(made, after=after, claims=(claim(A),), **fields)
    assert [one.objection for one in candidates(cards, READ)] == [objection]


def test_another_card_of_a_place_that_was_signed_for_is_refused() -> None:
    chosen, other = card(A), card(A, steps=99)
    own = replace(READ, chosen=lambda _: chosen.id)
    step = next_check(on_board(other), own)
    assert [(one.card, one.objection) for one in step.refuse] == [(other, REASONS["place"])]
    assert may_sign(chosen, None, chosen.id)
    assert not may_sign(other, None, chosen.id)
    assert not may_sign(other, tip(chosen, by=B), None)


def test_a_card_that_came_while_its_maker_led_may_be_checked_when_another_leads() -> None:
    made = card(B, epoch=2)
    cards = on_board(made)
    assert next_check(cards, READ).check is None
    assert newly_led(cards, cards.pending, READ) == []
    assert next_check(cards, replace(READ, led={made.id})).check is not None
    held = on_board(made, claims=(claim(B, epoch=2),))
    assert newly_led(held, held.pending, READ) == [made.id]


def test_a_check_is_moot_once_the_tip_moved_or_a_card_of_a_maker_that_comes_before_waits() -> None:
    made, bounds_s = card(A), (5.0, 60.0)
    assert go_on(made, on_board(made), READ, 1.0, bounds_s) == ("on", 4.0)
    assert go_on(made, on_board(made), READ, 6.0, bounds_s) == ("on", LOOK_AGAIN_S)
    assert go_on(made, on_board(made), READ, 59.0, bounds_s) == ("on", 1.0)
    assert go_on(made, on_board(made, after=tip(card(B), by=C)), READ, 1.0, bounds_s)[0] == "moot"
    assert go_on(made, on_board(), READ, 1.0, bounds_s)[0] == "moot"
    second = card(B, epoch=2)
    cards = on_board(second, made)
    assert go_on(second, cards, replace(READ, led={second.id}), 1.0, bounds_s)[0] == "moot"
    once_failed = replace(READ, led={second.id}, failed={made.id: 1})
    assert go_on(second, cards, once_failed, 1.0, bounds_s)[0] == "on"


def test_a_check_ends_at_its_limit_and_after_its_turn_only_while_another_makers_card_waits() -> None:
    mine, others, bounds_s = card(A), card(B, epoch=2), (5.0, 60.0)
    view = ClaimView(SLOT, (claim(A), claim(B, epoch=2, claimed_at=NOW + 1)), None, TIMING)
    alone = on_board(mine)
    assert go_on(mine, alone, READ, 60.0, bounds_s)[0] == "too long"
    assert go_on(mine, alone, READ, 6.0, bounds_s)[0] == "on"

    class TwoPlaces(Heard):
        def places(self, now_s: float) -> int:
            return 2

    both = replace(on_board(mine, others), leads=Leads(replace(view, heard=TwoPlaces()), NOW + 10.0))
    assert go_on(mine, both, READ, 4.0, bounds_s) == ("on", 1.0)
    assert go_on(mine, both, READ, 6.0, bounds_s)[0] == "turn over"


@dataclass
class Life:
    """One attestor that carries out its decisions on a hand-moved clock; `verdicts` come from hypothesis."""

    now_s: float = NOW
    cards: dict[str, Envelope[CardRecord]] = field(default_factory=dict)
    came_s: dict[str, float] = field(default_factory=dict)
    tip: Tip | None = None
    votes: dict[tuple[int, int], str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    put_off: Counter[str] = field(default_factory=Counter)
    led: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)
    signers: dict[str, set[str]] = field(default_factory=dict)
    read_s: float = float("-inf")
    reads: list[float] = field(default_factory=list)
    signed: list[Envelope[CardRecord]] = field(default_factory=list)
    checked: list[Envelope[CardRecord]] = field(default_factory=list)

    def board(self) -> SlotCards:
        head = (self.tip.card.record.epoch, self.tip.card.record.seq) if self.tip else (0, 0)
        pending = [one for one in self.cards.values() if (one.record.epoch, one.record.seq) > head]
        last = self.tip.card.record.epoch if self.tip else 0
        held = claim(A, epoch=last + 1, claimed_at=NOW, issued_at=self.now_s)
        return on_board(
            *pending,
            claims=(held,),
            after=self.tip,
            now_s=self.now_s,
            known=self.cards,
            came_s=self.came_s,
            attestors=self.signers,
        )

    def own(self) -> OwnChecks:
        return OwnChecks(
            chosen=lambda record: self.votes.get((record.epoch, record.seq)),
            refused=self.refused,
            led=self.led,
            failed=self.failed,
            read_s=self.read_s,
        )

    def comes(self, made: Envelope[CardRecord]) -> None:
        if made.id not in self.cards:
            self.cards[made.id], self.came_s[made.id] = made, self.now_s
            if self.board().leads.may_publish(made):
                self.led.add(made.id)

    def look(self, verdict: str) -> None:
        """One round of the attestor's task; `verdict` is what every check of it comes to."""
        tried, waiting = set[str](), set(self.cards)
        while True:
            cards, own = self.board(), self.own()
            self.led.update(newly_led(cards, cards.pending, own))
            step = next_check(cards, own, Round(waiting, tried))
            if step.check is None:
                break
            assert step.check.card.id not in tried  # a round ends
            tried.add(step.check.card.id)
            self.check(step.check.card, verdict)
        for one in (*step.refuse, *step.put_off):
            assert self.came_s[one.card.id] <= self.read_s
        for one in step.refuse:
            assert one.objection not in NOT_YET
            self.refused.add(one.card.id)
        self.put_off.update(one.card.id for one in step.put_off)
        if step.read:
            self.read_s = self.now_s
            self.reads.append(self.now_s)
        else:
            assert 0 < step.wait_s <= LOOK_AGAIN_S

    def check(self, made: Envelope[CardRecord], verdict: str) -> None:
        self.checked.append(made)
        if verdict == "no end":
            self.failed.update((made.id, made.signer))
        elif verdict == "bad":
            self.refused.add(made.id)
        elif may_sign(made, self.tip, self.votes.get((made.record.epoch, made.record.seq))):
            self.votes[made.record.epoch, made.record.seq] = made.id
            self.signed.append(made)
            self.signers.setdefault(made.id, set()).add(ME.peer_id)
            if verdict == "good, the last of the quorum":
                self.moves(made)

    def moves(self, made: Envelope[CardRecord]) -> None:
        self.tip, self.failed = Tip(made, (attest(B, made),)), Counter()

    def crashes(self) -> None:
        """Only what is in the ledger is left."""
        self.put_off, self.led, self.failed, self.read_s = Counter(), set(), Counter(), float("-inf")
        self.reads.clear()


MAKERS = (A, A, A, C, STRANGERS[0])
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("card"), st.sampled_from(MAKERS), st.integers(1, 2), st.sampled_from([True, True, False])
        ),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 5.0, EVERY_S, 60.0])),
        st.tuples(
            st.just("look"), st.sampled_from(["good", "good, the last of the quorum", "bad", "no end"])
        ),
        st.tuples(st.sampled_from(["others sign", "crash"]), st.integers(0, 5)),
    ),
    min_size=5,
    max_size=40,
)


def lived(events: list[tuple[Any, ...]]) -> Life:
    life = Life()
    for number, (what, *more) in enumerate(events):
        if what == "card":
            maker, epochs_above, follows = more
            parent = life.tip.card if life.tip and follows else None
            last = life.tip.card.record.epoch if life.tip else 0
            life.comes(card(maker, parent, epoch=last + epochs_above, train_loss=float(number)))
        elif what == "pass":
            life.now_s += more[0]
        elif what == "look":
            life.look(more[0])
        elif what == "others sign" and more[0] > 2 and (pending := life.board().pending):
            made = pending[more[0] % len(pending)]
            if made.record.parent == (life.tip.card.id if life.tip else ""):
                life.moves(made)
        elif what == "crash" and more[0] > 2:
            life.crashes()
    return life


@given(EVENTS)
def test_an_attestor_signs_one_card_of_a_place_at_most_whatever_comes_and_however_often_it_crashes(
    events: list[tuple[Any, ...]],
) -> None:
    places = Counter((one.record.epoch, one.record.seq) for one in lived(events).signed)
    assert all(count == 1 for count in places.values())


@given(EVENTS)
def test_waiting_cards_cost_one_reading_an_interval_at_most(events: list[tuple[Any, ...]]) -> None:
    reads = lived(events).reads
    assert all(later - earlier >= EVERY_S for earlier, later in pairwise(reads))


@given(EVENTS)
def test_only_cards_of_a_maker_that_held_the_slot_are_checked_and_signed(
    events: list[tuple[Any, ...]],
) -> None:
    life = lived(events)
    assert {one.signer for one in life.checked} <= {A.peer_id}  # nobody else ever claims
    assert {life.cards[one].signer for one in life.put_off} <= {peer.peer_id for peer in MAKERS}
    assert not any(one.signer == ME.peer_id for one in life.signed)


FLOOD = st.lists(
    st.tuples(st.sampled_from((B, C, *STRANGERS)), st.integers(1, 2000), st.integers(0, 9)), max_size=30
)


@given(FLOOD, st.integers(0, 1), st.booleans())
def test_what_strangers_send_changes_neither_what_is_checked_nor_what_is_signed(
    flood: list[tuple[Identity, int, int]], leads_cards: int, is_read: bool
) -> None:
    of_lead = [card(A, steps=10 + number) for number in range(leads_cards + 1)]
    strange = [card(maker, epoch=epoch, steps=20 + steps) for maker, epoch, steps in flood]
    own = READ if is_read else OwnChecks()
    signers = {one.id: {peer.peer_id for peer in STRANGERS} for one in strange}
    alone = next_check(on_board(*of_lead), own)
    beside = next_check(on_board(*strange, *of_lead, attestors=signers), own)
    assert alone.check is not None
    assert beside.check is not None
    assert beside.check.card == alone.check.card
    done = {one.id for one in of_lead}
    then = next_check(on_board(*strange, *of_lead, attestors=signers), own, Round(tried=done))
    assert then.check is None
    assert then.refuse == ()
    assert {one.objection for one in then.put_off} <= {NO_CLAIM}


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0, 5.0, EVERY_S]), max_size=60))
def test_a_flood_without_an_end_is_counted_and_read_for_at_most_once_an_interval(
    pauses_s: list[float],
) -> None:
    life = Life()
    for number, pause_s in enumerate(pauses_s):
        life.now_s += pause_s
        life.comes(card(C, epoch=1 + number))
        life.look("good")
    assert len(life.reads) <= 1 + (life.now_s - NOW) / EVERY_S
    assert life.checked == []
    assert life.refused == set()


LIGHT = light_card(A, SOLO := card(A), [opened_round(state_before(SOLO, None), [update(A, SOLO.id)])])


@pytest.mark.parametrize(
    ("changes", "sees", "objection"),
    [
        ({}, {}, None),
        ({}, {"crew": None}, REASONS["round"]),
        ({"full": "0a" * 32}, {}, REASONS["round"]),
        ({"weights": BlobRef(id="0b" * 32, size_bytes=1)}, {}, REASONS["round"]),
        ({"round_s": 3 * TIMING.checkpoint_s}, {}, REASONS["round"]),
        ({}, {"largest_round_bytes": 99}, REASONS["size"]),
        ({"steps": SOLO.record.steps}, {}, REASONS["steps"]),
    ],
    ids=["honest", "no crews", "another full card", "other files", "round length", "round size", "steps"],
)
def test_a_crews_card_is_refused_for_what_it_names_before_anything_is_fetched(
    changes: dict[str, Any], sees: dict[str, Any], objection: str | None
) -> None:
    record = LIGHT.record.model_copy(update=changes)
    made = seal(A, record)
    seen = on_board(made, claims=(claim(A),), after=tip(SOLO), **({"crew": CREW} | sees))
    assert [one.objection for one in candidates(seen, READ)] == [objection]


def test_a_light_cards_going_back_names_the_same_full_card_and_rounds() -> None:
    """The best card may be light: its files are the full card's, and its rounds are what makes its state."""
    worse = light_card(A, LIGHT, [opened_round(state_before(LIGHT, None), [update(A, LIGHT.id, 50)])])
    fields = {
        name: getattr(LIGHT.record, name)
        for name in ("weights", "resume", "rounds", "merged", "full", "steps", "clips")
    }
    back = card(A, worse, lowered=1, **fields)
    head = {"run": RUN, "slot": SLOT, "seq": 4, "issued_at": NOW, "expires_at": NOW + 60.0}
    refused = RefusalRecord(**head, epoch=1, card="0c" * 32, parent=worse.id, reason="loss")
    refusals = (seal(ME, refused),)
    for made, objection in (
        (back, None),
        (card(A, worse, lowered=1, **(fields | {"rounds": worse.record.rounds})), REASONS["back"]),
        (card(A, worse, lowered=1, **(fields | {"merged": worse.record.merged})), REASONS["back"]),
        (card(A, worse, lowered=1, **(fields | {"full": "0a" * 32})), REASONS["back"]),
    ):
        seen = on_board(made, claims=(claim(A),), after=tip(worse), crew=CREW, best=LIGHT)
        own = replace(READ, refusals=refusals)
        assert [one.objection for one in candidates(seen, own)] == [objection]
