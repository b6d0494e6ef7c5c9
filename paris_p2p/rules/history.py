"""What became of a slot, from its past tips: pure functions of signed cards and attestations, so that nobody
has to be believed (docs/protocol.md, "History").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from paris_p2p.records import AttestationRecord
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.tips import Age, Tip, impossible

# "parent": the card before it is here; "same": cards between are gone, all of the same maker under the same
# epoch; "gap": cards between are gone, of any maker; "first": the slot's first card.
LinkKind = Literal["parent", "same", "gap", "first"]


@dataclass(frozen=True)
class TipLink:
    """A tip of the lineage, and the one before it as far as it is known."""

    tip: Tip
    before: Tip | None
    kind: LinkKind

    @property
    def clips(self) -> int:
        """Returns the clips that were trained on since the tip before; 0 where the slot went back."""
        return max(0, self.tip.card.record.clips - (self.before.card.record.clips if self.before else 0))

    @property
    def steps(self) -> int:
        """Returns the optimizer steps since the tip before; 0 where the slot went back."""
        return max(0, self.tip.card.record.steps - (self.before.card.record.steps if self.before else 0))


@dataclass(frozen=True)
class HistoryLine:
    """What a person, a table or a chart is told of one tip."""

    slot: str
    seq: int
    epoch: int
    card: str
    lead: str  # peer id of the card's maker
    at_s: float  # Unix time at which it says that it was signed
    seconds: float | None  # since the tip before; None where that is not known
    steps: int  # along the lineage
    clips: int
    added_steps: int | None  # since the tip before; None where that is not known
    added_clips: int | None
    train_loss: float
    gate_loss: float | None  # on the slot's fixed clips and noise: comparable from line to line
    card_loss: float  # on this card's own clips and noise, the lowest that was attested
    reference_loss: float  # the best card's before it, on the same clips and noise
    attestations: int
    lowered: int  # how often the learning rate was lowered by then
    rounds: int  # of a crew, since the newest full weights; 0: one lead alone made it
    is_light: bool  # a crew's card without weights of its own
    tips: int | None  # how many tips this line stands for: more than 1 where some were thinned out

    @property
    def clips_per_s(self) -> float | None:
        """Returns the clips a second since the tip before, rests included."""
        if self.added_clips is None or not self.seconds:
            return None
        return self.added_clips / self.seconds


def proven(tip: Tip, state: RunState, now_s: float) -> Tip | None:
    """Returns the tip with those of its attestations that count by the owner's word; None for what never was
    a tip, or is none any more.

    A card counts with a quorum of attestations that name it, each by another peer than its maker that was
    allowed to attest at that time.
    """
    card = tip.card
    spec, slot = state.spec, card.record.slot
    if slot not in state.slots_ever:
        return None
    age = Age(now_s - spec.created_at, spec.timing.checkpoint_s, state.floor_epoch(slot))
    if impossible(card.record, age) is not None or not state.counts(card):
        return None
    by_signer = {
        one.signer: one
        for one in sorted(tip.attestations, key=lambda one: one.id, reverse=True)
        if one.signer != card.signer and _names(one.record, tip) and state.attests(one, card)
    }
    if len(by_signer) < spec.gate.quorum:
        return None
    return Tip(card, tuple(by_signer[signer] for signer in sorted(by_signer)))


def lineage(tips: Iterable[Tip]) -> tuple[TipLink, ...]:
    """Returns the newest tip and those that it stands on, the oldest first; of one slot.

    A card whose parent is not among them stands on the newest one before it. What was attested and overtaken
    is left out.
    """
    known: dict[str, Tip] = {}
    for tip in tips:
        before = known.get(tip.card.id)
        if before is None or len(before.attestations) < len(tip.attestations):
            known[tip.card.id] = tip
    ranked = sorted(known.values(), key=_rank)
    links: list[TipLink] = []
    while ranked:
        tip = ranked.pop()
        parent = known.get(tip.card.record.parent)
        if parent is not None and _rank(parent) < _rank(tip):
            while ranked[-1] is not parent:
                ranked.pop()
            links.append(TipLink(tip, parent, "parent"))
            continue
        while ranked and not _may_stand_on(tip, ranked[-1]):
            ranked.pop()
        links.append(TipLink(tip, ranked[-1] if ranked else None, _kind(tip, ranked[-1] if ranked else None)))
    return tuple(reversed(links))


def history_lines(links: Sequence[TipLink]) -> tuple[HistoryLine, ...]:
    """Returns a line for each tip, the oldest first."""
    return tuple(_line(link) for link in links)


def missing(links: Sequence[TipLink]) -> int:
    """Returns how many tips of the lineage are certainly not here, and were not thinned out."""
    count = 0
    for link in links:
        if link.kind == "gap":
            before = link.before.card.record.seq if link.before else 0
            count += link.tip.card.record.seq - before - 1
    return count


def thinned(tips: Sequence[Tip], most: int) -> list[Tip]:
    """Returns at most `most` of a slot's tips, given and returned from the oldest on.

    Where one maker has several in a row under one epoch, those between the first and the last go first, every
    second one of the older half, again and again: who made the work in between stays provable, since nobody
    else can make cards under that epoch. Of a crew's cards, which name the rounds since the last full one,
    only those go whose rounds the next names too. Only where that does not suffice the oldest go.
    """
    left = list(tips)
    while len(left) > most:
        inner = [place for place in range(1, len(left) - 1) if _is_inner(*left[place - 1 : place + 2])]
        if not inner:
            return left[-most:]
        go = set(inner[: max(1, len(inner) // 2)][::2][: len(left) - most])
        left = [tip for place, tip in enumerate(left) if place not in go]
    return left


def is_in_order(tips: Sequence[Tip], after: int) -> bool:
    """Tells whether tips come by rising `seq`, all above `after`, as a page of an answer has them."""
    seqs = [after, *(tip.card.record.seq for tip in tips)]
    return seqs[0] < seqs[1] and all(one <= other for one, other in pairwise(seqs)) if tips else True


def _is_inner(before: Tip, tip: Tip, after: Tip) -> bool:
    three = [one.card for one in (before, tip, after)]
    # a step back is where clips are counted from anew, and of a crew's cards the makers are others
    kinds = {(one.signer, one.record.epoch, one.record.lowered, bool(one.record.rounds)) for one in three}
    rounds, still = ({ref.id for ref in one.record.rounds} for one in three[1:])
    return len(kinds) == 1 and rounds <= still


def _names(record: AttestationRecord, tip: Tip) -> bool:
    card = tip.card.record
    return (record.card, record.slot, record.epoch, record.seq) == (
        tip.card.id,
        card.slot,
        card.epoch,
        card.seq,
    )


def _rank(tip: Tip) -> tuple[int, int, int]:
    return tip.card.record.epoch, tip.card.record.seq, -int(tip.card.id, 16)


def _may_stand_on(tip: Tip, older: Tip) -> bool:
    """Tells whether a lineage can go from one card to another with cards between them that are not here."""
    card, before = tip.card.record, older.card.record
    if card.seq <= before.seq + 1:  # the card right before it is its parent, and that is another
        return False
    return card.epoch > before.epoch or tip.card.signer == older.card.signer


def _kind(tip: Tip, before: Tip | None) -> LinkKind:
    if before is None:
        return "first" if not tip.card.record.parent else "gap"
    return "same" if tip.card.record.epoch == before.card.record.epoch else "gap"


def _line(link: TipLink) -> HistoryLine:
    card, before = link.tip.card, link.before.card if link.before else None
    record = card.record
    attested = [one.record for one in link.tip.attestations]
    lowest = min(attested, key=lambda one: one.loss)
    fixed = sorted(one.fixed_loss for one in attested if one.fixed_loss is not None)
    is_known = link.kind != "gap"
    return HistoryLine(
        slot=record.slot,
        seq=record.seq,
        epoch=record.epoch,
        card=card.id,
        lead=card.signer,
        at_s=record.issued_at,
        seconds=max(0.0, record.issued_at - before.record.issued_at) if before and is_known else None,
        steps=record.steps,
        clips=record.clips,
        added_steps=link.steps if is_known else None,
        added_clips=link.clips if is_known else None,
        train_loss=record.train_loss,
        gate_loss=fixed[len(fixed) // 2] if fixed else None,
        card_loss=lowest.loss,
        reference_loss=lowest.reference_loss,
        attestations=len(attested),
        lowered=record.lowered,
        rounds=len(record.rounds),
        is_light=record.is_light,
        tips=record.seq - (before.record.seq if before else 0) if is_known else None,
    )
