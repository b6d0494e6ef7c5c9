"""Which waiting card an attestor checks next, and when it reads the board again first: pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord
from paris_p2p.rules.heard import LINE_BYTES_PER_S
from paris_p2p.rules.tips import NOT_YET

MAX_LOOK_UP_S = 20.0
MAX_GATE_S = 150.0  # what a gate takes on a busy machine
GATE_INTERVALS = 4
MAX_TURN_DOUBLINGS = 16
NO_PLACE = 1 << 20  # of a maker that holds no claim here


@dataclass(frozen=True)
class Candidate:
    """A card that waits, as one attestor sees it."""

    card: Envelope[CardRecord]
    came_s: float
    place: int  # of its maker among the leads, the first is 0; NO_PLACE: none
    objection: str | None = None
    failed: int = 0  # checks that came to no end: of this card, and of any of its maker's after this tip
    attested: int = 0

    @property
    def order(self) -> tuple[int, int, int, int]:
        """The first lead's card before others', those that lack least before those that lack more.

        Attestors that begin with different cards may use up a place for nothing. Before that, the ones whose
        checks failed
        least: one that cannot be had does not hold up the others.
        """
        return self.failed, self.place, -self.attested, -self.card.record.epoch


@dataclass(frozen=True)
class Next:
    """What an attestor does about a slot now: check these in turn, then read the board again or refuse for
    good.
    """

    check: tuple[Candidate, ...]
    refuse: tuple[Candidate, ...]
    put_off: tuple[Candidate, ...]  # for want of a claim, or of the parent's quorum, which may come yet
    look_up: bool


def next_checks(candidates: Iterable[Candidate], looked_up_s: float) -> Next:
    """What to do about the cards of a slot; `looked_up_s` is when the board was last read.

    A card's claim, or its parent's attestation, may have come later than the card: nothing is held against it
    before the board was read after it came. One reading serves all cards that came before it, whoever floods
    the slot with them.
    """
    ordered = sorted(candidates, key=lambda one: one.order)
    objected = [one for one in ordered if one.objection is not None]
    known = [one for one in objected if one.came_s <= looked_up_s]
    return Next(
        check=tuple(one for one in ordered if one.objection is None),
        refuse=tuple(one for one in known if one.objection not in NOT_YET),
        put_off=tuple(one for one in known if one.objection in NOT_YET),
        look_up=len(known) < len(objected),
    )


def look_up_every_s(checkpoint_s: float) -> float:
    """Seconds between two readings of a slot's board that waiting cards may cause."""
    return min(MAX_LOOK_UP_S, checkpoint_s / 2)


def yields_to(mine: Candidate, other: Candidate) -> bool:
    """Whether a check of `mine` is let go for `other`, which may be signed: its maker comes before, and it
    can be had.
    """
    return other.objection is None and other.place < mine.place and other.failed <= mine.failed


def turn_s(download_bytes: int, checkpoint_s: float, failed: int) -> float:
    """Seconds that a check may hold up another maker's card: what it takes over a home line, then twice as
    long.

    A maker whose blobs drip may hold the first place under ever new keys; one whose line is slow gets there
    in the end.
    """
    gate_s = min(MAX_GATE_S, GATE_INTERVALS * checkpoint_s)
    return (gate_s + download_bytes / LINE_BYTES_PER_S) * 2.0 ** min(failed, MAX_TURN_DOUBLINGS)


def is_held_up(mine: Candidate, other: Candidate) -> bool:
    """Whether another maker's card, which may be signed and failed hardly more often, waits for `mine`'s
    check.
    """
    return (
        other.objection is None and other.card.signer != mine.card.signer and other.failed <= mine.failed + 1
    )
