"""What becomes of the newest card that this peer signed in a slot while it does not lead there, and what a
new leadership goes on from: pure functions (docs/protocol.md, "What a lead leaves behind").

    its files are not here, it expired, or it does not count:  nothing
    it follows the tip:                                        tell it; after an earlier card of the same
                                                               training that others may be at
    an earlier card of the same training became the tip:       sign it once more, after that one
    otherwise:                                                 nothing: the slot went on elsewhere
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord
from paris_p2p.rules.rates import lowered_after
from paris_p2p.rules.tips import Tip, tip_id

OwnStep = Literal["tell", "sign again", "wait", "nothing"]


@dataclass(frozen=True)
class OwnCard:
    """The newest card that this peer signed in a slot, and the ids of earlier ones that its training went
    through and that were no tips when it was signed.
    """

    card: Envelope[CardRecord]
    before: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OwnView:
    """The slot as its peer sees it."""

    tip: Tip | None
    has_blobs: bool  # of the card
    counts: bool = True  # by the owner's word
    waiting: Collection[Envelope[CardRecord]] = ()  # cards that would follow the tip, and are served here
    patience_s: float = 0.0  # of a lead for a card that is out


def own_step(own: OwnCard, view: OwnView, now_s: float) -> OwnStep:
    """Returns what is done about a card of this peer; `now_s` is Unix time."""
    record = own.card.record
    if not (view.has_blobs and view.counts and record.expires_at > now_s):
        return "nothing"
    if record.parent == tip_id(view.tip):
        return "wait" if any(_may_be_checked(one, own, view, now_s) for one in view.waiting) else "tell"
    return "sign again" if _is_after(own, view.tip) else "nothing"


def goes_on_from(own: OwnCard, view: OwnView, now_s: float) -> bool:
    """Tells whether a new leadership trains on from this peer's own card in place of the tip: what was
    learned since is in it, and it may yet become the tip.

    One of a crew's rounds is for the crew to merge anew, and one that goes back (rest.py) trained nothing.
    """
    record, tip = own.card.record, view.tip
    if not (view.has_blobs and view.counts and record.expires_at > now_s) or record.merged:
        return False
    if tip is None:
        return not record.parent
    return _is_after(own, tip) or (record.parent == tip.card.id and _trains_on(record, tip.card.record))


def _is_after(own: OwnCard, tip: Tip | None) -> bool:
    """Tells whether an earlier card of the same training is the tip; a crew's round follows no other card
    than the one that it was merged into.
    """
    record = own.card.record
    if tip is None or tip.card.id not in own.before or record.merged:
        return False
    return _trains_on(record, tip.card.record)


def _trains_on(card: CardRecord, tip: CardRecord) -> bool:
    is_further = card.steps > tip.steps and card.clips > tip.clips and card.notices >= tip.notices
    return is_further and card.lowered == lowered_after(tip.lowered)


def _may_be_checked(one: Envelope[CardRecord], own: OwnCard, view: OwnView, now_s: float) -> bool:
    """Tells whether attestors may be at an earlier card of the same training: then the newer one waits, as
    behind every card that is out. A clock that was set back makes nobody wait longer.
    """
    return one.id in own.before and 0 <= now_s - one.record.issued_at < view.patience_s
