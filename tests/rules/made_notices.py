"""An owner's notices for tests: signed, numbered, each naming the one before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.bare_run import bare_run
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.kinds import SIGNED_LIFETIME_S
from paris_p2p.owner_records import AnyChange, CertificateRecord, NoticeRecord, Right
from paris_p2p.records import BlobRef
from paris_p2p.rules.run_state import RunState, run_state
from paris_p2p.spec import LatentShape, RunSpec, ShardRef, TextShape, sign_run

from .made import NOW

OWNER = Identity.from_private_bytes(bytes([77]) * 32)
_DAY_S = 86400.0


def made_run(**fields: object) -> Envelope[RunSpec]:
    """A small run of two experts with a shard of each cluster, signed by OWNER."""
    shards = tuple(
        ShardRef(blob=BlobRef(id=bytes([k + 1]).hex() * 32, size_bytes=9), clips=4, cluster=k) for k in (0, 1)
    )
    latent = LatentShape(channels=4, frames=4, height=4, width=4)
    text = TextShape(tokens=8, dim=8, pooled_dim=8)
    named = {"created_at": NOW, "experts": 2, "train_shards": shards, "gate_shards": shards} | fields
    return sign_run(OWNER, bare_run(latent, text, **named))


def chain_of(
    run: str, changes: Iterable[AnyChange], owner: Identity = OWNER, at_s: float = NOW
) -> list[Envelope[NoticeRecord]]:
    """Notices 1, 2, … with these changes, ten seconds apart."""
    notices: list[Envelope[NoticeRecord]] = []
    for number, change in enumerate(changes, 1):
        when = at_s + 10.0 * (number - 1)
        record = NoticeRecord(
            run=run,
            slot="",
            seq=number,
            issued_at=when,
            expires_at=when + SIGNED_LIFETIME_S["notice"],
            previous=notices[-1].id if notices else run,
            change=change,
        )
        notices.append(seal(owner, record))
    return notices


def certificate(
    by: Identity,
    run: str,
    peer: str,
    rights: Sequence[Right],
    at_s: float = NOW,
    lasts_s: float = _DAY_S,
) -> Envelope[CertificateRecord]:
    record = CertificateRecord(
        run=run, slot="", seq=1, issued_at=at_s, expires_at=at_s + lasts_s, peer=peer, rights=tuple(rights)
    )
    return seal(by, record)


def state_of(
    run: Envelope[RunSpec],
    *changes: AnyChange,
    now_s: float = NOW + 1000,
    certificates: Iterable[Envelope[CertificateRecord]] = (),
) -> RunState:
    """What a run is once its owner said all of this."""
    return run_state(run.id, run.record, chain_of(run.id, changes), now_s, certificates)
