"""Remembers what the newest round of each slot counted and refused, for those who ask every second."""

from __future__ import annotations

from collections.abc import Mapping

from paris_p2p.crew_records import CrewRound
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError
from paris_p2p.node.opened_rounds import OpenedRounds
from paris_p2p.records import CardRecord

_REFUSED = 8  # remembered of one round


class CrewBooks:
    """Reads each slot's newest round once: it is opened from the disk, with all signatures in it."""

    def __init__(self, rounds: OpenedRounds) -> None:
        self.rounds = rounds
        self._read: dict[str, tuple[str, Mapping[str, int], tuple[tuple[str, str], ...]]] = {}

    def of(self, card: Envelope[CardRecord]) -> tuple[Mapping[str, int], tuple[tuple[str, str], ...]]:
        """Returns (up to where each peer's stream was merged, which peers' updates were refused and the
        codes) by the card's newest round; what the one before it counted, where the card has none or it is
        not here.
        """
        record = card.record
        known = self._read.get(record.slot)
        if known is not None and known[0] == card.id:
            return known[1], known[2]
        made = self._newest(record)
        if made is None:
            return (known[1], ()) if known is not None else ({}, ())
        counted = {one.peer: one.next for one in made.counted}
        refused = tuple((one.peer, one.reason) for one in made.refused[:_REFUSED])
        self._read[record.slot] = (card.id, counted, refused)
        return counted, refused

    def _newest(self, card: CardRecord) -> CrewRound | None:
        if not card.rounds:
            return None
        try:
            opened = self.rounds.open(card.rounds[-1], card.slot)
        except ParisError:  # no key to it, or none at all: attestors say so
            return None
        return opened.made if opened is not None else None
