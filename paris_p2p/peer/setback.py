"""A lead that is refused: it hears why, measures for itself, and goes back to the best checkpoint with a
lower rate.

The rules are rest.py's. One measurement of its own for each card that somebody refused: false refusals cost a
gate's check and no more, however many keys sign them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError, SwarmError, TrainError
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.check import Checker, refuse_measured
from paris_p2p.peer.outbox import Outbox
from paris_p2p.records import CardRecord, RefusalRecord
from paris_p2p.rules.rates import RESTS, rate_factor
from paris_p2p.rules.refusals import REASONS, WORSE, words_of
from paris_p2p.rules.rest import WORDS_OF_REST, refusal_counts, rests
from paris_p2p.training.messages import TrainJob

log = logging.getLogger(__name__)
HEAR_S = 0.5
READ_S = 15.0  # gossip is a hint: while a card waits, its refusals are read too


class Setback:
    """What one leadership heard of its cards' refusals, and what it found itself."""

    def __init__(self, node: RunNode, outbox: Outbox, checker: Checker, say: Callable[[str], None]):
        self.node, self.outbox, self.slot, self.checker, self.say = node, outbox, outbox.slot, checker, say
        # this training leads nowhere: it ends, and `next_job` says what comes after it
        self.came = asyncio.Event()
        self._said: set[tuple[str, str]] = set()  # (card, reason)
        # own cards that were measured here; None: that came to no end
        self._worse: dict[str, bool | None] = {}
        self._read_at_s = time.monotonic()

    async def watch(self) -> None:
        """Until cancelled: set `came` when this leadership should go back."""
        while True:
            if not self.came.is_set() and await self.counts():
                self.came.set()
            await asyncio.sleep(HEAR_S)

    async def next_job(self, job: TrainJob) -> TrainJob | str:
        """What to train after a setback: the best checkpoint with a lower rate; or why to stop, when the slot
        rests now.

        TrainError when not even a first checkpoint was ever good.
        """
        if (tip := self.node.board.tip(self.slot)) is None:
            self._begin_again()
        else:
            self.say(
                f"{self.slot} got worse than its best checkpoint; its trainer stopped, "
                "and it goes back there at a lower rate"
            )
            went = await self.outbox.go_back(tip)
            if rests(self.node.board.tip(self.slot), time.time(), self.node.spec.timing):
                return f"{self.slot} {WORDS_OF_REST}"
            if not went:
                self.say(
                    f"nobody attested that {self.slot} goes back; training goes on from its tip as before"
                )
        self.came.clear()
        newest = self.outbox.newest
        changes = {"resume_path": newest.path, "resume_steps": newest.steps, "resume_clips": newest.clips}
        return job.model_copy(update=changes | {"lowered": self.outbox.lowered})

    def _begin_again(self) -> None:
        self.outbox.begin_again()
        lowered = self.outbox.lowered
        if lowered >= RESTS:
            raise TrainError(f"no first checkpoint of {self.slot} was any good, at {lowered} learning rates")
        self.say(
            f"{self.slot} begins again at {rate_factor(lowered):.2g} of the learning rate: "
            "its first checkpoints were refused"
        )

    async def counts(self) -> bool:
        """Whether a card of this training that would follow the tip was refused, and measures as badly
        here.
        """
        mine = self.outbox.waiting_cards
        if not mine:
            return False
        await self._read()
        refusals = [
            one
            for one in self.node.board.refusals(self.slot)
            if one.record.card in {card.id for card in mine}
        ]
        self._tell(refusals)
        worse = [one for one in refusals if one.record.reason in WORSE]
        if not worse:
            return False
        newest = mine[-1]
        if newest.id not in self._worse:
            self._worse[newest.id] = await self._measure(newest)
        if newest not in self.outbox.waiting_cards:
            return False  # it became the tip while it was measured
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
            record, code = one.record, one.record.reason
            key = record.card, code if code in REASONS else ""  # anybody may make up reasons without end
            if key in self._said:
                continue
            self._said.add(key)
            figures = (
                f", {record.loss:.4f} against {record.reference_loss:.4f}" if record.reference_loss else ""
            )
            self.say(
                f"{one.signer[-8:]} refused {self.slot} seq {record.seq}: {words_of(record.reason)}{figures}"
            )

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
            self.say(
                f"{self.slot} seq {card.record.seq} measures well here, whoever refused it: training goes on"
            )
        return bool(reason)
