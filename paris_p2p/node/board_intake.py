"""How a board takes verified records of a slot in: those that can be are kept, and the tip follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from paris_p2p.crew_records import MAX_LATE, UpdateRecord, WorkerRecord
from paris_p2p.envelope import Envelope
from paris_p2p.node.crew_shelf import Lineage, WithPart
from paris_p2p.node.crowd import SlotRecords, drop_attestations, drop_cards, drop_claims, drop_refusals
from paris_p2p.node.hearing import Hearing
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.node.tip_life import TipLife, card_of
from paris_p2p.records import AttestationRecord, CardRecord, ClaimRecord, RefusalRecord, Signed
from paris_p2p.rules.claims import is_live
from paris_p2p.rules.tips import Age, impossible, impossible_place, tip_id

NO_CREW = "update or worker: the run has no crews"


class BoardIntake:
    """Keeps records that count; each kind in its way. `me` is this node, whose records stay."""

    def __init__(
        self,
        word: OwnersWord,
        hearing: Hearing,
        tips: TipLife,
        me: str,
        with_part: WithPart,
    ):
        self.word, self.hearing, self.tips, self.me, self.with_part = word, hearing, tips, me, with_part
        self.refused: Counter[str] = Counter()  # reason -> records that cannot be

    def keep(self, slot: SlotRecords, envelope: Envelope[Any], now_s: float) -> bool:
        """Keeps a record of a slot; returns True when it was new."""
        record = envelope.record
        if isinstance(record, ClaimRecord):
            return self._keep_claim(slot, envelope, now_s)
        if isinstance(record, CardRecord):
            return self._keep_card(slot, envelope, now_s)
        if isinstance(record, UpdateRecord | WorkerRecord):
            return self._keep_of_crew(slot, envelope, now_s)
        if not isinstance(record, AttestationRecord | RefusalRecord) or not self._can_be(slot, record, now_s):
            return False
        if isinstance(record, AttestationRecord):
            return self._keep_attestation(slot, envelope, now_s)
        return self._keep_refusal(slot, envelope)

    def refuses_kind(self, record: Signed) -> bool:
        """Tells whether the run has no use for a record's kind, and counts it."""
        is_foreign = isinstance(record, UpdateRecord | WorkerRecord) and self.word.spec.crew is None
        if is_foreign:
            self.refused[NO_CREW] += 1
        return is_foreign

    def age(self, slot: SlotRecords, now_s: float) -> Age:
        """Returns what bounds the numbers of a slot's cards."""
        spec = self.word.spec
        return Age(now_s - spec.created_at, spec.timing.checkpoint_s, slot.floor)

    def _keep_claim(self, slot: SlotRecords, envelope: Envelope[ClaimRecord], now_s: float) -> bool:
        timing, known = self.word.spec.timing, slot.claims.get(envelope.signer)
        if known is not None and known.record.seq >= envelope.record.seq:
            return False
        slot.claims[envelope.signer] = envelope
        live = is_live(envelope, slot.tip, now_s, timing, slot.floor)
        self.hearing.note_claim(envelope, known, live, now_s)
        if known is not None and not is_live(known, slot.tip, now_s, timing, slot.floor):
            slot.claims.move_to_end(envelope.signer)  # it lapsed: one that came between is first
        drop_claims(slot, now_s, timing, self.hearing.heard(envelope.record.slot), self.me)
        return envelope.signer in slot.claims

    def _can_be(self, slot: SlotRecords, record: AttestationRecord | RefusalRecord, now_s: float) -> bool:
        """Tells whether there can be a card in the place that the record names."""
        absurd = impossible_place(record.epoch, record.seq, self.age(slot, now_s))
        if absurd is not None:
            self.refused[absurd] += 1
        return absurd is None

    def _keep_card(self, slot: SlotRecords, envelope: Envelope[CardRecord], now_s: float) -> bool:
        if envelope.id in slot.cards:
            return False
        absurd = impossible(envelope.record, self.age(slot, now_s))
        if absurd is not None:
            self.refused[absurd] += 1
            return False
        for key, one in [item for item in slot.attestations.items() if item[0][0] == envelope.id]:
            if not self.word.state.attests(one, envelope):
                del slot.attestations[key]
        slot.cards[envelope.id] = envelope
        slot.seen_at_s[envelope.id] = now_s
        self._forward(slot, envelope.record.slot, now_s)
        if slot.tip is not None and slot.tip.best == envelope.id:
            self.tips.save(slot, envelope.record.slot)
        drop_cards(slot, now_s, self.word.spec.timing, self.hearing.heard(envelope.record.slot))
        return envelope.id in slot.cards

    def _keep_attestation(
        self, slot: SlotRecords, envelope: Envelope[AttestationRecord], now_s: float
    ) -> bool:
        key = (envelope.record.card, envelope.signer)
        card = slot.cards.get(envelope.record.card)
        if key in slot.attestations or (card is not None and not self.word.state.attests(envelope, card)):
            return False
        slot.attestations[key] = envelope
        self._forward(slot, envelope.record.slot, now_s)
        drop_attestations(slot)
        return key in slot.attestations

    def _keep_refusal(self, slot: SlotRecords, envelope: Envelope[RefusalRecord]) -> bool:
        key = (envelope.record.card, envelope.signer)
        if key in slot.refusals:
            return False
        slot.refusals[key] = envelope
        drop_refusals(slot)
        return key in slot.refusals

    def _keep_of_crew(self, slot: SlotRecords, envelope: Envelope[Any], now_s: float) -> bool:
        timing = self.word.spec.timing
        if isinstance(envelope.record, WorkerRecord):
            return slot.crew.keep_worker(envelope, now_s, timing, self._parts)
        return slot.crew.keep_update(envelope, lineage_of(slot), now_s, timing, self._parts)

    def _parts(self, peers: Iterable[str]) -> frozenset[str]:
        return self.with_part(peers) | {self.me}

    def _forward(self, slot: SlotRecords, name: str, now_s: float) -> None:
        """Moves the tip on; updates that can follow it no more go."""
        before = tip_id(slot.tip)
        self.tips.forward(slot, name, now_s)
        if tip_id(slot.tip) != before and slot.crew.updates:
            slot.crew.drop_stale(lineage_of(slot), now_s, self.word.spec.timing)


def lineage_of(slot: SlotRecords) -> Lineage:
    """Returns what an update to the slot may start from: the tip, and up to MAX_LATE cards before it."""
    if slot.tip is None:
        return Lineage()
    head, recent = slot.tip.card.record, [slot.tip.card.id]
    parent: str = head.parent
    while parent and len(recent) <= MAX_LATE:
        recent.append(parent)
        before = card_of(slot, parent)
        parent = before.record.parent if before else ""
    place = (head.epoch, head.seq)
    known = [*list(slot.cards.values()), *(tip.card for tip in list(slot.past.values()))]
    overtaken = {one.id for one in known if (one.record.epoch, one.record.seq) <= place} - {*recent}
    return Lineage(tuple(recent), overtaken)
