"""Of too many records of a slot some go: a flood by strangers must not displace what matters.

Peer ids cost nothing, so nothing here counts peers. What stays is what a stranger cannot make: the tip and
what attests it, cards that allowed attestors signed, cards of the leads, the claim of the tip's maker,
and the live claims that were here first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from paris_p2p.envelope import Envelope
from paris_p2p.node.crew_shelf import CrewShelf
from paris_p2p.records import AttestationRecord, CardRecord, ClaimRecord, RefusalRecord
from paris_p2p.rules.claims import is_live, leads_of, order
from paris_p2p.rules.heard import Heard
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.tips import Tip, tip_id
from paris_p2p.spec import TimingSpec

MAX_CLAIMS = 256  # kept per slot: a thousand strangers with claims cannot fill the memory
MAX_CARDS = 128  # kept per slot
MAX_ATTESTATIONS = 1024  # kept per slot
MAX_REFUSALS = 256  # kept per slot
_FIRST_CLAIMS = 64  # live claims that stay, by when they came, and as many by when they say they were made


@dataclass
class SlotRecords:
    """One slot's verified records."""

    # by signer, in the order they came
    claims: OrderedDict[str, Envelope[ClaimRecord]] = field(default_factory=OrderedDict)
    # by card id, in the order they came
    cards: OrderedDict[str, Envelope[CardRecord]] = field(default_factory=OrderedDict)
    # by (card id, signer)
    attestations: dict[tuple[str, str], Envelope[AttestationRecord]] = field(default_factory=dict)
    # by (card id, signer), of waiting cards
    refusals: dict[tuple[str, str], Envelope[RefusalRecord]] = field(default_factory=dict)
    seen_at_s: dict[str, float] = field(default_factory=dict)  # card id -> when it came
    tip: Tip | None = None
    # tips before it by card id, the oldest first: the slot may have to go back to one
    past: OrderedDict[str, Tip] = field(default_factory=OrderedDict)
    tip_since_s: float = 0.0
    floor: int = 0  # of epochs, since the owner took cards back
    crew: CrewShelf = field(default_factory=CrewShelf)


def signers_by_card(slot: SlotRecords) -> dict[str, set[str]]:
    """Returns who attested each card, by its id."""
    signers: dict[str, set[str]] = {}
    for card, signer in list(slot.attestations):
        signers.setdefault(card, set()).add(signer)
    return signers


def attestors_of_unknown(slot: SlotRecords) -> set[str]:
    """Returns who attested a card that would follow the tip and was never seen here."""
    head = (slot.tip.card.record.epoch, slot.tip.card.record.seq) if slot.tip else (0, 0)
    attested = [one for one in list(slot.attestations.values()) if one.record.card not in slot.cards]
    return {one.signer for one in attested if (one.record.epoch, one.record.seq) > head}


def waiting_cards(slot: SlotRecords) -> list[Envelope[CardRecord]]:
    """Returns the cards that would follow the tip and have no quorum yet, in the order they came."""
    head = (slot.tip.card.record.epoch, slot.tip.card.record.seq) if slot.tip else (0, 0)
    return [card for card in list(slot.cards.values()) if (card.record.epoch, card.record.seq) > head]


def drop_void(slot: SlotRecords, state: RunState) -> None:
    """Drops what does not count any more by the owner's word; the tips are the caller's matter."""
    for signer in [signer for signer, one in slot.claims.items() if not state.counts(one)]:
        del slot.claims[signer]
    for card_id in [card_id for card_id, one in slot.cards.items() if not state.counts(one)]:
        del slot.cards[card_id]
        slot.seen_at_s.pop(card_id, None)
    for key, one in list(slot.attestations.items()):
        card = slot.cards.get(key[0])
        if not (state.counts(one) if card is None else state.attests(one, card)):
            del slot.attestations[key]
    for key in [key for key, one in slot.refusals.items() if not state.counts(one)]:
        del slot.refusals[key]
    slot.crew.drop_void(state)


def drop_claims(slot: SlotRecords, now_s: float, timing: TimingSpec, heard: Heard, me: str) -> None:
    """Cuts down to MAX_CLAIMS: expired ones first, then ones that cannot lead, then the live ones that came
    last.

    This node's own (`me`) stays, as do the first to come and the first in the order that decides who leads.
    """
    if len(slot.claims) <= MAX_CLAIMS:
        return
    live = {
        signer: claim
        for signer, claim in slot.claims.items()
        if is_live(claim, slot.tip, now_s, timing, slot.floor)
    }

    def rank(signer: str) -> tuple[int, float, bytes]:
        return heard.wasted(signer, now_s), *order(live[signer], timing, heard)

    stay = set(list(live)[:_FIRST_CLAIMS]) | set(sorted(live, key=rank)[:_FIRST_CLAIMS]) | {me}
    if slot.tip is not None:
        stay.add(slot.tip.card.signer)

    def worth(signer: str) -> tuple[bool, bool, bool]:
        return signer in stay, signer in live, slot.claims[signer].record.expires_at > now_s

    newest_first = list(reversed(slot.claims))
    for signer in sorted(newest_first, key=worth)[: len(slot.claims) - MAX_CLAIMS]:
        del slot.claims[signer]


def card_worths(slot: SlotRecords, now_s: float, timing: TimingSpec, heard: Heard) -> dict[str, int]:
    """Returns how much each card matters: 4 tip and best, 3 attested, 2 of a lead or the tip's maker, 1 after
    the tip, 0 before it.
    """
    leaders = {
        lead.signer
        for lead in leads_of(tuple(slot.claims.values()), slot.tip, now_s, timing, heard, slot.floor)
    }
    anchors, head = set[str](), (0, 0)
    if slot.tip is not None:
        leaders.add(slot.tip.card.signer)
        anchors = {slot.tip.card.id, slot.tip.best}
        head = (slot.tip.card.record.epoch, slot.tip.card.record.seq)
    attested = {card for card, _ in list(slot.attestations)}

    def worth(card: Envelope[CardRecord]) -> int:
        if card.id in anchors:
            return 4
        if (card.record.epoch, card.record.seq) <= head:
            return 0
        return 3 if card.id in attested else 2 if card.signer in leaders else 1

    return {card.id: worth(card) for card in list(slot.cards.values())}


def drop_cards(slot: SlotRecords, now_s: float, timing: TimingSpec, heard: Heard) -> None:
    """Cuts down to MAX_CARDS, the least worth and oldest first."""
    if len(slot.cards) <= MAX_CARDS:
        return
    worths = card_worths(slot, now_s, timing, heard)
    for card_id in sorted(slot.cards, key=worths.__getitem__)[: len(slot.cards) - MAX_CARDS]:
        del slot.cards[card_id]
        slot.seen_at_s.pop(card_id, None)
        for key in [key for key in slot.attestations if key[0] == card_id]:
            del slot.attestations[key]


def drop_attestations(slot: SlotRecords) -> None:
    """Cuts down to MAX_ATTESTATIONS: of the signer that made most, those of unknown cards first; never the
    tip's.
    """
    tip_card = tip_id(slot.tip)
    while len(slot.attestations) > MAX_ATTESTATIONS:
        known: Mapping[str, object] = slot.cards
        made = Counter(signer for card, signer in slot.attestations if card != tip_card)
        most = max(made.values())
        loudest = [key for key in slot.attestations if key[0] != tip_card and made[key[1]] == most]
        del slot.attestations[min(loudest, key=lambda key: key[0] in known)]


def drop_refusals(slot: SlotRecords) -> None:
    """Drops those of cards that would not follow the tip, and cuts down to MAX_REFUSALS: of the signer that
    made most, the oldest first.
    """
    head = tip_id(slot.tip)
    for key in [key for key, one in slot.refusals.items() if one.record.parent != head]:
        del slot.refusals[key]
    while len(slot.refusals) > MAX_REFUSALS:
        made = Counter(signer for _, signer in slot.refusals)
        most = max(made.values())
        del slot.refusals[next(key for key in slot.refusals if made[key[1]] == most)]
