"""An attestor's tasks carry out what rules/next_check.py decides about the cards of every slot.

    for each slot, side by side:
        while the rules name a card to check:  fetch and measure it (check.py), then sign it or refuse it
        refuse and put off what the rules name, read the board where they ask for it
        wait for news of the slot, or until something is due

An attestor signs at most one card per (slot, epoch, seq), also across crashes (votes.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingBlobError, ParisError, SwarmError
from paris_p2p.node.run_node import RunNode
from paris_p2p.owner_records import MemberRecord, NoticeRecord
from paris_p2p.peer.check import Checker, Gate, refuse_measured
from paris_p2p.peer.refusing import Refusals
from paris_p2p.peer.remembered import SlotMemory
from paris_p2p.peer.seen_cards import attests_here, slot_cards, slot_leads
from paris_p2p.peer.voting import Voter
from paris_p2p.records import CardRecord
from paris_p2p.rules.checks import reading_due_s
from paris_p2p.rules.next_check import (
    LOOK_AGAIN_S,
    Going,
    NextCheck,
    OwnChecks,
    Round,
    go_on,
    may_sign,
    newly_led,
    next_check,
)
from paris_p2p.rules.tips import Tip
from paris_p2p.training.messages import GateResult

log = logging.getLogger(__name__)
# Strangers may bring news without end, and a look at a crowded slot takes 10 ms: one look for all of it.
_GATHER_S = 0.25


class Attestor:
    """Watches the board and attests; `attested` and the node's `refused` counters show in status."""

    def __init__(
        self,
        node: RunNode,
        *,
        device: str = "cpu",
        say: Callable[[str], None] = log.info,
        gate: Gate | None = None,
    ):
        self.node, self.say = node, say
        self.voter = Voter(node, say)
        self.checker = Checker(node, device, gate)
        self.refusals = Refusals(node, say)
        self._memory: dict[str, SlotMemory] = defaultdict(SlotMemory)
        self._news: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._word = asyncio.Event()  # the owner spoke, or a slot's task ended
        self._rests = False
        node.listeners.append(self._notice)

    @property
    def attested(self) -> int:
        return self.voter.attested

    async def rest(self, rests: bool) -> None:
        """Looks at no card from now on, and ends a check that is going on, or looks again."""
        if rests == self._rests:
            return
        self._rests = rests
        for news in self._news.values():
            news.set()
        if rests:
            await self.checker.close()

    async def run(self) -> None:
        """Attests what may be attested, also in slots that the run gets later, until it is cancelled."""
        watches: dict[str, asyncio.Task[None]] = {}  # a silent maker holds up its own slot only
        telling = asyncio.create_task(self.voter.keep_telling())
        telling.add_done_callback(lambda _: self._word.set())
        try:
            while not any(task.done() for task in (telling, *watches.values())):
                self._word.clear()
                for slot in self.node.spec.slots:
                    if slot not in watches:
                        watches[slot] = asyncio.create_task(self._watch(slot))
                        watches[slot].add_done_callback(lambda _: self._word.set())
                await self._word.wait()
            for task in (telling, *watches.values()):
                if task.done():
                    task.result()  # it ended, so it raised
        finally:
            for task in (telling, *watches.values()):
                task.cancel()
            await asyncio.gather(telling, *watches.values(), return_exceptions=True)
            await self.checker.close()

    async def _watch(self, slot: str) -> None:
        """Looks at a slot again and again, whatever others signed: a task's outermost frame. Errors of this
        machine's disk are raised.
        """
        if (card := await self.voter.tell_again(slot)) is not None:
            self._memory[slot].led(card.id)  # it was asked when the card was chosen
        while True:
            try:
                await self._look_at(slot)
            except SwarmError as error:
                log.info("the swarm does not answer about %s: %s", slot, error)
                await asyncio.sleep(LOOK_AGAIN_S)
            except (ValueError, TypeError, ArithmeticError, LookupError):
                log.exception("a look at the cards of %s failed; they are looked at again", slot)
                self.node.refused["a fault of this program while a card was looked at"] += 1
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _look_at(self, slot: str) -> None:
        """Carries out what the rules say about a slot, once, and waits for news."""
        self._news[slot].clear()
        if self._rests or not attests_here(self.node, slot):
            await self._until_news(slot, LOOK_AGAIN_S)
            return
        tried = set[str]()
        now = Round({card.id for card in self.node.board.pending(slot)}, tried)
        while not self._rests and (step := self._next(slot, now)).check is not None:
            tried.add(step.check.card.id)
            await self._check(step.check.card)
        for one in step.refuse:
            if one.card in self.node.board.pending(slot):  # else the tip went past it while others were told
                await self._refuse(one.card, one.objection or "")
        for one in step.put_off:
            self._put_off(one.card, one.objection or "")
        if step.read:
            await self._read(slot)
            return
        if not await self._until_news(slot, step.wait_s):
            memory, checkpoint_s = self._memory[slot], self.node.spec.timing.checkpoint_s
            if reading_due_s(memory.read_s, time.time(), checkpoint_s) == 0:
                await self._read(slot)

    async def _until_news(self, slot: str, wait_s: float) -> bool:
        """Returns True with the next news of the slot, False after `wait_s` seconds."""
        try:
            async with asyncio.timeout(wait_s):
                return await self._news[slot].wait()
        except TimeoutError:
            return False

    async def _read(self, slot: str) -> None:
        began_s = time.time()
        await self.node.refresh([slot])
        self._memory[slot].read_s = began_s

    def _next(self, slot: str, now: Round) -> NextCheck:
        cards = slot_cards(self.node, slot)
        own = self._own(slot, cards.tip)
        self._memory[slot].led(*newly_led(cards, cards.pending, own))
        return next_check(cards, own, now)

    def _own(self, slot: str, tip: Tip | None) -> OwnChecks:
        memory = self._memory[slot]
        return OwnChecks(
            chosen=self.voter.votes.chosen,
            refused=self.refusals,
            refusals=self.refusals.measured(slot),
            led=memory.led_cards,
            failed=memory.failed_after(tip),
            read_s=memory.read_s,
        )

    def _notice(self, envelope: Envelope[Any]) -> None:
        slot = envelope.record.slot
        if isinstance(envelope.record, NoticeRecord | MemberRecord):  # the owner's word is of all slots
            for news in (self._word, *self._news.values()):
                news.set()
            return
        if slot not in self.node.spec.slots:
            return
        if isinstance(envelope.record, CardRecord) and slot_leads(self.node, slot).may_publish(envelope):
            self._memory[slot].led(envelope.id)
        self._news[slot].set()

    async def _check(self, card: Envelope[CardRecord]) -> None:
        """Measures a card, and signs it or refuses it for good. A check without an end counts against it."""
        slot, purpose = card.record.slot, f"judge/{card.id}"
        tip = self.node.board.tip(slot)
        # of many waiting cards of a maker few are kept, and this one may become the tip
        self.node.hold(purpose, {card.record.weights.id, card.record.resume.id})
        began_s = time.monotonic()
        try:
            if (result := await self._measure_unless_moot(card, tip)) is not None:
                self.node.tallies = self.node.tallies.checked(time.monotonic() - began_s)
                await self._judge(card, result, tip)
        except ParisError as error:
            self._memory[slot].failed_after(self.node.board.tip(slot)).update((card.id, card.signer))
            self.say(f"could not check {slot} seq {card.record.seq} yet: {error}")
        finally:
            self.node.let_go(purpose)

    async def _measure_unless_moot(self, card: Envelope[CardRecord], tip: Tip | None) -> GateResult | None:
        """Returns what the gate measured, or None when news ended the check. A maker that sends next to
        nothing must not hold the slot.
        """
        check = asyncio.create_task(self.checker.measure(card, tip, f"judge/{card.id}"))
        try:
            await self._wait_for(check, card)
            return await check if check.done() else None
        finally:
            check.cancel()
            await asyncio.gather(check, return_exceptions=True)

    async def _wait_for(self, check: asyncio.Task[GateResult], card: Envelope[CardRecord]) -> None:
        """Returns when the check is done or moot. Raises MissingBlobError when it takes longer than any
        honest maker needs, or, while another maker's card waits, than its turn is.
        """
        news, began_s = self._news[card.record.slot], time.monotonic()
        bounds_s = self._bounds_s(card)
        was_news = news.is_set()
        try:
            while not check.done() and not self._rests:
                going, wait_s = self._go_on(card, time.monotonic() - began_s, bounds_s)
                if going != "on":
                    _raise_if_too_long(going, *bounds_s)
                    return
                news.clear()
                await _first_of(check, news, wait_s)
                if news.is_set():
                    was_news = True
                    await asyncio.wait({check}, timeout=_GATHER_S)
        finally:
            if was_news:  # the next round looks at once at what came meanwhile
                news.set()

    def _bounds_s(self, card: Envelope[CardRecord]) -> tuple[float, float]:
        """Returns the check's turn and its limit, in seconds."""
        slot = card.record.slot
        failed = self._memory[slot].failed_after(self.node.board.tip(slot))
        turn_s = self.checker.turn_s(card.record, failed[card.id] + failed[card.signer])
        return turn_s, self.checker.limit_s(card.record)

    def _go_on(
        self, card: Envelope[CardRecord], passed_s: float, bounds_s: tuple[float, float]
    ) -> tuple[Going, float]:
        slot = card.record.slot
        cards = slot_cards(self.node, slot)
        own = self._own(slot, cards.tip)
        of_leads = [one for one in cards.pending if one.signer in cards.leads.signers]
        self._memory[slot].led(*newly_led(cards, of_leads, own))
        return go_on(card, cards, own, passed_s, bounds_s)

    async def _judge(self, card: Envelope[CardRecord], result: GateResult, tip: Tip | None) -> None:
        """Signs what was measured, or refuses the card for good."""
        if reason := refuse_measured(result, tip, self.node.spec.gate.tolerance):
            await self._refuse(card, reason, result)
        elif self.node.state.counts(card) and may_sign(
            card, self.node.board.tip(card.record.slot), self.voter.votes.chosen(card.record)
        ):
            await self.voter.sign(card, result, tip)

    def _put_off(self, card: Envelope[CardRecord], objection: str) -> None:
        """Counts the card once, and says so in the log alone: anybody can make such cards without end."""
        if self._memory[card.record.slot].is_put_off(card.id):
            return
        self.node.refused[objection] += 1
        log.info(
            "put off %s seq %d of %s: %s", card.record.slot, card.record.seq, card.signer[-8:], objection
        )

    async def _refuse(
        self, card: Envelope[CardRecord], reason: str, result: GateResult | None = None
    ) -> None:
        """Refuses a card for good; a maker that leads hears why."""
        slot = card.record.slot
        refusal = self.refusals.put(card, reason, result)
        if refusal is None:
            return
        if card.id in self._memory[slot].led_cards or slot_leads(self.node, slot).may_publish(card):
            self.node.keep(refusal)
            with suppress(SwarmError):  # nobody there: a peer that asks this one hears it
                await self.node.tell(refusal)


async def _first_of(check: asyncio.Task[GateResult], news: asyncio.Event, wait_s: float) -> None:
    """Returns when the check is done, when there is news, or after `wait_s` seconds."""
    waiting = asyncio.create_task(news.wait())
    try:
        await asyncio.wait({check, waiting}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:  # also when the check is cancelled: a task that nobody holds is destroyed while it waits
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


def _raise_if_too_long(going: Going, turn_s: float, limit_s: float) -> None:
    if going == "too long":
        raise MissingBlobError(f"its check was not over after {limit_s:.0f} s; what came is kept")
    if going == "turn over":
        raise MissingBlobError(
            f"its check was not over after {turn_s:.0f} s, and another's card waits; what came is kept"
        )
