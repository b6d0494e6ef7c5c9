"""Makes cards and attestations of a slot, signed as leads and attestors do."""

from __future__ import annotations

from paris_p2p.dev_swarm.papers import Papers
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.records import AttestationRecord, BlobRef, CardRecord

RUN, SLOT = "ab" * 32, "expert-0"
LEADS = [Identity.from_private_bytes(bytes([number]) * 32) for number in range(1, 4)]
ATTESTOR = Identity.from_private_bytes(bytes([9]) * 32)


def card(
    lead: int, epoch: int, seq: int, parent: str = "", *, steps: int = 0, at: float = 0.0
) -> Envelope[CardRecord]:
    record = CardRecord(
        run=RUN,
        slot=SLOT,
        seq=seq,
        issued_at=1000.0 + at,
        expires_at=2000.0 + at,
        epoch=epoch,
        parent=parent,
        weights=BlobRef(id="00" * 32, size_bytes=1),
        resume=BlobRef(id="11" * 32, size_bytes=1),
        clips=8 * steps,
        steps=steps,
        train_loss=1.0,
    )
    return seal(LEADS[lead], record)


def attestation(
    of: Envelope[CardRecord], *, by: Identity = ATTESTOR, at: float = 0.0
) -> Envelope[AttestationRecord]:
    record = AttestationRecord(
        run=RUN,
        slot=SLOT,
        seq=of.record.seq,
        issued_at=of.record.issued_at + 1.0 + at,
        expires_at=of.record.expires_at,
        epoch=of.record.epoch,
        card=of.id,
        loss=1.0,
        reference_loss=1.0,
        best=of.id,
        gate_clips=4,
    )
    return seal(by, record)


def chain(*places: tuple[int, int, int], every_s: float = 10.0) -> list[Envelope[CardRecord]]:
    """Returns cards after one another: (lead, epoch, steps) of each."""
    cards: list[Envelope[CardRecord]] = []
    for number, (lead, epoch, steps) in enumerate(places, 1):
        parent = cards[-1].id if cards else ""
        cards.append(card(lead, epoch, number, parent, steps=steps, at=every_s * number))
    return cards


def papers_of(
    cards: list[Envelope[CardRecord]], attested: list[Envelope[AttestationRecord]] | None = None
) -> Papers:
    papers = Papers()
    papers._take([*cards, *(attested if attested is not None else map(attestation, cards))])
    return papers
