"""Honest and lying peers around a run's slots, on real boards and the rules, with a clock moved by hand and
no network.

Shared by the test and by `bench/claims.py`. Readers differ in how late news reach them and in when they
joined; every honest peer and every attestor decides from its own reader's board, as a volunteer does.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.node.board import Board
from paris_p2p.records import AttestationRecord, BlobRef, CardRecord, ClaimRecord
from paris_p2p.rules.claims import decide_claim, has_room
from paris_p2p.rules.placement import SlotState, choose_slot
from paris_p2p.rules.tips import refuse_card
from paris_p2p.spec import GateSpec, RunSpec, TimingSpec
from paris_p2p.store.ledger import Ledger
from tests.rules.made import may_publish

TIMING = TimingSpec(claim_s=60.0, settle_s=5.0, margin_s=5.0, checkpoint_s=15.0)
GATE_S = 8.0  # from a card to its attestation, blobs and gate
LOOK_S = 15.0  # between two looks of a peer that stands by
RESEND_S = 90.0
START_S = 2e9
RUN = "ab" * 32
BLOB = BlobRef(id="01" * 32, size_bytes=1)


class MemoryLedger(Ledger):
    """A ledger that no disk slows down."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.path = Path()

    def put(self, key: str, data: bytes) -> None:
        self.values[key] = data

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

    def items(self, prefix: str = "") -> Any:
        return iter([(key, data) for key, data in sorted(self.values.items()) if key.startswith(prefix)])


@dataclass
class Reader:
    """A board, and how late it hears of things."""

    board: Board
    late_s: float
    joins_s: float = 0.0
    mail: list[tuple[float, int, Envelope[Any]]] = field(default_factory=list)


@dataclass
class Honest:
    """A volunteer: looks, claims, settles, trains; leaves its slot now and then."""

    identity: Identity
    reader: Reader
    card_s: float  # from one checkpoint to the next
    stays_s: float
    slot: str = ""
    claim: ClaimRecord | None = None
    since_s: float = 0.0  # it holds the slot
    base: str | None = None  # the card its training goes on from
    card: Envelope[CardRecord] | None = None
    told_s: float = 0.0
    rests_until_s: float = 0.0

    @property
    def me(self) -> str:
        return self.identity.peer_id


@dataclass
class Liar:
    """Holds a slot's claim under one key after another and never makes a card."""

    slot: str
    backdates: bool
    changes_key: bool
    hold_s: float  # then it releases and comes back
    identity: Identity
    since_s: float = -1.0
    claimed_at: float = 0.0


class ClaimsWorld:
    """`run(seconds)`; `tips` says when each slot's tip moved, `doubled_s` how long slots had several
    honest leads.
    """

    def __init__(self, spec: RunSpec, *, honest: int, liars: int, seed: int = 0):
        self.rng, self.run_id, self.spec, self.now = random.Random(seed), RUN, spec, START_S
        self.readers = [Reader(Board(RUN, spec, MemoryLedger()), late) for late in (0.5, 1.0, 2.0, 4.0)]
        self.readers += [
            Reader(Board(RUN, spec, MemoryLedger()), 1.0, START_S + joins) for joins in (300.0, 900.0)
        ]
        self.attestors = [self._key() for _ in self.readers[:3]]
        self.chosen: dict[tuple[int, str, int, int], str] = {}  # by attestor and place
        self.honest = [self._honest(number) for number in range(honest)]
        self.liars = [self._liar(number) for number in range(liars)]
        self.tips: dict[str, list[float]] = {slot: [] for slot in spec.slots}
        self.doubled_s = 0.0
        self._sent = 0
        self._said: dict[tuple[str, str], Envelope[Any]] = {}  # what the bulletin board holds

    def _key(self) -> Identity:
        return Identity.from_private_bytes(self.rng.randbytes(32))  # the same in every run of the program

    def _honest(self, number: int) -> Honest:
        slow = 4.0 if number % 10 == 9 else 1.0
        card_s = slow * self.spec.timing.checkpoint_s * self.rng.uniform(0.8, 1.3)
        return Honest(self._key(), self.readers[number % 6], card_s, self.rng.uniform(300.0, 1200.0))

    def _liar(self, number: int) -> Liar:
        patience_s = self.readers[0].board.hearing.heard(self.spec.slots[0]).patience_s
        kind = number % 4  # backdates for ever, squats for ever, releases and comes back, changes keys
        hold_s = (1e9, 1e9, 0.8 * patience_s, 0.6 * patience_s)[kind]
        return Liar(self.rng.choice(self.spec.slots), kind in (0, 3), kind == 3, hold_s, self._key())

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self._deliver()
            for liar in self.liars:
                self._lie(liar)
            for number, peer in enumerate(self.honest):
                if self.now >= peer.reader.joins_s and (
                    peer.slot or int(self.now + number) % int(LOOK_S) == 0
                ):
                    self._live(peer)
            if int(self.now) % 2 == 0:
                for number in range(len(self.attestors)):
                    self._attest(number)
            leads = [peer.slot for peer in self.honest if peer.base is not None]
            self.doubled_s += len(leads) - len(set(leads))

    # news

    def _say(self, identity: Identity, record: Any, of: Reader | None = None) -> Envelope[Any]:
        envelope = seal(identity, record)
        self._sent += 1
        self._said[identity.peer_id, f"{record.kind}/{record.slot}"] = envelope
        for reader in self.readers:
            late_s = 0.0 if reader is of else reader.late_s
            heapq.heappush(reader.mail, (self.now + late_s, self._sent, envelope))
        if of is not None:
            self._deliver_to(of)
        return envelope

    def _deliver(self) -> None:
        for reader in self.readers:
            if reader.joins_s and reader.joins_s <= self.now:  # what it finds when it comes
                reader.joins_s, reader.mail = 0.0, []
                for envelope in self._said.values():
                    reader.board.add(envelope, self.now)
            if not reader.joins_s:
                self._deliver_to(reader)

    def _deliver_to(self, reader: Reader) -> None:
        while reader.mail and reader.mail[0][0] <= self.now:
            envelope = heapq.heappop(reader.mail)[2]
            before = reader.board.tip(envelope.record.slot)
            reader.board.add(envelope, self.now)
            tip = reader.board.tip(envelope.record.slot)
            if (
                reader is self.readers[0]
                and tip is not None
                and (before is None or tip.card.id != before.card.id)
            ):
                self.tips[envelope.record.slot].append(self.now)

    def _claim(self, slot: str, epoch: int, claimed_at: float, *, released: bool = False) -> ClaimRecord:
        ends = self.now + self.spec.timing.claim_s
        return ClaimRecord(
            run=self.run_id,
            slot=slot,
            seq=int(self.now * 1000),
            issued_at=self.now,
            expires_at=ends,
            epoch=epoch,
            claimed_at=claimed_at,
            released=released,
        )

    # liars

    def _lie(self, liar: Liar) -> None:
        if liar.since_s >= 0 and int(self.now - liar.since_s) % int(self.spec.timing.claim_s / 3):
            return
        tip = self.readers[0].board.tip(liar.slot)
        epoch = tip.card.record.epoch + 1 if tip else 1
        if liar.since_s < 0 or self.now - liar.since_s >= liar.hold_s:
            if liar.since_s >= 0:
                self._say(liar.identity, self._claim(liar.slot, epoch, liar.claimed_at, released=True))
                self.now += 1e-3  # the next one has a higher seq
            if liar.changes_key:
                liar.identity = self._key()
            liar.since_s, liar.claimed_at = self.now, 1.0 if liar.backdates else self.now
        self._say(liar.identity, self._claim(liar.slot, epoch, liar.claimed_at))

    # honest peers

    def _live(self, peer: Honest) -> None:
        if not peer.slot:
            self._look(peer)
            return
        view = peer.reader.board.view(peer.slot, wanted=self.now < peer.since_s + peer.stays_s)
        decision = decide_claim(view, peer.me, self.now)
        assert peer.claim is not None
        if decision.action == "settle":
            return
        if decision.action not in ("train", "hold", "claim"):
            self._leave(peer)
            return
        if decision.action != "train":
            peer.claim = self._claim(peer.slot, peer.claim.epoch, peer.claim.claimed_at)
            self._say(peer.identity, peer.claim, peer.reader)
        self._train(peer)

    def _look(self, peer: Honest) -> None:
        if self.now < peer.rests_until_s:
            return
        board, me = peer.reader.board, peer.me
        views = {slot: board.view(slot) for slot in self.spec.slots}
        clips = {slot: (view.tip.card.record.clips if view.tip else 0) for slot, view in views.items()}
        states = [
            SlotState(slot, "" if has_room(view, me, self.now) else "taken", clips[slot])
            for slot, view in views.items()
        ]
        choice = choose_slot(states, me)
        if choice is None:
            return
        decision = decide_claim(views[choice.slot], me, self.now)
        if decision.action == "claim":
            peer.slot, peer.since_s = choice.slot, self.now
            peer.claim = self._claim(peer.slot, decision.epoch, self.now)
            self._say(peer.identity, peer.claim, peer.reader)

    def _leave(self, peer: Honest) -> None:
        assert peer.claim is not None
        self.now += 1e-3
        released = self._claim(peer.slot, peer.claim.epoch, peer.claim.claimed_at, released=True)
        self._say(peer.identity, released, peer.reader)
        peer.slot, peer.claim, peer.base, peer.card = "", None, None, None
        peer.rests_until_s = self.now + 30.0

    def _train(self, peer: Honest) -> None:
        tip = peer.reader.board.tip(peer.slot)
        at = tip.card.id if tip else ""
        if peer.card is not None and peer.card.id == at:
            peer.base, peer.card = at, None
        elif peer.base != at:
            # it begins, or begins anew from another's tip
            peer.base, peer.card, peer.told_s = at, None, self.now
        wait_s = RESEND_S if peer.card is not None else peer.card_s
        if self.now - peer.told_s < wait_s or peer.claim is None:
            return
        last = tip.card.record if tip else None
        peer.told_s = self.now
        card = CardRecord(
            run=self.run_id, slot=peer.slot, seq=last.seq + 1 if last else 1, issued_at=self.now,
            expires_at=self.now + 86400.0, epoch=peer.claim.epoch, parent=at, weights=BLOB, resume=BLOB,
            clips=(last.clips if last else 0) + 40, steps=(last.steps if last else 0) + 10, train_loss=1.0,
        )  # fmt: skip
        peer.card = self._say(peer.identity, card, peer.reader)

    # attestors

    def _attest(self, number: int) -> None:
        reader, identity = self.readers[number], self.attestors[number]
        for slot in self.spec.slots:
            for card in reader.board.pending(slot):
                record, came_s = card.record, reader.board.slots[slot].seen_at_s[card.id]
                place = (number, slot, record.epoch, record.seq)
                lead = card.signer if may_publish(reader.board.view(slot), card, self.now) else ""
                reason = refuse_card(
                    card, reader.board.tip(slot), lead, self.chosen.get(place), identity.peer_id
                )
                if reason is not None or self.now < came_s + GATE_S or place in self.chosen:
                    continue
                self.chosen[place] = card.id
                attestation = AttestationRecord(
                    run=self.run_id,
                    slot=slot,
                    seq=record.seq,
                    epoch=record.epoch,
                    card=card.id,
                    issued_at=self.now,
                    expires_at=self.now + 86400.0,
                    loss=1.0,
                    reference_loss=1.0,
                    best=card.id,
                    gate_clips=4,
                )
                self._say(identity, attestation, reader)


def made_world(make_run: Callable[[GateSpec, TimingSpec], Any], **more: Any) -> ClaimsWorld:
    """A world of a run in which every member may attest and one signature is enough."""
    return ClaimsWorld(make_run(GateSpec(), TIMING).record, **more)


def longest_gap_s(tips: Sequence[float], start_s: float, end_s: float) -> float:
    """The longest time in which a slot's tip did not move."""
    at = [start_s, *tips, end_s]
    return max(after - before for before, after in itertools.pairwise(at))
