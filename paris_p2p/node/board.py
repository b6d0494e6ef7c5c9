"""A board holds the verified records of one run as this peer has seen them: claims, cards, attestations,
tips.

A bulletin board forgets, repeats and lies by omission; this one keeps the highest claim of every signer, the
cards that can still matter, and the tips, which it also writes to the ledger so that a restart knows them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.errors import RecordError
from paris_p2p.node.crowd import (
    SlotRecords,
    card_worths,
    drop_attestations,
    drop_cards,
    drop_claims,
    drop_refusals,
)
from paris_p2p.node.hearing import Hearing
from paris_p2p.node.kept_tips import KeptTips
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.records import AttestationRecord, CardRecord, ClaimRecord, RefusalRecord, Signed
from paris_p2p.rules.claims import ClaimView, is_live
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.tips import Age, Tip, epochs_used, impossible, impossible_place, may_replace, tip_of
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger

_MAX_SERVED_CARDS = 8  # cards that wait, for a peer that asks directly
_MAX_SERVED_ATTESTATIONS = 64  # of them
_MAX_SERVED_REFUSALS = 32


class Board:
    """Adds records and answers with the tip; the decisions are made in rules/.

    `signed` is the RunSpec as the owner signed it; what counts is what notices made of it (`state`, `spec`).
    """

    def __init__(
        self, run: str, signed: RunSpec, ledger: Ledger, me: str = "", word: OwnersWord | None = None
    ):
        self.run, self.ledger, self.me = run, ledger, me
        self.word = word or OwnersWord(run, signed, ledger)
        self.slots = {slot: SlotRecords() for slot in self.state.slots_ever}
        self.refused: Counter[str] = Counter()  # reason -> cards whose numbers cannot be
        now_s = time.time()
        self.hearing = Hearing(self.word, ledger, now_s)
        self._kept = KeptTips(run, ledger)
        self._loading = True
        self._kept.load(lambda envelope: self._load(envelope, now_s))
        self._loading = False

    @property
    def state(self) -> RunState:
        """Returns what the run is by now, by its owner's word."""
        return self.word.state

    @property
    def spec(self) -> RunSpec:
        """Returns the owner's RunSpec with all that notices changed."""
        return self.word.spec

    def add(self, envelope: Envelope[Any], now_s: float) -> bool:
        """Keeps a verified record; returns True when it was new. Records of unknown slots are ignored.

        Cards and attestations count whatever their expiry says, which is the bulletin board's to keep them
        by: the last tip of a slot that is done stays the tip. Replaying an old one gains nothing, since its
        epoch and seq rank it.
        """
        record: Signed = envelope.record
        if record.slot not in self.slots or record.run != self.run:
            return False
        slot = self.slots[record.slot]
        if isinstance(record, ClaimRecord):
            return self._keep_claim(slot, envelope, now_s)
        if isinstance(record, CardRecord):
            return self._keep_card(slot, envelope, now_s)
        if not isinstance(record, AttestationRecord | RefusalRecord) or not self._can_be(record, now_s):
            return False
        if isinstance(record, AttestationRecord) and self.state.counts(envelope):
            return self._keep_attestation(slot, envelope, now_s)
        if isinstance(record, RefusalRecord) and self.state.counts(envelope):
            return self._keep_refusal(slot, envelope)
        return False

    def claims(self, slot: str) -> tuple[Envelope[ClaimRecord], ...]:
        return tuple(self.slots[slot].claims.values())

    def tip(self, slot: str) -> Tip | None:
        return self.slots[slot].tip

    def view(self, slot: str, *, wanted: bool = True) -> ClaimView:
        """Returns what the rules decide about a slot's claims from."""
        used = frozenset(self.epochs_used(slot))
        return ClaimView(
            slot, self.claims(slot), self.tip(slot), self.spec.timing, wanted, used, self.hearing.heard(slot)
        )

    def pending(self, slot: str) -> list[Envelope[CardRecord]]:
        """Returns the cards that would follow the tip and have no quorum yet, oldest first."""
        tip = self.slots[slot].tip
        head = (tip.card.record.epoch, tip.card.record.seq) if tip else (0, 0)
        return [
            card
            for card in list(self.slots[slot].cards.values())
            if (card.record.epoch, card.record.seq) > head
        ]

    def refusals(self, slot: str) -> list[Envelope[RefusalRecord]]:
        """Returns why peers that may attest refused cards that would follow the tip."""
        return list(self.slots[slot].refusals.values())

    def best(self, slot: str) -> Envelope[CardRecord] | None:
        """Returns the best attested card of the tip's lineage; None when there is no tip, or that card is
        not known here.
        """
        tip = self.slots[slot].tip
        return (
            None
            if tip is None
            else tip.card
            if tip.best == tip.card.id
            else self.slots[slot].cards.get(tip.best)
        )

    def attestors(self, card_id: str, slot: str) -> set[str]:
        return {signer for card, signer in self.slots[slot].attestations if card == card_id}

    def has_part(self, peer: str) -> bool:
        """Tells whether a peer has a part in this run that strangers cannot give themselves: its owner named
        it, or it is behind a tip.
        """
        if self.state.is_named(peer):
            return True
        tips = [slot.tip for slot in self.slots.values()]
        return any(
            tip and peer in {tip.card.signer, *(one.signer for one in tip.attestations)} for tip in tips
        )

    def signers_by_card(self, slot: str) -> dict[str, set[str]]:
        """Returns who attested each card, by its id."""
        signers: dict[str, set[str]] = {}
        for card, signer in list(self.slots[slot].attestations):
            signers.setdefault(card, set()).add(signer)
        return signers

    def epochs_used(self, slot: str) -> Mapping[int, frozenset[str]]:
        """Returns the epochs whose place after the tip has an attested card, and the cards: a new lead goes
        above them.
        """
        records = self.slots[slot]
        cards, attestations = list(records.cards.values()), list(records.attestations.values())
        return epochs_used(cards, attestations, lambda peer: self.state.may_attest(peer), records.tip)

    def attestors_of_unknown(self, slot: str) -> set[str]:
        """Returns who attested a card that would follow the tip and that this peer has never seen."""
        records, tip = self.slots[slot], self.slots[slot].tip
        head = (tip.card.record.epoch, tip.card.record.seq) if tip else (0, 0)
        attested = list(records.attestations.values())
        return {
            one.signer
            for one in attested
            if one.record.card not in records.cards and (one.record.epoch, one.record.seq) > head
        }

    def records_under(self, key: str) -> list[bytes]:
        """Returns the envelopes that this peer would store under a DHT key, for a peer that asks directly."""
        _, _, run, shelf, name = [*key.split("/"), "", "", "", "", ""][:5]
        if run != self.run or name not in self.slots:
            return []
        slot = self.slots[name]
        if shelf == "claims":
            return [claim.data for claim in list(slot.claims.values())]
        if shelf == "tips":
            tip, waiting = _tip_envelopes(slot.tip), self._worthiest(name)
            ids = {card.id for card in waiting}
            attested = [one for one in list(slot.attestations.values()) if one.record.card in ids][
                :_MAX_SERVED_ATTESTATIONS
            ]
            best = self._older_best(slot)
            return [envelope.data for envelope in (*tip, *best, *waiting, *attested)]
        if shelf == "refusals":
            return [one.data for one in list(slot.refusals.values())[-_MAX_SERVED_REFUSALS:]]
        return []

    def tip_envelopes(self, slot: str) -> list[Envelope[Any]]:
        return _tip_envelopes(self.slots[slot].tip)

    def _worthiest(self, name: str) -> list[Envelope[CardRecord]]:
        """Returns waiting cards, those that matter most last: strangers' cards cannot crowd them out of an
        answer.
        """
        pending = self.pending(name)
        latest = max((self.slots[name].seen_at_s.get(card.id, 0.0) for card in pending), default=0.0)
        worths = card_worths(self.slots[name], latest, self.spec.timing, self.hearing.heard(name))
        return sorted(pending, key=lambda card: worths.get(card.id, 0))[-_MAX_SERVED_CARDS:]

    def _keep_claim(self, slot: SlotRecords, envelope: Envelope[ClaimRecord], now_s: float) -> bool:
        known = slot.claims.get(envelope.signer)
        if known is not None and known.record.seq >= envelope.record.seq:
            return False
        slot.claims[envelope.signer] = envelope
        live = is_live(envelope, slot.tip, now_s, self.spec.timing)
        self.hearing.note_claim(envelope, known, live, now_s)
        if known is not None and not is_live(known, slot.tip, now_s, self.spec.timing):
            slot.claims.move_to_end(envelope.signer)  # it lapsed: one that came between is first
        drop_claims(slot, now_s, self.spec.timing, self.hearing.heard(envelope.record.slot), self.me)
        return envelope.signer in slot.claims

    def _can_be(self, record: AttestationRecord | RefusalRecord, now_s: float) -> bool:
        """Tells whether there can be a card in the place that the record names."""
        absurd = impossible_place(record.epoch, record.seq, self._age(self.spec.created_at, now_s))
        if absurd is not None:
            self.refused[absurd] += 1
        return absurd is None

    def _keep_card(self, slot: SlotRecords, envelope: Envelope[CardRecord], now_s: float) -> bool:
        if envelope.id in slot.cards:
            return False
        absurd = impossible(envelope.record, self._age(self.spec.created_at, now_s))
        if absurd is not None:
            self.refused[absurd] += 1
            return False
        slot.cards[envelope.id] = envelope
        slot.seen_at_s[envelope.id] = now_s
        self._update_tip(slot, envelope.record.slot, now_s)
        if slot.tip is not None and slot.tip.best == envelope.id:
            self._save_tip(slot, envelope.record.slot)
        drop_cards(slot, now_s, self.spec.timing, self.hearing.heard(envelope.record.slot))
        return envelope.id in slot.cards

    def _keep_attestation(
        self, slot: SlotRecords, envelope: Envelope[AttestationRecord], now_s: float
    ) -> bool:
        key = (envelope.record.card, envelope.signer)
        if key in slot.attestations:
            return False
        slot.attestations[key] = envelope
        self._update_tip(slot, envelope.record.slot, now_s)
        drop_attestations(slot)
        return key in slot.attestations

    def _keep_refusal(self, slot: SlotRecords, envelope: Envelope[RefusalRecord]) -> bool:
        key = (envelope.record.card, envelope.signer)
        if key in slot.refusals:
            return False
        slot.refusals[key] = envelope
        drop_refusals(slot)
        return key in slot.refusals

    def _update_tip(self, slot: SlotRecords, name: str, now_s: float) -> None:
        old = slot.tip
        cards, attestations = list(slot.cards.values()), list(slot.attestations.values())
        if old is not None:  # never backwards, whatever was dropped
            cards, attestations = [old.card, *cards], [*old.attestations, *attestations]
        since = self._age(slot.tip_since_s, now_s)

        def follows(card: CardRecord) -> bool:
            return may_replace(card, old, since)

        tip = tip_of(
            cards, attestations, lambda peer: self.state.may_attest(peer), self.spec.gate.quorum, follows
        )
        if tip is None or (
            old is not None and tip.card.id == old.card.id and len(tip.attestations) == len(old.attestations)
        ):
            return
        if old is None or tip.card.id != old.card.id:
            goes_on = old is not None and old.card.signer == tip.card.signer and not self._loading
            self.hearing.note_tip(name, tip.card.signer, now_s - slot.tip_since_s if goes_on else None, now_s)
            slot.tip_since_s = now_s
        slot.tip = tip
        drop_refusals(slot)
        self._save_tip(slot, name)

    def _save_tip(self, slot: SlotRecords, name: str) -> None:
        tip = slot.tip
        if self._loading or tip is None:
            return
        self._kept.save(name, tip, self._older_best(slot))

    def _older_best(self, slot: SlotRecords) -> list[Envelope[CardRecord]]:
        """Returns the lineage's best card where it is not the tip: a slot that gets no better goes back to
        it.
        """
        best = slot.cards.get(slot.tip.best) if slot.tip and slot.tip.best != slot.tip.card.id else None
        return [] if best is None else [best]

    def _age(self, since_s: float, now_s: float) -> Age:
        return Age(now_s - since_s, self.spec.timing.checkpoint_s)

    def _load(self, envelope: Envelope[Any], now_s: float) -> None:
        """Takes one record of a tip from before a restart."""
        if isinstance(envelope.record, CardRecord):
            absurd = impossible(envelope.record, self._age(self.spec.created_at, now_s))
            if absurd is not None:
                raise RecordError(
                    f"its card has epoch {envelope.record.epoch} and seq {envelope.record.seq}: {absurd}"
                )
        self.add(envelope, min(envelope.record.issued_at, now_s))


def _tip_envelopes(tip: Tip | None) -> list[Envelope[Any]]:
    return [] if tip is None else [tip.card, *tip.attestations]
