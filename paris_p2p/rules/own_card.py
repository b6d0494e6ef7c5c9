"""What becomes of the newest card that this peer signed in a slot while it does not lead there, and what a
new leadership begins with: pure functions (docs/protocol.md, "What a lead leaves behind").

What becomes of it:
    its files are not here, it expired, or it does not count:  nothing
    it follows the tip:                                        tell it; after an earlier card of the same
                                                               training that others may be at
    an earlier card of the same training became the tip:       sign it once more, after that one
    otherwise:                                                 nothing: the slot went on elsewhere

What a new leadership begins with:
    it goes back after the tip, and was just signed:           nothing yet, until it is the tip or twice a
                                                               card's patience ends
    it trains on from the tip, and may yet become it:          this card; of a crew's round the tip, and the
                                                               rounds go on from the card once it is the tip
    otherwise:                                                 the tip
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord
from paris_p2p.rules.rates import lowered_after
from paris_p2p.rules.rest import goes_back
from paris_p2p.rules.tips import Tip, tip_id

OwnStep = Literal["tell", "sign again", "wait", "nothing"]
BeginsWith = Literal["own", "tip", "wait"]


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
    if not _counts(own, view, now_s):
        return "nothing"
    if record.parent == tip_id(view.tip):
        return "wait" if any(_may_be_checked(one, own, view, now_s) for one in view.waiting) else "tell"
    return "sign again" if _is_after(own, view.tip) else "nothing"


def begins_with(own: OwnCard, view: OwnView, now_s: float) -> BeginsWith:
    """Returns what a new leadership trains on from: this peer's own card in place of the tip where it may yet
    become that, since what was learned since is in it. A crew's round is not gone on from but merged from.

    One that goes back (rest.py) trained nothing, and nothing trains before it is the tip, or is late: what
    is learned at the old rate meanwhile would be lost. A clock that was set back makes nobody wait longer.
    """
    record = own.card.record
    if may_become_tip(own, view, now_s):
        return "tip" if record.merged else "own"
    follows = _counts(own, view, now_s) and view.tip is not None and record.parent == view.tip.card.id
    is_late = not 0 <= now_s - record.issued_at < 2 * view.patience_s
    return "wait" if follows and goes_back(record, view.tip) and not is_late else "tip"


def may_become_tip(own: OwnCard, view: OwnView, now_s: float) -> bool:
    """Tells whether a card of this peer trains on from the tip and may yet become it, itself or, where an
    earlier card of the same training is the tip, signed once more.
    """
    record, tip = own.card.record, view.tip
    if not _counts(own, view, now_s):
        return False
    if tip is None:
        return not record.parent
    return _is_after(own, tip) or (record.parent == tip.card.id and _trains_on(record, tip.card.record))


def _counts(own: OwnCard, view: OwnView, now_s: float) -> bool:
    return view.has_blobs and view.counts and own.card.record.expires_at > now_s


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
