"""A lead that is refused: it hears why, measures for itself, and goes back to the best checkpoint with a
lower rate, as rules/next_setback.py and rules/rest.py decide.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError, SwarmError, TrainError
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.check import Checker, refuse_measured
from paris_p2p.peer.notifier import Notifier
from paris_p2p.peer.outbox import Outbox
from paris_p2p.records import CardRecord
from paris_p2p.rules.next_setback import (
    Refused,
    SetbackView,
    next_setback,
    not_yet_said,
    way_back,
    words_of_refusal,
)
from paris_p2p.rules.rates import rate_factor
from paris_p2p.rules.rest import WORDS_OF_REST, rests
from paris_p2p.rules.tips import Tip
from paris_p2p.rules.woken import woken_at_s
from paris_p2p.training.messages import TrainJob

log = logging.getLogger(__name__)


class Setback:
    """What one leadership heard of its cards' refusals, and what it found itself."""

    def __init__(
        self,
        node: RunNode,
        outbox: Outbox,
        checker: Checker,
        news: Notifier,
        say: Callable[[str], None],
    ):
        self.node, self.outbox, self.slot, self.checker = node, outbox, outbox.slot, checker
        self.news, self.say = news, say
        # this training leads nowhere: it ends, and `next_job` says what comes after it
        self.came = asyncio.Event()
        self.state = Refused(read_at_s=time.monotonic())

    async def watch(self) -> None:
        """Sets `came` when this leadership should go back, until cancelled."""
        while True:
            if not self.came.is_set() and await self.counts():
                self.came.set()
                self.news.notify()
            waits = bool(self.outbox.waiting_cards) and not self.came.is_set()
            await self.news.wait(self.state.read_due_s - time.monotonic() if waits else math.inf)

    async def next_job(self, job: TrainJob) -> TrainJob | str:
        """Returns what to train after a setback: the best checkpoint with a lower rate; or why to stop, when
        the slot rests now. Raises TrainError when not even a first checkpoint was ever good.
        """
        tip = self.node.board.tip(self.slot)
        way = way_back(tip, self.outbox.state.lowered)
        if way == "give up":
            tried = self.outbox.state.lowered + 1
            raise TrainError(f"no first checkpoint of {self.slot} was any good, at {tried} learning rates")
        if way == "to the beginning" or tip is None:
            self._begin_again()
        elif resting := await self._go_back(tip):
            return resting
        self.came.clear()
        self.news.notify()
        return self.outbox.resumed(job)

    async def counts(self) -> bool:
        """Whether a card of this training that would follow the tip was refused, and measures as badly
        here.
        """
        while True:
            if not self.outbox.waiting_cards:
                return False
            await self._read()
            view = self._view()
            for refusal in not_yet_said(self.state, view):
                self.say(words_of_refusal(refusal))
            self.state = self.state.told(view)
            decision = next_setback(self.state, view)
            if decision.card is None:
                return decision.action == "go back"
            worse = await self._measure(decision.card)
            self.state = self.state.measured(decision.card.id, worse, view)

    def _view(self) -> SetbackView:
        board, mine = self.node.board, self.outbox.waiting_cards
        ids = {card.id for card in mine}
        return SetbackView(
            mine=mine,
            refusals=tuple(one for one in board.refusals(self.slot) if one.record.card in ids),
            attestors=frozenset(self.node.known_attestors() - {self.node.peer_id}),
            quorum=self.node.spec.gate.quorum,
        )

    def _begin_again(self) -> None:
        self.outbox.begin_again()
        rate = rate_factor(self.outbox.state.lowered)
        self.say(
            f"{self.slot} begins again at {rate:.2g} of the learning rate: its first checkpoints were refused"
        )

    async def _go_back(self, tip: Tip) -> str:
        """Returns why to stop, when the slot rests now; empty when training goes on."""
        self.say(
            f"{self.slot} got worse than its best checkpoint; its trainer stopped, "
            "and it goes back there at a lower rate"
        )
        went = await self.outbox.go_back(tip)
        node = self.node
        woken_s = woken_at_s(node.state, self.slot)
        if rests(node.board.tip(self.slot), time.time(), node.spec.timing, woken_s):
            return f"{self.slot} {WORDS_OF_REST}"
        if not went:
            self.say(f"nobody attested that {self.slot} goes back; training goes on from its tip as before")
        return ""

    async def _read(self) -> None:
        now_s = time.monotonic()
        if now_s < self.state.read_due_s:
            return
        self.state = self.state.read(now_s)
        try:
            await self.node.read_refusals(self.slot)
        except SwarmError as error:
            log.info("the swarm does not tell of refusals: %s", error)

    async def _measure(self, card: Envelope[CardRecord]) -> bool | None:
        """Returns whether the card is as bad as was said; None when it cannot be measured here."""
        tip, node = self.node.board.tip(self.slot), self.node
        if node.spec.gate.key_hash and not node.state.may_attest(node.peer_id):
            self.say(
                f"{self.slot} seq {card.record.seq} cannot be measured here: "
                "the gate's clips are sealed to those who may attest"
            )
            return None
        try:
            result = await self.checker.measure(card, tip)
        except ParisError as error:
            self.say(f"could not measure {self.slot} seq {card.record.seq} here: {error}")
            return None
        reason = refuse_measured(result, tip, self.node.spec.gate.tolerance)
        if not reason:
            self.say(
                f"{self.slot} seq {card.record.seq} measures well here, though refused: training goes on"
            )
        return bool(reason)
