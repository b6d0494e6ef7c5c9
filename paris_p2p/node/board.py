"""A board holds the verified records of one run as this peer has seen them: claims, cards, attestations,
tips.

A bulletin board forgets, repeats and lies by omission; this one keeps the highest claim of every signer, the
cards that can still matter, and the tips, which it also writes to the ledger so that a restart knows them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paris_p2p.crew_records import UpdateRecord, WorkerRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import RecordError
from paris_p2p.node.board_answers import records_under, tip_envelopes
from paris_p2p.node.board_intake import BoardIntake, lineage_of
from paris_p2p.node.crowd import (
    SlotRecords,
    attestors_of_unknown,
    drop_void,
    signers_by_card,
    waiting_cards,
)
from paris_p2p.node.hearing import Hearing
from paris_p2p.node.kept_tips import KeptTips
from paris_p2p.node.not_yet import NotYet
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.node.tip_life import TipLife, card_of
from paris_p2p.owner_records import MemberRecord, NoticeRecord
from paris_p2p.records import CardRecord, ClaimRecord, RefusalRecord, Signed
from paris_p2p.rules.claims import ClaimView
from paris_p2p.rules.crews import CrewMember, crew_of
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.taken_back import MAX_PAST
from paris_p2p.rules.tips import Tip, epochs_used, impossible
from paris_p2p.spec import RunSpec
from paris_p2p.store.ledger import Ledger

log = logging.getLogger(__name__)


class Board:
    """Adds records and answers with the tip; the decisions are made in rules/.

    `signed` is the RunSpec as the owner signed it; what counts is what notices made of it (`state`, `spec`).
    """

    def __init__(
        self, run: str, signed: RunSpec, ledger: Ledger, me: str = "", word: OwnersWord | None = None
    ):
        self.run, self.ledger, self.me = run, ledger, me
        self.word = word or OwnersWord(run, signed, ledger)
        state = self.state
        self.slots = {slot: SlotRecords(floor=state.floor_epoch(slot)) for slot in state.slots_ever}
        now_s = time.time()
        self.hearing = Hearing(self.word, ledger, now_s)
        self.not_yet = NotYet()
        kept = KeptTips(self.word.open, ledger)
        self.history = kept.history
        self._tips = TipLife(self.word, kept, self.hearing)
        self._intake = BoardIntake(self.word, self.hearing, self._tips, me, self.with_part)
        self._tips.is_loading = True
        for slot, records in self.slots.items():
            records.past.update((tip.card.id, tip) for tip in kept.load_past(slot, MAX_PAST))
        kept.load(lambda envelope: self._load(envelope, now_s))
        self._tips.is_loading = False
        self.count_anew(now_s)

    @property
    def state(self) -> RunState:
        """Returns what the run is by now, by its owner's word."""
        return self.word.state

    @property
    def spec(self) -> RunSpec:
        """Returns the owner's RunSpec with all that notices changed."""
        return self.word.spec

    @property
    def refused(self) -> Counter[str]:
        """Returns how many records were refused for each reason."""
        return self._intake.refused

    @refused.setter
    def refused(self, counts: Counter[str]) -> None:
        self._intake.refused = counts

    def add(self, envelope: Envelope[Any], now_s: float) -> bool:
        """Keeps a verified record; returns True when it was new. Records of unknown slots are ignored.

        Cards and attestations count whatever their expiry says, which is the bulletin board's to keep them
        by: the last tip of a slot that is done stays the tip. Replaying an old one gains nothing, since its
        epoch and seq rank it.
        """
        record: Signed = envelope.record
        if record.run != self.run:
            return False
        if isinstance(record, NoticeRecord | MemberRecord):
            return bool(self.take_word([envelope], now_s))
        if record.slot not in self.slots or self._intake.refuses_kind(record):
            return False
        if not self.state.counts(envelope):
            self.not_yet.keep(envelope, self.state)
            return False
        return self._intake.keep(self.slots[record.slot], envelope, now_s)

    def claims(self, slot: str) -> tuple[Envelope[ClaimRecord], ...]:
        return tuple(self.slots[slot].claims.values())

    def tip(self, slot: str) -> Tip | None:
        return self.slots[slot].tip

    def view(self, slot: str, *, wanted: bool = True) -> ClaimView:
        """Returns what the rules decide about a slot's claims from."""
        used = frozenset(self.epochs_used(slot))
        return ClaimView(
            slot,
            self.claims(slot),
            self.tip(slot),
            self.spec.timing,
            wanted,
            used,
            self.hearing.heard(slot),
            self.state.floor_epoch(slot),
        )

    def pending(self, slot: str) -> list[Envelope[CardRecord]]:
        """Returns the cards that would follow the tip and have no quorum yet, oldest first."""
        return waiting_cards(self.slots[slot])

    def refusals(self, slot: str) -> list[Envelope[RefusalRecord]]:
        """Returns why peers that may attest refused cards that would follow the tip."""
        return list(self.slots[slot].refusals.values())

    def updates(self, slot: str) -> list[Envelope[UpdateRecord]]:
        """Returns the updates that a round may merge, in the order they came."""
        return list(self.slots[slot].crew.updates.values())

    def heard_at(self, update: str) -> float | None:
        """Returns when an update came here (Unix time), by its envelope's id; None where it is not kept."""
        found = (slot.crew.heard_s.get(update) for slot in self.slots.values())
        return next((at_s for at_s in found if at_s is not None), None)

    def workers(self, slot: str) -> tuple[Envelope[WorkerRecord], ...]:
        """Returns the newest record of each peer that says it works in the slot's crew, the first first."""
        return tuple(self.slots[slot].crew.workers.values())

    def crew(self, slot: str, lead: str, now_s: float) -> tuple[CrewMember, ...]:
        """Returns who is in a slot's crew beside `lead`, by what was heard here (rules/crews.py)."""
        spec, shelf = self.spec, self.slots[slot].crew
        if spec.crew is None:
            return ()
        workers, patience_s = tuple(shelf.workers.values()), self.hearing.heard(slot).patience_s
        return crew_of(
            workers,
            shelf.contributed,
            now_s,
            spec.crew,
            spec.timing,
            heard=shelf.since_s,
            patience_s=patience_s,
            lead=lead,
        )

    def names_update(self, blob_id: str) -> bool:
        """Tells whether an update that a round may merge is in this blob."""
        return any(blob_id in slot.crew.blobs for slot in tuple(self.slots.values()))

    def update_blobs(self, slot: str) -> set[str]:
        """Returns the blobs of a slot's updates that a round may merge, as anybody named them."""
        return set(self.slots[slot].crew.blobs)

    def contributors(self, slot: str) -> frozenset[str]:
        """Returns whose updates the last rounds of a slot merged, as far as is known here."""
        return self.slots[slot].crew.contributed

    def note_contributors(self, slot: str, peers: frozenset[str]) -> None:
        """Notes whose updates the last rounds of a slot merged."""
        self.slots[slot].crew.contributed = peers

    def tips(self, slot: str) -> list[Tip]:
        """Returns the tip, and those before it that are in memory (`history` has the others)."""
        records = self.slots[slot]
        return [*list(records.past.values()), *([records.tip] if records.tip else [])]

    def lineage(self, slot: str) -> tuple[str, ...]:
        """Returns the ids of the cards that an update may start from, the newest first."""
        return lineage_of(self.slots[slot]).recent

    def best(self, slot: str) -> Envelope[CardRecord] | None:
        """Returns the best attested card of the tip's lineage; None when there is no tip, or that card is
        not known here.
        """
        tip = self.slots[slot].tip
        if tip is None:
            return None
        return tip.card if tip.best == tip.card.id else card_of(self.slots[slot], tip.best)

    def attestors(self, card_id: str, slot: str) -> set[str]:
        return {signer for card, signer in self.slots[slot].attestations if card == card_id}

    def has_part(self, peer: str) -> bool:
        """Tells whether a peer has a part in this run that strangers cannot give themselves: its owner named
        it, it is behind a tip, or the rounds of one merged its updates.
        """
        return peer in self.with_part((peer,))

    def with_part(self, peers: Iterable[str]) -> frozenset[str]:
        """Returns those of the peers that have a part in this run, as `has_part` says."""
        state = self.state
        behind = {one.signer for slot in self.slots for one in self.tip_envelopes(slot)}
        merged = {peer for slot in self.slots.values() for peer in slot.crew.contributed}
        return frozenset(
            peer
            for peer in peers
            if state.is_named(peer) or (peer in behind | merged and not state.is_revoked(peer))
        )

    def behind_tips(self) -> set[str]:
        """Returns who made the tips that are remembered, and who attested them."""
        slots = list(self.slots.values())
        tips = [tip for slot in slots for tip in (*list(slot.past.values()), slot.tip) if tip is not None]
        return {one.signer for tip in tips for one in tip_envelopes(tip)}

    def signers_by_card(self, slot: str) -> dict[str, set[str]]:
        """Returns who attested each card, by its id."""
        return signers_by_card(self.slots[slot])

    def epochs_used(self, slot: str) -> Mapping[int, frozenset[str]]:
        """Returns the epochs whose place after the tip has an attested card, and the cards: a new lead goes
        above them.
        """
        records = self.slots[slot]
        cards, attestations = list(records.cards.values()), list(records.attestations.values())
        return epochs_used(cards, attestations, lambda _: True, records.tip)

    def attestors_of_unknown(self, slot: str) -> set[str]:
        """Returns who attested a card that would follow the tip and that this peer has never seen."""
        return attestors_of_unknown(self.slots[slot])

    def records_under(self, key: str) -> list[bytes]:
        """Returns the envelopes that this peer would store under a DHT key, for a peer that asks directly."""
        return records_under(self.run, self.slots, self.word, self.hearing, key)

    def tip_envelopes(self, slot: str) -> list[Envelope[Any]]:
        return tip_envelopes(self.slots[slot].tip)

    def take_word(self, envelopes: Sequence[Envelope[Any]], now_s: float) -> list[Envelope[Any]]:
        """Takes verified notices and member records, and returns those that told something new; then all that
        is known is counted anew.
        """
        new = []
        for envelope in envelopes:
            if isinstance(envelope.record, NoticeRecord):
                is_new = self.word.add_notice(envelope)
            else:
                is_new = self._is_member(envelope)
            new += [envelope] if is_new else []
        if any(isinstance(one.record, NoticeRecord) for one in new):
            self.count_anew(now_s)
        elif new and self.not_yet:  # a certificate lets more count, and no less
            self._count_now(now_s)
        return new

    def _is_member(self, member: Envelope[MemberRecord]) -> bool:
        try:
            return self.word.add_member(member)
        except RecordError as error:
            log.info("a member record was refused: %s", error)
            self.refused["member record"] += 1
            return False

    def count_anew(self, now_s: float) -> None:
        """Counts all that is known by the state of now: tips go back where the owner took them back, and what
        did not count before may.
        """
        state = self.state
        for name in state.slots_ever:
            if name not in self.slots:
                self.slots[name] = SlotRecords()
                self.hearing.add_slot(name, now_s)
        if not (state.notices or state.admissions):
            return
        for name, slot in self.slots.items():
            slot.floor = state.floor_epoch(name)
            drop_void(slot, state)
            self._tips.back(slot, name, now_s)
            self._tips.forward(slot, name, now_s)
        self._count_now(now_s)

    def _count_now(self, now_s: float) -> None:
        """Takes the records that did not count when they came and do now."""
        for envelope in self.not_yet.take(self.state):
            self.add(envelope, now_s)

    def _load(self, envelope: Envelope[Any], now_s: float) -> None:
        """Takes one record of a tip from before a restart."""
        if isinstance(envelope.record, CardRecord):
            absurd = impossible(envelope.record, self._intake.age(self.slots[envelope.record.slot], now_s))
            if absurd is not None:
                raise RecordError(
                    f"its card has epoch {envelope.record.epoch} and seq {envelope.record.seq}: {absurd}"
                )
        self.add(envelope, min(envelope.record.issued_at, now_s))
