"""A claim as its holder remembers it: when it is renewed, and until when cards may go out under it.

Its end is measured by the monotonic clock, so that no clock that is set prolongs it; dates in records are
Unix time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from paris_p2p.records import ClaimRecord
from paris_p2p.rules.heard import CLOCK_SLACK_S
from paris_p2p.spec import TimingSpec


@dataclass(frozen=True)
class Holding:
    """One claim over its renewals."""

    epoch: int
    claimed_at: float
    issued_at: float
    ends_s: float  # monotonic

    def may_publish(self, now_s: float, margin_s: float) -> bool:
        """Whether a card may go out: not in the last `margin_s` of a claim that could not be renewed."""
        return now_s < self.ends_s - margin_s

    def renewing(self, epoch: int, issued_at: float, now_s: float) -> Holding:
        """Returns the claim that is signed next. It keeps its place among the claims, also under a higher
        epoch, unless it ran out meanwhile: then it is a new claim, and all that came between are before it.
        """
        claimed_at = issued_at if now_s > self.ends_s else self.claimed_at
        return replace(self, epoch=epoch, claimed_at=claimed_at, issued_at=issued_at)

    def renewed(self, ends_s: float) -> Holding:
        """Notes that the others were told of the claim that was signed last."""
        return replace(self, ends_s=ends_s)


def holding_of(claim: ClaimRecord, now_s: float) -> Holding:
    """Returns what the maker of a claim remembers of it; `now_s` is monotonic."""
    ends_s = now_s + (claim.expires_at - claim.issued_at)
    return Holding(claim.epoch, claim.claimed_at, claim.issued_at, ends_s)


def renew_in_s(issued_at: float, now_s: float, timing: TimingSpec) -> float:
    """Returns the seconds until a claim is renewed (`now_s` is Unix time): at a third of its length, and at
    once when the clock was set back since, so that others take the claim for one from the future.
    """
    if now_s < issued_at - CLOCK_SLACK_S:
        return 0.0
    return max(0.0, issued_at + timing.claim_s / 3 - now_s)
