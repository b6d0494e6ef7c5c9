"""Who leads a slot: a pure function of verified claims, the tip's epoch and the clock (DESIGN: claim).

A claim is advice that keeps honest peers from working twice; the fence is the attestation (tips.py). A liar may backdate
`claimed_at` and so block a slot with a claim of its own; it cannot make anybody sign its cards out of turn.
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from paris_p2p.envelope import Envelope
from paris_p2p.identity import peer_id_to_bytes
from paris_p2p.records import ClaimRecord
from paris_p2p.spec import TimingSpec

CLOCK_SLACK_S = 3.0  # peers' clocks agree within this


def lead_of(claims: Iterable[Envelope[ClaimRecord]], tip_epoch: int, now_s: float, timing: TimingSpec) -> Envelope[ClaimRecord] | None:
    """The claim that holds the slot: the first, by (claimed_at, hash of epoch and peer id), of those that are live.

    Live: not released, not expired for longer than the margin, of the tip's epoch (the incumbent's) or the next, and not
    from the future. One claim per signer, the highest seq, is expected.
    """
    live = [claim for claim in claims if _is_live(claim.record, tip_epoch, now_s, timing)]
    return min(live, key=order, default=None)


def order(claim: Envelope[ClaimRecord]) -> tuple[float, bytes]:
    """What decides who was first; the hash makes ties fall the same way everywhere."""
    epoch = claim.record.epoch.to_bytes(8, "big")
    return claim.record.claimed_at, blake3(epoch + peer_id_to_bytes(claim.signer)).digest()


def may_publish(claim_ends_s: float, now_s: float, margin_s: float) -> bool:
    """Whether a lead may still publish: not in the last `margin_s` of a claim it could not renew (both monotonic)."""
    return now_s < claim_ends_s - margin_s


def _is_live(claim: ClaimRecord, tip_epoch: int, now_s: float, timing: TimingSpec) -> bool:
    return (
        not claim.released
        and claim.epoch in (tip_epoch, tip_epoch + 1)
        and claim.epoch > 0
        and claim.claimed_at <= claim.issued_at <= now_s + CLOCK_SLACK_S
        and claim.expires_at - claim.issued_at <= timing.claim_s
        and now_s < claim.expires_at + timing.margin_s
    )
