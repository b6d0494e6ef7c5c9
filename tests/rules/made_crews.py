"""Signed updates and workers for tests, with everything that does not matter filled in."""

from __future__ import annotations

from typing import Any

from paris_p2p.crew_records import UpdateRecord, WorkerRecord
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.records import BlobRef
from tests.rules.made import NOW, RUN, SLOT, TIMING


def worker(
    peer: Identity, joined_at: float = NOW, issued_at: float | None = None, **more: Any
) -> Envelope[WorkerRecord]:
    issued = joined_at if issued_at is None else issued_at
    fields: dict[str, Any] = {
        "run": RUN,
        "slot": SLOT,
        "seq": int(issued * 1000),
        "issued_at": issued,
        "expires_at": issued + TIMING.claim_s,
    } | more
    return seal(peer, WorkerRecord(joined_at=joined_at, **fields))


def update(peer: Identity, base: str, seq: int = 1, **more: Any) -> Envelope[UpdateRecord]:
    fields: dict[str, Any] = {
        "run": RUN,
        "slot": SLOT,
        "seq": seq,
        "issued_at": NOW,
        "expires_at": NOW + 3600.0,
        "blob": BlobRef(id=f"{seq:02x}" * 32, size_bytes=1000),
        "steps": 10,
        "clips": 80,
        "first_clip": 0,
        "train_loss": 1.0,
    } | more
    return seal(peer, UpdateRecord(base=base, **fields))
