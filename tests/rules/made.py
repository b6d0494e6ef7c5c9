"""Signed claims, cards and attestations for tests of the rules, with everything that does not matter
filled in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.records import AttestationRecord, BlobRef, CardRecord, ClaimRecord
from paris_p2p.rules.claims import ClaimView, leads_of, may_publish_card
from paris_p2p.rules.tips import Tip
from paris_p2p.spec import TimingSpec

RUN = "ab" * 32
SLOT = "expert-0"
NOW = 1_800_000_000.0
TIMING = TimingSpec(claim_s=120.0, settle_s=5.0, margin_s=5.0)
PEERS = tuple(Identity.from_private_bytes(bytes([number]) * 32) for number in range(1, 7))
A, B, C, D, *_ = PEERS


def claim(
    peer: Identity, epoch: int = 1, claimed_at: float = NOW, issued_at: float | None = None, **more: Any
) -> Envelope[ClaimRecord]:
    issued = claimed_at if issued_at is None else issued_at
    fields: dict[str, Any] = {
        "run": RUN,
        "slot": SLOT,
        "seq": int(issued * 1000),
        "issued_at": issued,
        "expires_at": issued + TIMING.claim_s,
    } | more
    return seal(peer, ClaimRecord(epoch=epoch, claimed_at=claimed_at, **fields))


def kept(claims: Iterable[Envelope[ClaimRecord]]) -> tuple[Envelope[ClaimRecord], ...]:
    """One claim of each signer, its highest, as a board keeps them."""
    highest: dict[str, Envelope[ClaimRecord]] = {}
    for one in claims:
        known = highest.get(one.signer)
        if known is None or (one.record.seq, one.payload) > (known.record.seq, known.payload):
            highest[one.signer] = one
    return tuple(highest.values())


def card(peer: Identity, parent: Envelope[CardRecord] | None = None, /, **more: Any) -> Envelope[CardRecord]:
    before = parent.record if parent else None
    fields: dict[str, Any] = {
        "run": RUN,
        "slot": SLOT,
        "seq": before.seq + 1 if before else 1,
        "epoch": (before.epoch + (parent.signer != peer.peer_id)) if before and parent else 1,
        "parent": parent.id if parent else "",
        "issued_at": NOW,
        "expires_at": NOW + 86400.0,
        "weights": BlobRef(id="01" * 32, size_bytes=1),
        "resume": BlobRef(id="02" * 32, size_bytes=1),
        "clips": (before.clips if before else 0) + 100,
        "steps": (before.steps if before else 0) + 10,
        "train_loss": 1.0,
    } | more
    return seal(peer, CardRecord(**fields))


def attest(
    peer: Identity, of: Envelope[CardRecord], loss: float = 1.0, **more: Any
) -> Envelope[AttestationRecord]:
    fields: dict[str, Any] = {
        "run": RUN,
        "slot": of.record.slot,
        "seq": of.record.seq,
        "epoch": of.record.epoch,
        "card": of.id,
        "issued_at": NOW,
        "expires_at": NOW + 86400.0,
        "reference_loss": 1.0,
        "best": of.id,
        "gate_clips": 64,
    } | more
    return seal(peer, AttestationRecord(loss=loss, **fields))


def tip(of: Envelope[CardRecord], by: Identity = D) -> Tip:
    return Tip(of, (attest(by, of),))


def may_publish(view: ClaimView, card: Envelope[CardRecord], now_s: float) -> bool:
    """Says whether the card's maker may publish it, by the leads that follow from the view."""
    leads = leads_of(view.claims, view.tip, now_s, view.timing, view.heard)
    return may_publish_card(leads, view, card, now_s)
