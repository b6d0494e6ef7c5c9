"""A volunteer's life in a run: look, claim, settle, lead, hand over; attest and seed all the while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from paris_p2p.disk import explained, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import MemoryLimitError, ParisError, SwarmError
from paris_p2p.node.publish import tell_own_cards_again
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import Status, run_status, tree_memory_bytes
from paris_p2p.peer.attest import Attestor
from paris_p2p.peer.check import Gate
from paris_p2p.peer.lead import Lead, MakeWorker
from paris_p2p.peer.process import Worker
from paris_p2p.peer.room import MEMORY_SHARE, Room
from paris_p2p.peer.seeding import announce, seed_tips
from paris_p2p.peer.summary import checkpoint_limits
from paris_p2p.peer.watch import watch_clocks, watch_twin
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import Decision, decide_claim, has_room, leads_of
from paris_p2p.rules.placement import SlotState, choose_slot, why_none
from paris_p2p.rules.rest import rests
from paris_p2p.spec import PeerSettings

log = logging.getLogger(__name__)
REFRESH_S = 15.0
CATCH_UP_S = 60.0
PAUSE_ATTEST_S = 5.0
LEAVE_ATTEST_S = 60.0
RETRY_S = 5.0
PAUSE_FILE = "paused"  # in the data directory while a pause lasts
COOL_DOWN_S = 180.0  # after failures of our own trainer

Role = Literal["peer", "owner", "generator"]


class Volunteer:
    """Everything a peer does in one run; `run` returns after `leave`."""

    def __init__(
        self,
        node: RunNode,
        settings: PeerSettings,
        *,
        role: Role = "peer",
        say: Callable[[str], None] = log.info,
        make_worker: MakeWorker = Worker,
        gate: Gate | None = None,
    ):
        self.node, self.settings, self.role, self.say, self.make_worker = (
            node,
            settings,
            role,
            say,
            make_worker,
        )
        self.attestor = Attestor(
            node, device=settings.device if role == "owner" else "cpu", say=say, gate=gate
        )
        node.board.hearing.state_bytes = {
            slot: sum(checkpoint_limits(node.spec, slot)) for slot in node.spec.slots
        }
        self.room = Room(settings, node.spec)
        self.lead: Lead | None = None
        self.phase, self.why = "looking", "reading claims and tips"
        self._leaving = asyncio.Event()
        self._paused = asyncio.Event()
        self._resumed = asyncio.Event()
        self._news = asyncio.Event()
        self._cool_until = 0.0
        self._pause_file = settings.data_dir / PAUSE_FILE
        if self._pause_file.exists():  # asked for before a restart
            self._paused.set()
        node.listeners.append(lambda _: self._news.set())

    async def run(self) -> None:
        """Until `leave`, or an error nobody can mend here."""
        with suppress(SwarmError):
            # nobody there to hear it: what is told is told again when training goes on
            await tell_own_cards_again(self.node)
        beside = announce(self.node, self.role, self.say), seed_tips(self.node, self.role)
        watches = (
            watch_twin(self.node, self.role, self.say),
            watch_clocks(self.node, lambda: self.lead.slot if self.lead else "", self.say),
        )
        works = self.attestor.run(), self._refresh(), self._watch_memory(), self._balance(), *beside, *watches
        background = [asyncio.create_task(work) for work in works]
        life = asyncio.create_task(self._live())
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            done, _ = await asyncio.wait([life, leaving, *background], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is not leaving:
                    task.result()  # a task that ended raised: show it
            await life
        finally:
            tasks = (*background, life, leaving)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def status(self) -> Status:
        return await run_status(
            self.node,
            role=self.role,
            phase=self.phase,
            why=self.why,
            training=self.lead.training if self.lead else None,
            attested=self.attestor.attested,
        )

    async def pause(self) -> str:
        """Checkpoint, release the claim, free the memory; returns when that is done."""
        with explained(self._pause_file):
            write_atomic(self._pause_file, "paris-peer resume\n")  # a restart leaves it so
        self._paused.set()
        self._resumed.clear()
        if self.lead is not None:
            self.lead.stop("paused")
        while self.lead is not None:
            await asyncio.sleep(0.1)
        return "paused: the claim is released and the trainer is gone; `paris-peer resume` goes on"

    async def resume(self) -> str:
        self._pause_file.unlink(missing_ok=True)
        self._paused.clear()
        self._resumed.set()
        return "resumed"

    async def leave(self) -> str:
        """Publish, release and end `run`."""
        self._leaving.set()
        self._resumed.set()
        self._news.set()
        if self.lead is None:
            return "leaving"
        self.lead.stop("leaving")
        return "leaving: publishing the last checkpoint first"

    # the loop

    async def _live(self) -> None:
        while not self._leaving.is_set():
            if self._paused.is_set():
                self._set("paused", "asked to pause, also over restarts; `paris-peer resume` goes on")
                await self._resumed.wait()
                continue
            if self.role != "peer":
                self._set("seeding", "attests and seeds, does not train")
            claim = (
                await self._claim_or_say_why()
                if self.role == "peer" and time.monotonic() >= self._cool_until
                else None
            )
            if claim is None:
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(2.0):
                        await self._news.wait()
                continue
            await self._lead(claim)
        self._set("leaving", "asked to stop")

    async def _claim_or_say_why(self) -> Envelope[ClaimRecord] | None:
        """`_claim`; nothing too when the swarm cannot be asked, which mends itself."""
        try:
            return await self._claim()
        except SwarmError as error:
            self._cool_until = time.monotonic() + RETRY_S
            self.say(f"could not claim a slot: {error}; trying again in {RETRY_S:.0f} s")
            return None

    async def _claim(self) -> Envelope[ClaimRecord] | None:
        """Choose a slot, claim it, wait the settle time, read again: the claim if it is first, else
        nothing.
        """
        now, timing = time.time(), self.node.spec.timing
        states = self._slot_states(now)
        choice = choose_slot(states, self.node.peer_id, only=self.settings.slot)
        if choice is None:
            self._set("standby", f"{self._why_none(states)}; attesting and seeding, ready to take over")
            return None
        slot = choice.slot
        await asyncio.sleep(choice.delay * timing.settle_s)
        await self.node.refresh([slot])
        decision = self._decide(slot)
        if decision.action not in ("claim", "settle", "hold", "train"):
            return None
        self._set("claiming", f"{slot}: {choice.why}; {decision.reason}")
        self.say(f"claiming {slot}: {choice.why}; {decision.reason}")
        head = self.node.header("claim", slot, timing.claim_s)
        claim = await self.node.say(ClaimRecord(**head, epoch=decision.epoch, claimed_at=head["issued_at"]))
        while self._decide(slot).action == "settle":
            await asyncio.sleep(timing.settle_s / 2)
            await self.node.refresh([slot])
        decision = self._decide(slot)
        if decision.action in ("hold", "train"):
            return claim
        self.say(f"did not get {slot}: {decision.reason}")
        head = self.node.header("claim", slot, timing.claim_s)
        await self.node.say(
            ClaimRecord(**head, epoch=claim.record.epoch, claimed_at=claim.record.claimed_at, released=True)
        )
        return None

    def _decide(self, slot: str) -> Decision:
        at_rest = rests(self.node.board.tip(slot), time.time(), self.node.spec.timing)
        wanted = not (self._paused.is_set() or self._leaving.is_set() or at_rest)
        return decide_claim(self.node.board.view(slot, wanted=wanted), self.node.peer_id, time.time())

    async def _lead(self, claim: Envelope[ClaimRecord]) -> None:
        self.lead = Lead(
            self.node, self.room.trainer_settings(), claim, self.say, self.make_worker, self.attestor.checker
        )
        self._set("training", f"leads {claim.record.slot}, epoch {claim.record.epoch}")
        try:
            reason = await self.lead.run(attest_wait_s=self._attest_wait_s)
            self.say(f"stopped leading {claim.record.slot}: {reason}")
        except MemoryLimitError as error:
            self.say(
                f"gave up {claim.record.slot}: {error}; {self.room.ran_out(self.lead.slot, 1, str(error))}"
            )
        except (SwarmError, ParisError) as error:
            self._cool_until = time.monotonic() + COOL_DOWN_S
            self.say(f"gave up {claim.record.slot} for {COOL_DOWN_S:.0f} s: {error}")
            self._set("cooling", str(error))
        finally:
            self.lead = None

    def _attest_wait_s(self) -> float:
        return PAUSE_ATTEST_S if self._paused.is_set() else LEAVE_ATTEST_S

    def _slot_states(self, now_s: float) -> list[SlotState]:
        return [self._slot_state(slot, now_s) for slot in self.node.spec.slots]

    def _slot_state(self, slot: str, now_s: float) -> SlotState:
        tip, view, me = self.node.board.tip(slot), self.node.board.view(slot), self.node.peer_id
        leads = leads_of(view.claims, tip, now_s, self.node.spec.timing, view.heard)
        total = self.node.spec.training.total_steps
        return SlotState(
            slot=slot,
            # An old claim of ours, from before a restart, does not keep us out: a new one replaces it. Nor do
            # claims that have long brought nothing.
            lead=""
            if has_room(view, me, now_s)
            else next((lead.signer for lead in leads if lead.signer != me), ""),
            clips=tip.card.record.clips if tip else 0,
            done=bool(total and tip and tip.card.record.steps >= total),
            rests=rests(tip, now_s, self.node.spec.timing),
            fits=not self.room.why_not(slot),
        )

    def _why_none(self, states: list[SlotState]) -> str:
        """Why no slot is to be had: what the rules say, and which slots this machine is not up to."""
        wanted = [state.slot for state in states if self.settings.slot in ("", state.slot)]
        reasons = [reason for slot in wanted if (reason := self.room.why_not(slot))]
        if wanted and len(reasons) == len(wanted):
            return reasons[0] if len(wanted) == 1 else f"this machine is too small: {reasons[0]}"
        taken = why_none(states, self.settings.slot)
        return f"{taken}, or does not fit here: {reasons[0]}" if reasons else taken

    def _set(self, phase: str, why: str) -> None:
        if phase != self.phase and phase in ("standby", "seeding", "paused"):
            self.say(f"{phase}: {why}")
        self.phase, self.why = phase, why

    # beside it

    async def _refresh(self) -> None:
        """Absence proves nothing and gossip is a hint: read the board, and every minute ask a peer
        directly.
        """
        last = time.monotonic()
        while True:
            await asyncio.sleep(min(REFRESH_S, self.node.spec.timing.claim_s / 3))
            try:
                await self.node.read_peers()
                await self.node.refresh()
                if time.monotonic() - last > CATCH_UP_S:
                    last = time.monotonic()
                    await self.node.ask_connected()
            except SwarmError as error:
                self.say(f"cannot read the swarm's records: {error}; training goes on, trying again")

    async def _balance(self) -> None:
        """With fewer peers than slots, go where nobody trains: after a checkpoint that others hold, and
        not in a hurry.
        """
        free_since_s: dict[str, float] = {}  # monotonic
        while True:
            now_s, timing = time.monotonic(), self.node.spec.timing
            states = self._slot_states(time.time())
            free_since_s = {
                state.slot: free_since_s.get(state.slot, now_s) for state in states if not state.lead
            }
            if self.lead is not None and not self.settings.slot and self.lead.outbox.attested:
                choice = choose_slot(states, self.node.peer_id, holding=self.lead.slot)
                if choice is not None and now_s - free_since_s[choice.slot] > timing.claim_s:
                    # no standby took it
                    self.lead.stop(f"{choice.slot} has no lead and is trained less; going there")
            await asyncio.sleep(min(REFRESH_S, timing.claim_s / 3))

    async def _watch_memory(self) -> None:
        """Checkpoint and stop before the kernel kills, when the process tree nears --max-memory."""
        limit = self.settings.max_memory_bytes
        while limit:
            used = await asyncio.to_thread(tree_memory_bytes)
            if used > MEMORY_SHARE * limit and self.lead is not None:
                words = f"memory: {used / 2**30:.2f} GiB of --max-memory {limit / 2**30:.2f} GiB"
                if not self.lead.stopping:
                    training = self.lead.training
                    self.lead.stop(
                        f"{words}; {self.room.ran_out(training.slot, training.micro_batch_clips, words)}"
                    )
                self._cool_until = time.monotonic() + COOL_DOWN_S
            if used > limit and self.lead is None:
                raise MemoryLimitError(
                    f"the node alone uses {used / 2**30:.2f} GiB, over --max-memory {limit / 2**30:.2f} GiB; "
                    "allow more, or join a smaller run"
                )
            await asyncio.sleep(1.0)
        await asyncio.Event().wait()
