"""Finds a slot for this peer and claims it: choose, claim, wait the settle time, read again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from paris_p2p.envelope import Envelope
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.room import Room
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import Decision, decide_claim, has_room, leads_of
from paris_p2p.rules.crews import SlotCrew
from paris_p2p.rules.placement import Choice, SlotState, choose_slot, why_none
from paris_p2p.rules.rest import rests
from paris_p2p.rules.woken import woken_at_s


class Claimer:
    """Claims slots of one run, or only the slot called `only`; `wanted` says whether this peer wants one
    now, `show` is told of each phase and why.
    """

    def __init__(
        self,
        node: RunNode,
        room: Room,
        only: str,
        wanted: Callable[[], bool],
        say: Callable[[str], None],
        show: Callable[[str, str], None],
    ):
        self.node, self.room, self.only = node, room, only
        self.wanted, self.say, self.show = wanted, say, show

    async def claim(self) -> Envelope[ClaimRecord] | None:
        """Returns a claim that holds its slot; None when there is no slot to be had."""
        states = self.states()
        choice = choose_slot(states, self.node.peer_id, only=self.only)
        if choice is None:
            self.show("standby", f"{self._why_none(states)}; attesting and seeding, ready to take over")
            return None
        return await self._claim(choice)

    async def take_over(self, slot: str) -> Envelope[ClaimRecord] | None:
        """Returns a claim that holds the slot, in whose crew this peer works and which has no lead now; None
        when another has it: a worker goes on beside that one, however old the tip is by now.
        """
        choice = choose_slot(self.states(), self.node.peer_id, only=slot)
        return None if choice is None else await self._claim(choice, beside=False)

    def crews(self) -> list[SlotCrew]:
        """Returns the run's slots and who works in each, as the board shows them now."""
        board, now_s = self.node.board, time.time()
        return [SlotCrew(one, board.crew(one.slot, one.lead, now_s)) for one in self.states()]

    async def _claim(self, choice: Choice, *, beside: bool = True) -> Envelope[ClaimRecord] | None:
        """Claims a slot; where others hold it with an old tip, only if it may lead `beside` them."""
        timing, slot = self.node.spec.timing, choice.slot
        await asyncio.sleep(choice.delay * timing.settle_s)
        await self.node.refresh([slot])
        if not beside and self._others(slot, time.time()):
            return None
        decision = self._decide(slot)
        if decision.action not in ("claim", "settle", "hold", "train"):
            return None
        self.show("claiming", f"{slot}: {choice.why}; {decision.reason}")
        self.say(f"claiming {slot}: {choice.why}; {decision.reason}")
        head = self.node.header("claim", slot, timing.claim_s)
        claim = await self.node.say(ClaimRecord(**head, epoch=decision.epoch, claimed_at=head["issued_at"]))
        return claim if await self._settled(claim) else None

    async def _settled(self, claim: Envelope[ClaimRecord]) -> bool:
        """Returns whether the claim holds its slot after the settle time; releases it if not."""
        slot, timing = claim.record.slot, self.node.spec.timing
        while (decision := self._decide(slot)).action == "settle":
            await asyncio.sleep(timing.settle_s / 2)
            await self.node.refresh([slot])
        if decision.action in ("hold", "train"):
            return True
        self.say(f"did not get {slot}: {decision.reason}")
        head = self.node.header("claim", slot, timing.claim_s)
        await self.node.say(
            ClaimRecord(**head, epoch=claim.record.epoch, claimed_at=claim.record.claimed_at, released=True)
        )
        return False

    def states(self) -> list[SlotState]:
        """Returns the run's slots as the board shows them now."""
        return [self._state(slot, time.time()) for slot in self.node.spec.slots]

    def _decide(self, slot: str) -> Decision:
        wanted = self.wanted() and not self._rests(slot, time.time())
        view = self.node.board.view(slot, wanted=wanted)
        return decide_claim(view, self.node.peer_id, time.time())

    def _rests(self, slot: str, now_s: float) -> bool:
        node = self.node
        return rests(node.board.tip(slot), now_s, node.spec.timing, woken_at_s(node.state, slot))

    def _state(self, slot: str, now_s: float) -> SlotState:
        tip, view, me = self.node.board.tip(slot), self.node.board.view(slot), self.node.peer_id
        others = self._others(slot, now_s)
        total = self.node.spec.training.total_steps
        return SlotState(
            slot=slot,
            # An old claim of ours, from before a restart, does not keep us out: a new one replaces it. Nor do
            # claims that have long brought nothing.
            lead="" if has_room(view, me, now_s) or not others else others[0],
            clips=tip.card.record.clips if tip else 0,
            done=self.node.state.ended is not None or bool(total and tip and tip.card.record.steps >= total),
            rests=self._rests(slot, now_s),
            fits=not self.room.why_not(slot),
        )

    def _others(self, slot: str, now_s: float) -> list[str]:
        """Returns which other peers hold a slot, the first one first."""
        tip, view = self.node.board.tip(slot), self.node.board.view(slot)
        leads = leads_of(view.claims, tip, now_s, self.node.spec.timing, view.heard, view.floor)
        return [lead.signer for lead in leads if lead.signer != self.node.peer_id]

    def _why_none(self, states: list[SlotState]) -> str:
        """Returns why no slot is to be had: what the rules say, and which slots are too large for this
        machine.
        """
        wanted = [state.slot for state in states if self.only in ("", state.slot)]
        reasons = [reason for slot in wanted if (reason := self.room.why_not(slot))]
        if wanted and len(reasons) == len(wanted):
            return reasons[0] if len(wanted) == 1 else f"this machine is too small: {reasons[0]}"
        taken = why_none(states, self.only)
        return f"{taken}, or does not fit here: {reasons[0]}" if reasons else taken
