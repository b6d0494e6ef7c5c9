"""How long slots stood still when their lead was struck, and how much work went: pure functions of what was
seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from paris_p2p.dev_swarm.chronicle import StepSeen
from paris_p2p.dev_swarm.trouble_plan import TroubleKind
from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord

LEARNS_S = 45.0  # a successor's first step may be seen so long after the lead that it follows was back
LATELY_S = 6.0  # a peer that trained within so many seconds before led its slot when it was struck


@dataclass(frozen=True)
class Struck:
    """Says what was done to which peer, and which slot it led then; times are as those of sightings."""

    at_s: float
    kind: TroubleKind
    peer: str
    ends_s: float
    unix_s: float  # Unix time of the blow
    slot: str = ""  # empty: it led none
    epoch: int = 0
    steps: int = 0  # that it was seen to have made last


@dataclass(frozen=True)
class HandOver:
    """Says how long a slot stood still: from the blow to the first step that was seen of whom trains on."""

    slot: str
    kind: TroubleKind
    struck: str
    after_s: float
    successor: str


@dataclass(frozen=True)
class Lost:
    """Says what of a killed lead's work no attested card holds."""

    slot: str
    peer: str
    steps: int
    work_s: float  # time since it made the last step that was kept


@dataclass(frozen=True)
class Spread:
    """Holds a distribution."""

    count: int
    least: float
    median: float
    p90: float
    most: float

    def in_words(self, unit: str = " s") -> str:
        """Returns it as a person reads it."""
        if not self.count:
            return "none"
        return (
            f"{self.count}: least {self.least:.1f}{unit}, median {self.median:.1f}{unit}, "
            f"nine in ten within {self.p90:.1f}{unit}, most {self.most:.1f}{unit}"
        )


def spread_of(values: Iterable[float]) -> Spread:
    """Returns the distribution of values; zeros where there are none. p90 is the nearest rank's."""
    ranked = sorted(values)
    if not ranked:
        return Spread(0, 0.0, 0.0, 0.0, 0.0)
    p90 = ranked[max(0, -(-9 * len(ranked) // 10) - 1)]
    return Spread(len(ranked), ranked[0], statistics.median(ranked), p90, ranked[-1])


def with_slot(one: Struck, sightings: Sequence[StepSeen]) -> Struck:
    """Returns a blow with what the peer led when it fell."""
    own = [seen for seen in sightings if seen.peer == one.peer and 0 <= one.at_s - seen.at_s <= LATELY_S]
    if not own:
        return one
    return replace(one, slot=own[-1].slot, epoch=own[-1].epoch, steps=own[-1].steps)


def hand_overs(struck: Iterable[Struck], sightings: Sequence[StepSeen]) -> list[HandOver]:
    """Returns how each slot went on whose lead was struck.

    After a kill, anybody's next step counts, also its own once it is back; after a pause or a cut another
    peer's under a higher epoch. Where there is none by LEARNS_S after the lead was back, it kept its slot.
    """
    return [found for one in struck if one.slot and (found := _hand_over(one, sightings)) is not None]


def _hand_over(one: Struck, sightings: Sequence[StepSeen]) -> HandOver | None:
    for seen in sightings:
        if seen.slot != one.slot or seen.at_s <= one.at_s:
            continue
        if one.kind != "kill" and (seen.peer == one.peer or seen.epoch <= one.epoch):
            continue  # a lead that was cut off trains on alone, and one that goes on has to hear who leads
        if one.kind != "kill" and seen.at_s > one.ends_s + LEARNS_S:
            return None
        return HandOver(one.slot, one.kind, one.peer, seen.at_s - one.at_s, seen.peer)
    return None


def losses(
    struck: Iterable[Struck],
    sightings: Sequence[StepSeen],
    lineages: Mapping[str, Sequence[Envelope[CardRecord]]],
) -> list[Lost]:
    """Returns, of each killed lead, the steps that it was seen to make and that no attested card holds."""
    found = []
    for one in struck:
        if one.kind != "kill" or not one.slot:
            continue
        kept = _kept_steps(one, lineages.get(one.slot, ()))
        steps = max(0, one.steps - kept)
        own = [seen for seen in sightings if (seen.peer, seen.slot) == (one.peer, one.slot)]
        since = [seen.at_s for seen in own if seen.at_s <= one.at_s and seen.epoch == one.epoch]
        kept_s = [seen.at_s for seen in own if seen.at_s <= one.at_s and seen.steps <= kept]
        began_s = max([*kept_s, min(since, default=one.at_s)])
        found.append(Lost(one.slot, one.peer, steps, one.at_s - began_s if steps else 0.0))
    return found


def _kept_steps(one: Struck, lineage: Sequence[Envelope[CardRecord]]) -> int:
    """Returns the steps of the newest attested card that was signed before the blow, told later or not."""
    return max((card.record.steps for card in lineage if card.record.issued_at <= one.unix_s), default=0)
