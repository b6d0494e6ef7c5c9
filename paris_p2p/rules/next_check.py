"""Pure functions decide what an attestor does next about a slot's cards, from the board, from what the
attestor did before, and from the clock (docs/protocol.md, "Order").

`next_check` names the card to check now, or what is to be refused, put off, read and waited for. `go_on` says
whether a check that is under way goes on. `may_sign` says whether what was measured may be signed. The task
in peer/attest.py carries out what they say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from blake3 import blake3

from paris_p2p.crew_records import MAX_ROUND_BYTES, CrewSpec
from paris_p2p.envelope import Envelope
from paris_p2p.identity import peer_id_to_bytes
from paris_p2p.records import CardRecord, ClaimRecord, RefusalRecord
from paris_p2p.rules.checks import (
    NO_PLACE,
    Candidate,
    is_held_up,
    reading_due_s,
    triage,
    yields_to,
)
from paris_p2p.rules.claims import ClaimView, leads_of, may_publish_card
from paris_p2p.rules.placement import attest_turn_s
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.rest import goes_back, is_back_at, is_backed
from paris_p2p.rules.round_checks import refuse_names, refuse_round_length
from paris_p2p.rules.tips import NO_NOTICE, NO_PARENT, Tip, parent_may_come, refuse_card, tip_id

LOOK_AGAIN_S = 20.0  # a slot is looked at again after so long without news


@dataclass(frozen=True)
class Leads:
    """A slot's claims as they were at one moment; of many claims, sorting them is what takes time."""

    view: ClaimView
    now_s: float

    @cached_property
    def claims(self) -> tuple[Envelope[ClaimRecord], ...]:
        """Returns the claims that hold the slot, the first lead's first."""
        view = self.view
        return leads_of(view.claims, view.tip, self.now_s, view.timing, view.heard, view.floor)

    @cached_property
    def signers(self) -> list[str]:
        return [claim.signer for claim in self.claims]

    def place_of(self, maker: str) -> int:
        return self.signers.index(maker) if maker in self.signers else NO_PLACE

    def may_publish(self, card: Envelope[CardRecord]) -> bool:
        return may_publish_card(self.claims, self.view, card, self.now_s)


@dataclass(frozen=True)
class SlotCards:
    """A slot's cards as the attestor `me` sees them on its board at one moment."""

    me: str
    leads: Leads
    pending: tuple[Envelope[CardRecord], ...]  # those that would follow the tip, oldest first
    known: Mapping[str, Envelope[CardRecord]]  # all of the slot, by id
    came_s: Mapping[str, float]  # by id
    attestors: Mapping[str, Collection[str]]  # who signed a card, by its id
    best: Envelope[CardRecord] | None  # of the tip's lineage, where it is known
    largest_bytes: tuple[int, int]  # that the network's weights and resume state can have
    others: Collection[str] = ()  # peers that are here and may attest
    quorum: int = 1
    notices: int = 0  # the number of the owner's newest notice that is known here
    crew: CrewSpec | None = None
    largest_round_bytes: int = MAX_ROUND_BYTES  # of a round blob

    @property
    def tip(self) -> Tip | None:
        return self.leads.view.tip

    @property
    def now_s(self) -> float:
        return self.leads.now_s

    @property
    def checkpoint_s(self) -> float:
        return self.leads.view.timing.checkpoint_s


@dataclass(frozen=True)
class OwnChecks:
    """What this attestor did about a slot's cards before."""

    chosen: Callable[[CardRecord], str | None] = lambda _: None  # the card it signed for a card's place
    refused: Container[str] = frozenset()  # cards, by id
    refusals: Collection[Envelope[RefusalRecord]] = ()  # its own, of what it measured
    led: Container[str] = frozenset()  # cards whose makers held the slot when they came, or later
    failed: Mapping[str, int] = field(default_factory=dict)  # checks without an end, by card and by maker
    read_s: float = float("-inf")  # when the board was last read for waiting cards


@dataclass(frozen=True)
class Round:
    """One look at a slot: cards that come later wait for the next, or a lead that publishes without end would
    keep all else from being looked at.
    """

    cards: Container[str] | None = None  # those that waited when it began, by id; None: all
    tried: Container[str] = frozenset()  # cards whose checks were begun in it, by id

    def holds(self, card_id: str) -> bool:
        return self.cards is None or card_id in self.cards


@dataclass(frozen=True)
class NextCheck:
    """What to do now: check a card and ask again; without one refuse, put off and read, then wait."""

    check: Candidate | None = None
    refuse: tuple[Candidate, ...] = ()
    put_off: tuple[Candidate, ...] = ()
    read: bool = False  # the board
    wait_s: float = LOOK_AGAIN_S  # for news, at most


def next_check(cards: SlotCards, own: OwnChecks, now: Round | None = None) -> NextCheck:
    """Decides what comes next in a round, or in a new one.

    A card that this peer signed needs nothing more. One whose turn is another attestor's first waits for it
    (`turn_left_s`), and one that yields to another lead's card waits for that.
    """
    now = now or Round()
    order = triage(candidates(cards, own), own.read_s)
    rivals, wait_s = _rivals(cards, own), LOOK_AGAIN_S
    for one in order.check:
        if cards.me in cards.attestors.get(one.card.id, ()) or not now.holds(one.card.id):
            continue
        if (left_s := turn_left_s(one.card, cards)) > 0:
            wait_s = min(wait_s, left_s)
        elif one.card.id not in now.tried and not any(yields_to(one, other) for other in rivals):
            return NextCheck(check=one)
    due_s = reading_due_s(own.read_s, cards.now_s, cards.checkpoint_s) if order.unread else wait_s
    return NextCheck(
        refuse=order.refuse,
        put_off=order.put_off,
        read=order.unread and due_s == 0,
        wait_s=min(wait_s, due_s),
    )


def candidates(cards: SlotCards, own: OwnChecks) -> list[Candidate]:
    """Returns the waiting cards that this attestor may have to do with.

    Its own are not among them, nor those it refused, nor those that go back where it measured nothing itself.
    """
    return [
        _candidate(card, cards, own)
        for card in cards.pending
        if card.signer != cards.me and card.id not in own.refused and _may_go_back(card.record, cards, own)
    ]


def newly_led(cards: SlotCards, among: Iterable[Envelope[CardRecord]], own: OwnChecks) -> list[str]:
    """Returns the ids of the cards whose makers hold the slot now, beside those in `own.led`; the attestor
    remembers them.
    """
    return [
        card.id
        for card in among
        if card.id not in own.led and _misfit(card.record, cards) is None and cards.leads.may_publish(card)
    ]


def objection(card: Envelope[CardRecord], cards: SlotCards, own: OwnChecks) -> str | None:
    """Returns what the card's own words and the board say against it, before anything is fetched."""
    if (misfit := _misfit(card.record, cards)) is not None:
        return misfit
    is_led = card.id in own.led or cards.leads.may_publish(card)
    signed = own.chosen(card.record) if is_led else None
    return refuse_card(
        card, cards.tip, card.signer if is_led else "", signed, cards.me, cards.leads.view.floor
    )


def turn_left_s(card: Envelope[CardRecord], cards: SlotCards) -> float:
    """Returns the seconds until it is this attestor's turn to check the card; 0 or less when it is.

    All known attestors stand in one list, the same everywhere, shuffled by each card's id; the first `quorum`
    of them begin at once. A card that goes back is for those alone who refused what came after the tip, and
    costs them next to nothing.
    """
    age_s = cards.now_s - cards.came_s.get(card.id, cards.now_s)
    if age_s < 0:  # a clock that was set back makes nobody wait longer
        return 0.0
    return _turn(card, cards) * attest_turn_s(cards.checkpoint_s) - age_s


Going = Literal["on", "moot", "too long", "turn over"]


def go_on(
    card: Envelope[CardRecord],
    cards: SlotCards,
    own: OwnChecks,
    passed_s: float,
    bounds_s: tuple[float, float],
) -> tuple[Going, float]:
    """Decides whether a check that began `passed_s` ago goes on, and for how long until this is asked again.

    `bounds_s` are its turn while another maker's card waits, and its limit. A check is moot once the tip
    moved, or a card waits whose maker comes before this one's.
    """
    turn_s, limit_s = bounds_s
    if not _follows(card.record, cards.tip) or card.id not in {one.id for one in cards.pending}:
        return "moot", 0.0
    mine, rivals = _candidate(card, cards, own), _rivals(cards, own)
    if any(yields_to(mine, other) for other in rivals):
        return "moot", 0.0
    if passed_s >= limit_s:
        return "too long", 0.0
    if passed_s >= turn_s and any(is_held_up(mine, other) for other in rivals):
        return "turn over", 0.0
    next_s = turn_s if passed_s < turn_s else limit_s
    return "on", min(next_s - passed_s, LOOK_AGAIN_S)


def may_sign(card: Envelope[CardRecord], tip: Tip | None, chosen: str | None) -> bool:
    """Tells whether a good card may be signed: it follows the tip, and `chosen`, the card that this attestor
    signed for its place, is none or this one.
    """
    return _follows(card.record, tip) and chosen in (None, card.id)


def _candidate(card: Envelope[CardRecord], cards: SlotCards, own: OwnChecks) -> Candidate:
    return Candidate(
        card=card,
        came_s=cards.came_s.get(card.id, float("-inf")),
        place=cards.leads.place_of(card.signer),
        objection=objection(card, cards, own),
        failed=own.failed.get(card.id, 0) + own.failed.get(card.signer, 0),
        attested=len(cards.attestors.get(card.id, ())),
    )


def _rivals(cards: SlotCards, own: OwnChecks) -> list[Candidate]:
    """Returns the cards of the slot's leads that this attestor did not judge yet."""
    return [
        _candidate(card, cards, own)
        for card in cards.pending
        if card.signer in cards.leads.signers
        and card.id not in own.refused
        and cards.me not in cards.attestors.get(card.id, ())
    ]


def _misfit(record: CardRecord, cards: SlotCards) -> str | None:
    """Returns what speaks against a card, whether its maker leads or not."""
    if record.notices > cards.notices:  # how it was trained, and is to be measured, is not known here
        return NO_NOTICE
    weights_bytes, resume_bytes = cards.largest_bytes
    if record.weights.size_bytes > weights_bytes or record.resume.size_bytes > resume_bytes:
        return REASONS["size"]
    if any(ref.size_bytes > cards.largest_round_bytes for ref in record.rounds):
        return REASONS["size"]
    if parent_may_come(record, cards.tip, cards.known):
        return NO_PARENT  # nothing else is held against it by a tip that it does not follow
    if _goes_elsewhere(record, cards):
        return REASONS["back"]
    return REASONS["round"] if _breaks_a_crews_rule(record, cards) else None


def _may_go_back(record: CardRecord, cards: SlotCards, own: OwnChecks) -> bool:
    """Tells whether a card that goes back is known to this attestor: by a refusal of its own, and by its
    checkpoint. Others may always be looked at.
    """
    if cards.tip is None or not goes_back(record, cards.tip):
        return True
    return is_backed(cards.tip, own.refusals) and cards.best is not None


def _goes_elsewhere(record: CardRecord, cards: SlotCards) -> bool:
    """Tells whether a card goes back to something that is neither the lineage's best checkpoint nor the
    tip.
    """
    if cards.tip is None or cards.best is None or not goes_back(record, cards.tip):
        return False
    return not (is_back_at(record, cards.best.record) or is_back_at(record, cards.tip.card.record))


def _breaks_a_crews_rule(record: CardRecord, cards: SlotCards) -> bool:
    """Tells whether a card that follows the tip names files, rounds or a length that it cannot; one that goes
    back names those of an older card.
    """
    if not _follows(record, cards.tip) or goes_back(record, cards.tip):
        return False
    parent = cards.tip.card if cards.tip else None
    names = refuse_names(record, parent, cards.crew)
    return (names or refuse_round_length(record, cards.checkpoint_s)) is not None


def _turn(card: Envelope[CardRecord], cards: SlotCards) -> int:
    if goes_back(card.record, cards.tip):
        return 0
    peers = {cards.me, *cards.others} - {card.signer}
    order = sorted(peers, key=lambda peer: blake3(card.id.encode() + peer_id_to_bytes(peer)).digest())
    return max(0, order.index(cards.me) - cards.quorum + 1)


def _follows(card: CardRecord, tip: Tip | None) -> bool:
    return card.parent == tip_id(tip)
