"""The verified records of one run as this peer has seen them: claims, cards, attestations, tips (DESIGN: order and trust).

A bulletin board forgets, repeats and lies by omission; this one keeps the highest claim of every signer, the cards that
can still matter, and the tips, which it also writes to the ledger so that a restart knows them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import RecordError
from paris_p2p.records import AttestationRecord, CardRecord, ClaimRecord, Signed
from paris_p2p.rules.tips import Tip, tip_of
from paris_p2p.rules.trust import may_attest
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger

MAX_SIGNERS = 256  # claims kept per slot: a thousand strangers with claims cannot fill the memory
MAX_CARDS = 128  # cards kept per slot beside the tip's


@dataclass
class SlotRecords:
    """One slot's verified records."""

    claims: OrderedDict[str, Envelope[ClaimRecord]] = field(default_factory=OrderedDict)  # by signer
    cards: OrderedDict[str, Envelope[CardRecord]] = field(default_factory=OrderedDict)  # by card id
    attestations: dict[tuple[str, str], Envelope[AttestationRecord]] = field(default_factory=dict)  # by (card id, signer)
    seen_at_s: dict[str, float] = field(default_factory=dict)  # card id -> when it came
    tip: Tip | None = None
    tip_since_s: float = 0.0


class Board:
    """Adds records, answers with the tip; decisions are rules/'s."""

    def __init__(self, run: str, spec: RunSpec, ledger: Ledger):
        self.run, self.spec, self.ledger = run, spec, ledger
        self.slots = {slot: SlotRecords() for slot in spec.slots}
        self._load()

    def add(self, envelope: Envelope[Any], now_s: float) -> bool:
        """Keep a verified record; True when it was new. Records of unknown slots are ignored."""
        record: Signed = envelope.record
        if record.slot not in self.slots or record.run != self.run:
            return False
        slot = self.slots[record.slot]
        if isinstance(record, ClaimRecord):
            return _keep_claim(slot, envelope)
        if isinstance(record, CardRecord) and record.expires_at > now_s:
            return self._keep_card(slot, envelope, now_s)
        if isinstance(record, AttestationRecord) and record.expires_at > now_s and may_attest(self.spec, envelope.signer):
            return self._keep_attestation(slot, envelope, now_s)
        return False

    def claims(self, slot: str) -> Sequence[Envelope[ClaimRecord]]:
        return tuple(self.slots[slot].claims.values())

    def tip(self, slot: str) -> Tip | None:
        return self.slots[slot].tip

    def pending(self, slot: str) -> list[Envelope[CardRecord]]:
        """Cards that would follow the tip and have no quorum yet, oldest first."""
        tip = self.slots[slot].tip
        head = (tip.card.record.epoch, tip.card.record.seq) if tip else (0, 0)
        return [card for card in list(self.slots[slot].cards.values()) if (card.record.epoch, card.record.seq) > head]

    def attestors(self, card_id: str, slot: str) -> set[str]:
        return {signer for card, signer in self.slots[slot].attestations if card == card_id}

    def records_under(self, key: str) -> list[bytes]:
        """The envelopes this peer would store under a DHT key: what a peer that asks directly gets."""
        _, _, run, shelf, name = [*key.split("/"), "", "", "", "", ""][:5]
        if run != self.run or name not in self.slots:
            return []
        slot = self.slots[name]
        if shelf == "claims":
            return [claim.data for claim in list(slot.claims.values())]
        if shelf == "tips":
            pending = [card.data for card in self.pending(name)][-8:]
            return [envelope.data for envelope in _tip_envelopes(slot.tip)] + pending
        return []

    def tip_envelopes(self, slot: str) -> list[Envelope[Any]]:
        return _tip_envelopes(self.slots[slot].tip)

    def _keep_card(self, slot: SlotRecords, envelope: Envelope[CardRecord], now_s: float) -> bool:
        if envelope.id in slot.cards:
            return False
        slot.cards[envelope.id] = envelope
        slot.seen_at_s[envelope.id] = now_s
        self._update_tip(slot, envelope.record.slot, now_s)
        while len(slot.cards) > MAX_CARDS:
            oldest = next(card for card in slot.cards if slot.tip is None or card != slot.tip.card.id)
            del slot.cards[oldest]
            slot.seen_at_s.pop(oldest, None)
            slot.attestations = {key: value for key, value in slot.attestations.items() if key[0] != oldest}
        return True

    def _keep_attestation(self, slot: SlotRecords, envelope: Envelope[AttestationRecord], now_s: float) -> bool:
        key = (envelope.record.card, envelope.signer)
        if key in slot.attestations:
            return False
        if len(slot.attestations) >= 4 * MAX_CARDS:
            slot.attestations = {k: v for k, v in slot.attestations.items() if k[0] in slot.cards}
        slot.attestations[key] = envelope
        self._update_tip(slot, envelope.record.slot, now_s)
        return True

    def _update_tip(self, slot: SlotRecords, name: str, now_s: float) -> None:
        tip = tip_of(
            tuple(slot.cards.values()),
            tuple(slot.attestations.values()),
            lambda peer: may_attest(self.spec, peer),
            self.spec.gate.quorum,
        )
        if tip is None or (slot.tip is not None and tip.card.id == slot.tip.card.id):
            return
        slot.tip, slot.tip_since_s = tip, now_s
        for number, envelope in enumerate(_tip_envelopes(tip)):
            self.ledger.put(f"tip/{name}/{number}", envelope.data)

    def _load(self) -> None:
        for key, data in self.ledger.items("tip/"):
            try:
                envelope = open_envelope(data, run=self.run)
            except RecordError:
                self.ledger.delete(key)  # a damaged disk: the swarm has the tip too
                continue
            self.add(envelope, envelope.record.issued_at)


def _keep_claim(slot: SlotRecords, envelope: Envelope[ClaimRecord]) -> bool:
    known = slot.claims.get(envelope.signer)
    if known is not None and known.record.seq >= envelope.record.seq:
        return False
    slot.claims[envelope.signer] = envelope
    while len(slot.claims) > MAX_SIGNERS:
        slot.claims.popitem(last=False)
    return True


def _tip_envelopes(tip: Tip | None) -> list[Envelope[Any]]:
    return [] if tip is None else [tip.card, *tip.attestations]

