"""What a run is by now: a pure function of its RunSpec, its owner's notices, certificates, and the clock.

Whatever asks who may take part, which slots and numbers a run has, whether it is paused, or whether a record
still counts, asks this state (docs/protocol.md, "Notices").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paris_p2p.crew_records import WorkerRecord
from paris_p2p.envelope import Envelope
from paris_p2p.owner_records import (
    RIGHTS,
    Admit,
    CertificateRecord,
    End,
    Pause,
    Resume,
    Revoke,
    RevokeCard,
    Right,
)
from paris_p2p.records import AttestationRecord, CardRecord, ClaimRecord, RefusalRecord
from paris_p2p.rules.chain import Notice
from paris_p2p.rules.effective import effective_spec
from paris_p2p.spec import ROUTER, RunSpec

Certificate = Envelope[CertificateRecord]
_NAMED: frozenset[Right] = frozenset({"train", "attest", "generate"})  # of peers that the RunSpec names
_FOREVER_S = float("inf")


@dataclass(frozen=True)
class Admission:
    """Says what a peer may do, from when until when, by whose word."""

    rights: frozenset[Right]
    from_s: float
    until_s: float
    by: str  # peer-id form of the signer
    name: str = ""
    companion_of: str = ""  # the peer of the same machine, of a generator

    def holds(self, at_s: float) -> bool:
        return at_s < self.until_s


@dataclass(frozen=True)
class Revocation:
    """Says from when on what a peer signs counts for nothing, and until it was admitted anew."""

    number: int  # of the notice
    told_s: float
    since_s: float
    keeps: frozenset[str]  # peers whose certificates by the revoked one go on
    until_s: float = _FOREVER_S

    def voids(self, at_s: float) -> bool:
        return self.since_s <= at_s < self.until_s


@dataclass(frozen=True)
class CardFloor:
    """Says which cards of a slot a revoked card takes with it."""

    number: int  # of the notice
    card: str
    place: int
    epoch: int

    def voids(self, epoch: int, seq: int) -> bool:
        return seq >= self.place and epoch < self.epoch


@dataclass(frozen=True)
class RunState:
    """Is a run as of one moment; `spec` is the owner's RunSpec with all that notices changed."""

    run: str
    spec: RunSpec
    signed: RunSpec  # as the owner signed it
    now_s: float
    notices: tuple[Notice, ...] = ()
    paused: Notice | None = None
    ended: Notice | None = None
    admissions: Mapping[str, tuple[Admission, ...]] = field(default_factory=dict)  # by peer
    revocations: Mapping[str, tuple[Revocation, ...]] = field(default_factory=dict)  # by peer, oldest first
    floors: Mapping[str, tuple[CardFloor, ...]] = field(default_factory=dict)  # by slot
    key_hashes: tuple[str, ...] = ()  # of a private run's keys 1, 2, …
    _specs: dict[int, RunSpec] = field(default_factory=dict, compare=False, repr=False)  # by number

    @property
    def number(self) -> int:
        """Returns the number of the newest notice that this state rests on; 0 for none."""
        return len(self.notices)

    @property
    def head(self) -> str:
        return self.notices[-1].id if self.notices else self.run

    def is_revoked(self, peer: str) -> bool:
        return any(one.until_s == _FOREVER_S for one in self.revocations.get(peer, ()))

    def rights(self, peer: str) -> frozenset[Right]:
        """Returns what a peer may do now."""
        return frozenset() if self.is_revoked(peer) else self.rights_at(peer, self.now_s)

    def may(self, peer: str, right: Right) -> bool:
        return right in self.rights(peer)

    def is_member(self, peer: str) -> bool:
        """Tells whether a peer has any part in the run; in an open run everybody has that is not revoked."""
        return bool(self.rights(peer))

    def may_attest(self, peer: str) -> bool:
        """Tells whether a peer's attestations and refusals count."""
        return "attest" in self.rights(peer)

    def is_named(self, peer: str) -> bool:
        """Tells whether a peer has a part in the run that strangers cannot give themselves: by its owner's
        word.
        """
        if not peer or self.is_revoked(peer):
            return False
        if peer == self.signed.owner_node or peer in self.signed.gate.attestors:
            return True
        return any(one.holds(self.now_s) for one in self.admissions.get(peer, ()))

    def rights_at(self, peer: str, at_s: float) -> frozenset[Right]:
        """Returns what a peer might do at a moment, leaving aside whether it was revoked."""
        rights: frozenset[Right] = frozenset()
        if peer and peer == self.signed.owner_node:
            # In an open run peers of the first version count its attestations only where the RunSpec names
            # it.
            rights = frozenset(RIGHTS) if self.signed.members_only else frozenset(RIGHTS) - {"attest"}
        if not self.signed.members_only:
            rights |= {"train", "generate", "store"}
            rights |= {"attest"} if self.signed.gate.members_attest else set()
        if peer in self.signed.gate.attestors:
            rights |= _NAMED
        held = (one.rights for one in self.admissions.get(peer, ()) if one.holds(at_s))
        return rights.union(*held)

    def counts(self, envelope: Envelope[Any]) -> bool:
        """Tells whether a claim, card, attestation, refusal, update or worker may count, by its signer, date
        and place.
        """
        return not self._is_void(envelope) and self._has_right(envelope)

    def lacks_right(self, envelope: Envelope[Any]) -> bool:
        """Tells whether a record does not count for want of its signer's right alone, which may come yet."""
        return not self._is_void(envelope) and not self._has_right(envelope)

    def _has_right(self, envelope: Envelope[Any]) -> bool:
        right: Right = "attest" if isinstance(envelope.record, AttestationRecord | RefusalRecord) else "train"
        return right in self.rights_at(envelope.signer, envelope.record.issued_at)

    def _is_void(self, envelope: Envelope[Any]) -> bool:
        """Tells whether a notice took a record back, for good."""
        record = envelope.record
        if any(one.voids(record.issued_at) for one in self.revocations.get(envelope.signer, ())):
            return True
        if isinstance(record, WorkerRecord):
            return self.is_revoked(envelope.signer)
        if isinstance(record, ClaimRecord):  # it is about now: nobody waits for a revoked lead's to run out
            return self.is_revoked(envelope.signer) or record.epoch < self.floor_epoch(record.slot)
        if isinstance(record, CardRecord | AttestationRecord | RefusalRecord):
            return any(floor.voids(record.epoch, record.seq) for floor in self.floors.get(record.slot, ()))
        return False

    def attests(self, attestation: Envelope[AttestationRecord], card: Envelope[CardRecord]) -> bool:
        """Tells whether an attestation counts for the card that it names.

        A revoked peer's does not for a card that was made since, whatever date it bears itself.
        """
        revocations = self.revocations.get(attestation.signer, ())
        late = any(one.voids(card.record.issued_at) for one in revocations)
        return not late and self.counts(attestation) and self.counts(card)

    @property
    def slots_ever(self) -> tuple[str, ...]:
        """Returns the run's slots with those of experts that were dropped: what they made stays fetchable."""
        return (*(f"expert-{k}" for k in range(self.spec.experts)), ROUTER)

    def next_date_s(self) -> float:
        """Returns when this state may become another by the clock alone."""
        ends = (one.until_s for held in self.admissions.values() for one in held)
        return min((end for end in ends if end > self.now_s), default=_FOREVER_S)

    def floor_epoch(self, slot: str) -> int:
        """Returns the lowest epoch that a claim of the slot may have."""
        return max((floor.epoch for floor in self.floors.get(slot, ())), default=0)

    def spec_at(self, number: int) -> RunSpec:
        """Returns the RunSpec as it was by the first `number` notices."""
        if number >= self.number:
            return self.spec
        if number not in self._specs:  # a long chain takes a while, and is asked for again and again
            self._specs[number] = effective_spec(self.signed, self.notices[:number])
        return self._specs[number]


def run_state(
    run: str,
    spec: RunSpec,
    notices: Sequence[Notice],
    now_s: float,
    certificates: Iterable[Certificate] = (),
) -> RunState:
    """Returns what a run is at `now_s`, by the notices 1 … n of its chain, in order, and by the certificates.

    The same arguments give the same state on every peer; certificates that are worth nothing are passed over.
    """
    tally = _Tally(spec)
    for notice in notices:
        tally.take(notice)
    _admit_by_certificate(tally, spec, certificates)
    return RunState(
        run=run,
        spec=effective_spec(spec, notices),
        signed=spec,
        now_s=now_s,
        notices=tuple(notices),
        paused=tally.paused,
        ended=tally.ended,
        admissions=tally.admissions,
        revocations=tally.revocations,
        floors=tally.floors,
        key_hashes=tally.key_hashes,
    )


class _Tally:
    """Adds up notices, in order."""

    def __init__(self, spec: RunSpec) -> None:
        self.paused: Notice | None = None
        self.ended: Notice | None = None
        self.admissions: dict[str, tuple[Admission, ...]] = {}
        self.revocations: dict[str, tuple[Revocation, ...]] = {}
        self.floors: dict[str, tuple[CardFloor, ...]] = {}
        self.key_hashes: tuple[str, ...] = (spec.key_hash,) if spec.key_hash else ()

    def take(self, notice: Notice) -> None:
        record = notice.record
        change, at_s = record.change, record.issued_at
        if isinstance(change, Admit):
            self._admit(change, notice, at_s)
        elif isinstance(change, Revoke):
            self._revoke(change, record.seq, at_s)
        elif isinstance(change, RevokeCard):
            floor = CardFloor(record.seq, change.card, change.place, change.floor)
            self.floors[change.slot] = (*self.floors.get(change.slot, ()), floor)
        elif isinstance(change, Pause):
            self.paused = notice
        elif isinstance(change, Resume):
            self.paused = None
        elif isinstance(change, End):
            self.ended = self.ended or notice

    def _admit(self, change: Admit, notice: Notice, at_s: float) -> None:
        rights = frozenset(change.rights)
        one = Admission(rights, at_s, change.until, notice.signer, change.name)
        self.admissions[change.peer] = (*self.admissions.get(change.peer, ()), one)
        past = self.revocations.get(change.peer, ())
        self.revocations[change.peer] = tuple(replace(last, until_s=min(last.until_s, at_s)) for last in past)

    def _revoke(self, change: Revoke, number: int, at_s: float) -> None:
        since_s = at_s if change.since is None else min(change.since, at_s)
        one = Revocation(number, at_s, since_s, frozenset(change.keeps))
        self.revocations[change.peer] = (*self.revocations.get(change.peer, ()), one)
        held = self.admissions.get(change.peer, ())
        # what it did before was in order, and stays so
        self.admissions[change.peer] = tuple(
            replace(past, until_s=min(past.until_s, since_s)) for past in held
        )
        if change.next_key:
            self.key_hashes = (*self.key_hashes, change.next_key)


def _admit_by_certificate(tally: _Tally, spec: RunSpec, certificates: Iterable[Certificate]) -> None:
    """Adds what certificates allow: those of the owner's key first, since these may name delegates."""
    known = sorted(certificates, key=lambda one: (one.signer != spec.owner, one.record.issued_at, one.id))
    for certificate in known:
        record, signer = certificate.record, certificate.signer
        rights = frozenset(record.rights)
        if signer != spec.owner:
            rights -= {"admit"}
        until_s = min(record.expires_at, _signs_until_s(tally, spec, certificate))
        if until_s <= record.issued_at:
            continue
        both = (record.peer, record.companion_of)  # who is revoked takes the same machine's other key along
        revocations = [one for peer in both for one in tally.revocations.get(peer, ())]
        if any(one.voids(record.issued_at) for one in revocations):
            continue
        later = (one.since_s for one in revocations if one.since_s > record.issued_at)
        one = Admission(
            rights, record.issued_at, min((until_s, *later)), signer, companion_of=record.companion_of
        )
        tally.admissions[record.peer] = (*tally.admissions.get(record.peer, ()), one)


def _signs_until_s(tally: _Tally, spec: RunSpec, certificate: Certificate) -> float:
    """Returns until when a certificate can count by its signer's word; -inf where it does not.

    A delegate gives no time that it does not have itself: else one whose right has ended, or who has its key
    then, would go on with certificates that are dated back.
    """
    signer, record = certificate.signer, certificate.record
    if signer == spec.owner:
        return _FOREVER_S
    revocations = tally.revocations.get(signer, ())
    # One that was admitted anew may sign anew; what is dated before may have been made by anybody.
    past = [one for one in revocations if record.issued_at < one.until_s]
    if past:
        # Not also by `companion_of`, which says what the signer wants: it would let in whom it likes.
        return _FOREVER_S if all(record.peer in one.keeps for one in past) else -_FOREVER_S
    if signer == spec.owner_node:
        return _FOREVER_S
    held = tally.admissions.get(signer, ())
    ends = [one.until_s for one in held if "admit" in one.rights and one.holds(record.issued_at)]
    return max(ends, default=-_FOREVER_S)
