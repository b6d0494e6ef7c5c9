"""The order in which an attestor checks waiting cards, and how long a check holds up others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord
from paris_p2p.rules.heard import LINE_BYTES_PER_S
from paris_p2p.rules.tips import NOT_YET

_MAX_READ_EVERY_S = 20.0
_MAX_GATE_S = 150.0  # what a gate takes on a busy machine
_GATE_INTERVALS = 4
_MAX_TURN_DOUBLINGS = 16
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
        """Sorts the first lead's card before others', and those that lack least before those that lack more.

        Attestors that begin with different cards may use up a place for nothing. Cards whose checks failed
        come after those whose checks did not: one that cannot be had does not hold up the others.
        """
        return self.failed, self.place, -self.attested, -self.card.record.epoch


@dataclass(frozen=True)
class Triage:
    """Waiting cards by what an attestor does about them."""

    check: tuple[Candidate, ...]  # in this order
    refuse: tuple[Candidate, ...]  # for good
    put_off: tuple[Candidate, ...]  # for want of a claim, or of the parent's quorum, which may come yet
    unread: bool  # whether the board must be read before more can be said


def triage(candidates: Iterable[Candidate], read_s: float) -> Triage:
    """Sorts the cards of a slot; `read_s` is when the board was last read for them.

    A card's claim, or its parent's attestation, may have come later than the card: nothing is held against it
    before the board was read after it came. One reading serves all cards that came before it, however many
    flood the slot.
    """
    ordered = sorted(candidates, key=lambda one: one.order)
    objected = [one for one in ordered if one.objection is not None]
    known = [one for one in objected if one.came_s <= read_s]
    return Triage(
        check=tuple(one for one in ordered if one.objection is None),
        refuse=tuple(one for one in known if one.objection not in NOT_YET),
        put_off=tuple(one for one in known if one.objection in NOT_YET),
        unread=len(known) < len(objected),
    )


def read_every_s(checkpoint_s: float) -> float:
    """Returns the seconds between two readings of a slot's board that waiting cards may cause."""
    return min(_MAX_READ_EVERY_S, checkpoint_s / 2)


def reading_due_s(read_s: float, now_s: float, checkpoint_s: float) -> float:
    """Returns the seconds until the board may be read again for waiting cards; 0 when it may be read now."""
    every_s = read_every_s(checkpoint_s)
    left_s = read_s + every_s - now_s
    return left_s if 0 < left_s <= every_s else 0.0  # a clock that was set back makes nobody wait longer


def yields_to(mine: Candidate, other: Candidate) -> bool:
    """Tells whether a check of `mine` is let go for `other`, which may be signed: its maker comes before, and
    it can be had.
    """
    return other.objection is None and other.place < mine.place and other.failed <= mine.failed


def turn_s(download_bytes: int, checkpoint_s: float, failed: int) -> float:
    """Returns the seconds that a check may hold up another maker's card: what it takes over a home line, then
    twice as long each time.

    A maker whose blobs drip may hold the first place under ever new keys; one whose line is slow gets there
    in the end.
    """
    gate_s = min(_MAX_GATE_S, _GATE_INTERVALS * checkpoint_s)
    return (gate_s + download_bytes / LINE_BYTES_PER_S) * 2.0 ** min(failed, _MAX_TURN_DOUBLINGS)


def is_held_up(mine: Candidate, other: Candidate) -> bool:
    """Tells whether another maker's card, which may be signed and failed hardly more often, waits for
    `mine`'s check.
    """
    return (
        other.objection is None and other.card.signer != mine.card.signer and other.failed <= mine.failed + 1
    )
