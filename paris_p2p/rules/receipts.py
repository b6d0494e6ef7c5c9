"""Who made what of a run: attested steps and clips of each peer, summed from signed records; pure functions.

A card of one lead alone counts for its maker, with what it adds to the tip before it. A crew's card counts
for those whose updates its new rounds merged, each as its signed record says. Going back takes nothing away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.rules.history import TipLink


@dataclass(frozen=True)
class Receipt:
    """What one peer did for one slot, as far as attested cards say."""

    peer: str
    slot: str
    clips: int = 0
    steps: int = 0
    cards: int = 0  # that it led to
    updates: int = 0  # of its own that crews merged
    first_at_s: float = 0.0  # Unix times of the cards
    last_at_s: float = 0.0


@dataclass
class Receipts:
    """The receipts of a run, and clips of each slot whose makers are not proven by what is here."""

    by_peer: dict[tuple[str, str], Receipt] = field(default_factory=dict)  # by peer and slot
    unproven_clips: dict[str, int] = field(default_factory=dict)

    def of(self, peer: str = "") -> list[Receipt]:
        """Returns one peer's receipts, or all, most clips first."""
        chosen = [one for one in self.by_peer.values() if not peer or one.peer == peer]
        return sorted(chosen, key=lambda one: (-one.clips, one.peer, one.slot))

    def credit(
        self, peer: str, link: TipLink, clips: int, steps: int, *, cards: int = 0, updates: int = 0
    ) -> None:
        slot, at_s = link.tip.card.record.slot, link.tip.card.record.issued_at
        before = self.by_peer.get((peer, slot), Receipt(peer, slot, first_at_s=at_s, last_at_s=at_s))
        self.by_peer[peer, slot] = Receipt(
            peer,
            slot,
            before.clips + clips,
            before.steps + steps,
            before.cards + cards,
            before.updates + updates,
            min(before.first_at_s, at_s),
            max(before.last_at_s, at_s),
        )

    def leave(self, slot: str, clips: int) -> None:
        if clips > 0:
            self.unproven_clips[slot] = self.unproven_clips.get(slot, 0) + clips


def run_receipts(
    links: Mapping[str, Sequence[TipLink]],
    merged: Mapping[str, Sequence[Envelope[UpdateRecord]]],
    *,
    has_crews: bool,
) -> Receipts:
    """Returns who made what; `merged` are the updates of each round that is here, by the round's id."""
    found = Receipts()
    for of_slot in links.values():
        seen = _Seen()
        for link in of_slot:
            _count(found, link, merged, seen, has_crews=has_crews)
    return found


@dataclass
class _Seen:
    """Holds what of a slot was counted, since each counts once."""

    rounds: set[str] = field(default_factory=set)
    updates: set[str] = field(default_factory=set)
    ends: dict[str, int] = field(default_factory=dict)  # up to where each member's stream of clips was


def _count(
    found: Receipts,
    link: TipLink,
    merged: Mapping[str, Sequence[Envelope[UpdateRecord]]],
    seen: _Seen,
    *,
    has_crews: bool,
) -> None:
    record = link.tip.card.record
    before = link.before.card.record if link.before else None
    new = [ref for ref in record.rounds if ref.id not in seen.rounds]
    seen.rounds |= {ref.id for ref in record.rounds}
    if before is not None and record.lowered > before.lowered:
        seen.ends.clear()  # members train again what the best card had not counted
        return  # it repeats the best card
    # all cards under one epoch are of one maker
    cards = record.seq - before.seq if before is not None and link.kind == "same" else 1
    if record.rounds:
        _count_crew(found, link, [one for ref in new for one in merged.get(ref.id, ())], seen, cards)
    elif link.kind in ("first", "parent") or (link.kind == "same" and not has_crews):
        found.credit(link.tip.card.signer, link, link.clips, link.steps, cards=cards)
    else:  # in a run with crews, cards between that are gone may have been a crew's
        found.leave(record.slot, link.clips)


def _count_crew(
    found: Receipts, link: TipLink, updates: Sequence[Envelope[UpdateRecord]], seen: _Seen, cards: int
) -> None:
    """Credits the members whose updates a card's new rounds merged, each clip of a member's stream once."""
    ones: list[Envelope[UpdateRecord]] = []
    for one in updates:
        first, end = one.record.first_clip, one.record.first_clip + one.record.clips
        if one.id not in seen.updates and first >= seen.ends.get(one.signer, 0):
            ones.append(one)
            seen.ends[one.signer] = end
        seen.updates.add(one.id)
    proven_clips = sum(one.record.clips for one in ones)
    if proven_clips > link.clips:
        found.leave(link.tip.card.record.slot, link.clips)  # these rounds are not what the card adds
        return
    for one in ones:
        found.credit(one.signer, link, one.record.clips, one.record.steps, updates=1)
    found.credit(link.tip.card.signer, link, 0, 0, cards=cards)
    found.leave(link.tip.card.record.slot, link.clips - proven_clips)
