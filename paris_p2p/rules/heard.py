"""What a reader remembers of a slot's claims: since when it has heard each, and how long they brought
nothing.

A claim says of itself when it was made, and keys are free; what a reader heard, and the checkpoints that were
attested, are all it can go by. Pure functions: the clock is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from paris_p2p.kinds import SIGNED_LIFETIME_S
from paris_p2p.records import ClaimRecord
from paris_p2p.spec import TimingSpec

CLOCK_SLACK_S = 3.0  # peers' clocks agree within this
PATIENCE_INTERVALS = 4
OVERHEAD_INTERVALS = 8  # for claiming, starting a trainer, and an attestor's gate on a busy machine
MAX_OVERHEAD_S = 300.0
LINE_BYTES_PER_S = 1e6  # a home line, 8 Mbit/s: what is expected of it, not asked
SLOW_SHARE = 2.0  # of the pace of the last tips
MAX_STRETCH = 4.0  # of the patience, however slow the last tips came
REST_PATIENCES = 4.0  # a signer that holds no claim for so long starts anew
MAX_DOUBLINGS = 8  # from then on a claim is asked of nobody
MAX_CLAIM_S = SIGNED_LIFETIME_S["claim"]


@dataclass(frozen=True)
class Spell:
    """Time under claims, of one signer or of a slot: the present stretch of it, and what went before.

    `barren_s` was held before `from_s` without an attested card; from there to `until_s` it is held by what
    was heard.
    """

    since_s: float  # when the present leadership was first heard of here
    from_s: float
    until_s: float
    barren_s: float = 0.0

    def held_s(self, now_s: float) -> float:
        """Returns the seconds under claims without an attested card, up to now."""
        return self.barren_s + max(0.0, min(now_s, self.until_s) - self.from_s)

    def proved(self, now_s: float) -> Spell:
        """Notes that an attested card came: what was held before it counts no more."""
        return replace(self, from_s=now_s, until_s=max(now_s, self.until_s), barren_s=0.0)


@dataclass(frozen=True)
class Heard:
    """What one reader heard of a slot's claims; with the default, nothing is remembered and nobody's
    patience ends.
    """

    patience_s: float = math.inf
    slot: Spell | None = None  # of all claims together, since the slot's newest tip
    spells: Mapping[str, Spell] = field(default_factory=dict)  # by signer

    def wasted(self, signer: str, now_s: float) -> int:
        """Returns for how many patiences the signer held claims without an attested card."""
        spell = self.spells.get(signer)
        return int(spell.held_s(now_s) / self.patience_s) if spell else 0

    def places(self, now_s: float) -> int:
        """Returns how many may work on the slot side by side: one, and twice as many with each patience that
        brought no tip.
        """
        held_s = self.slot.held_s(now_s) if self.slot else 0.0
        return 1 << min(MAX_DOUBLINGS, int(held_s / self.patience_s))

    def is_open(self, now_s: float) -> bool:
        """Whether claims on the slot have brought nothing for so long that everybody who makes a good card is
        welcome.
        """
        return self.places(now_s) >= 1 << MAX_DOUBLINGS

    def claimed_s(self, claim: ClaimRecord, signer: str, timing: TimingSpec) -> float:
        """Returns when a claim counts as made: as it says, but hardly before it was heard here."""
        spell = self.spells.get(signer)
        heard_s = spell.since_s if spell else claim.claimed_at
        return max(claim.claimed_at, heard_s - timing.settle_s - CLOCK_SLACK_S)


def hear(
    spell: Spell | None,
    claim: ClaimRecord,
    before: ClaimRecord | None,
    now_s: float,
    heard: Heard,
    *,
    counts: bool,
) -> Spell:
    """Returns a signer's spell after a claim of it came; `before` is its claim that was the newest until now.

    `counts`: whether time under this claim is to bring a card. It is not where the claim cannot hold the
    slot, nor where nobody is there who could attest. A renewal keeps its place. A claim that lapsed or was
    released and comes back is a new one; wasted time is forgiven to a signer that rested from claims for
    REST_PATIENCES.
    """
    goes_on = (
        spell is not None
        and before is not None
        and not before.released
        and before.claimed_at == claim.claimed_at
        and now_s < before.expires_at + CLOCK_SLACK_S
    )
    barren_s = spell.held_s(now_s) if spell else 0.0
    if spell is not None and now_s - spell.until_s > REST_PATIENCES * heard.patience_s:
        barren_s = 0.0
    until_s = min(claim.expires_at, now_s + MAX_CLAIM_S) if counts and not claim.released else now_s
    return Spell(spell.since_s if spell and goes_on else now_s, now_s, max(now_s, until_s), barren_s)


def hear_slot(slot: Spell | None, spells: Mapping[str, Spell], now_s: float) -> Spell:
    """Returns the slot's spell after one of its signers changed: held for as long as any of them holds it."""
    until_s = max((spell.until_s for spell in spells.values()), default=now_s)
    return Spell(now_s, now_s, max(now_s, until_s), slot.held_s(now_s) if slot else 0.0)


def patience_s(timing: TimingSpec, moved_bytes: int, pace_s: float = 0.0) -> float:
    """Returns the seconds under claims within which a slot's next tip is expected.

    `moved_bytes` come to a new lead and go from it with its first card, over a home line. `pace_s` lay
    between the last two tips: where checkpoints are slow, the next one is waited for longer, within
    MAX_STRETCH.
    """
    overhead_s = min(MAX_OVERHEAD_S, OVERHEAD_INTERVALS * timing.checkpoint_s)
    least_s = PATIENCE_INTERVALS * timing.checkpoint_s + overhead_s + moved_bytes / LINE_BYTES_PER_S
    return min(MAX_STRETCH * least_s, max(least_s, SLOW_SHARE * pace_s))
