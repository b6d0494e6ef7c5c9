"""A lead that is refused: it hears why, measures for itself, and goes back to the best checkpoint with a lower rate.

The rules are rest.py's. One measurement of its own for each card that somebody refused: false refusals cost a gate's check
and no more, however many keys sign them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError, SwarmError
from paris_p2p.node.run import RunNode
from paris_p2p.peer.check import Checker, refuse_measured
from paris_p2p.records import CardRecord, RefusalRecord
from paris_p2p.rules.refusals import WORSE, words_of
from paris_p2p.rules.rest import refusal_counts

log = logging.getLogger(__name__)
READ_S = 15.0  # gossip is a hint: while a card waits, its refusals are read too


class Setback:
    """What one leadership heard of its cards' refusals, and what it found itself."""

    def __init__(self, node: RunNode, slot: str, checker: Checker, say: Callable[[str], None]):
        self.node, self.slot, self.checker, self.say = node, slot, checker, say
        self._said: set[tuple[str, str]] = set()  # (card, reason)
        self._worse: dict[str, bool | None] = {}  # own cards that were measured here; None: that came to no end
        self._read_at_s = time.monotonic()

    async def counts(self, mine: Sequence[Envelope[CardRecord]]) -> bool:
        """Whether this leadership should go back; `mine` are its cards that would follow the tip, the newest last."""
        if not mine:
            return False
        await self._read()
        refusals = [one for one in self.node.board.refusals(self.slot) if one.record.card in {card.id for card in mine}]
        self._tell(refusals)
        worse = [one for one in refusals if one.record.reason in WORSE]
        if not worse:
            return False
        newest = mine[-1]
        if newest.id not in self._worse:
            self._worse[newest.id] = await self._measure(newest)
        attestors = self.node.known_attestors() - {self.node.peer_id}
        refusers = {one.signer for one in worse if one.record.card == newest.id}
        return refusal_counts(self._worse[newest.id], refusers, attestors, self.node.spec.gate.quorum)

    async def _read(self) -> None:
        if time.monotonic() - self._read_at_s < READ_S:
            return
        self._read_at_s = time.monotonic()
        try:
            await self.node.read_refusals(self.slot)
        except SwarmError as error:
            log.info("the swarm does not tell of refusals: %s", error)

    def _tell(self, refusals: Sequence[Envelope[RefusalRecord]]) -> None:
        for one in refusals:
            record, key = one.record, (one.record.card, one.record.reason)
            if key in self._said:
                continue
            self._said.add(key)
            figures = f", {record.loss:.4f} against {record.reference_loss:.4f}" if record.reference_loss else ""
            self.say(f"{one.signer[-8:]} refused {self.slot} seq {record.seq}: {words_of(record.reason)}{figures}")

    async def _measure(self, card: Envelope[CardRecord]) -> bool | None:
        """Whether the card is as bad as was said; None when it cannot be measured here."""
        tip = self.node.board.tip(self.slot)
        try:
            result = await self.checker.measure(card, tip)
        except ParisError as error:
            self.say(f"could not measure {self.slot} seq {card.record.seq} here: {error}")
            return None
        reason = refuse_measured(result, tip, self.node.spec.gate.tolerance)
        if not reason:
            self.say(f"{self.slot} seq {card.record.seq} measures well here, whoever refused it: training goes on")
        return bool(reason)
