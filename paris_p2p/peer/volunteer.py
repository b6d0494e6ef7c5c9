"""A volunteer's life in a run, as a loop:

    while nobody asked this peer to leave:
        wait while this peer, or the run by its owner's word, is paused (rules/standing.py)
        choose a slot without a lead, one of the least trained, and claim it (claiming.py)
        where the claim holds: train the slot and publish its checkpoints    (lead.py)
        where there is none:   work in the smallest crew that has a place    (crew_worker.py)
        where all are full:    wait for news of the run

It attests the cards of others (attest.py) and seeds (seeding.py) all the while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal

from paris_p2p.disk import explained, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import MemoryLimitError, MissingKeyError, ParisError, RevokedError, SwarmError
from paris_p2p.node.node_figures import tree_memory_bytes
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import Status, run_status
from paris_p2p.peer.attest import Attestor
from paris_p2p.peer.caretaker import Caretaker, MachineSensors
from paris_p2p.peer.changing import answer, change_store, changed_fields, parse_question, renice
from paris_p2p.peer.check import Gate
from paris_p2p.peer.claiming import Claimer
from paris_p2p.peer.crew_seat import CrewSeat
from paris_p2p.peer.crew_worker import CrewWorker
from paris_p2p.peer.kept_changes import KeptChanges, SetAnswer
from paris_p2p.peer.lead import Lead
from paris_p2p.peer.notifier import Notifier
from paris_p2p.peer.own_cards import OwnCards
from paris_p2p.peer.process import Worker
from paris_p2p.peer.room import MEMORY_SHARE, Room
from paris_p2p.peer.seeding import announce, seed_tips
from paris_p2p.peer.summary import checkpoint_limits
from paris_p2p.peer.trainer_process import MakeWorker
from paris_p2p.peer.uplink import Uplink
from paris_p2p.peer.watch import watch_clocks, watch_twin
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import lead_of
from paris_p2p.rules.crews import choose_crew, choose_move
from paris_p2p.rules.placement import Choice, choose_slot, turns_before
from paris_p2p.rules.standing import Standing, standing

log = logging.getLogger(__name__)
PAUSE_ATTEST_S = 5.0  # for the last card's attestation, before a pause
LEAVE_ATTEST_S = 60.0  # and before this peer leaves
PAUSE_FILE = "paused"  # in the data directory while a pause lasts
COOL_DOWN_S = 180.0  # after failures of our own trainer
_REFRESH_S = 15.0
_CATCH_UP_S = 60.0
_RETRY_S = 5.0
_LOOK_S = 2.0  # claims run out without news
_MEMORY_LOOK_S = 1.0

_SAID = ("standby", "seeding", "paused", "ended", "contradicted", "not admitted")  # a line when it begins

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
        make_worker: MakeWorker | None = None,
        gate: Gate | None = None,
        kept: KeptChanges | None = None,
        sensors: MachineSensors | None = None,
    ):
        self.node, self.settings, self.role = node, settings, role
        self.say = say
        self.make_worker: MakeWorker = make_worker or (lambda module: Worker(module, self.settings.nice))
        self.care = Caretaker(
            node, kept or KeptChanges(settings, {}, {}), say, sensors=sensors, trainer=self._trainer
        )
        self.care.changed = self._rest_changed
        self.care.last_checkpoint_bytes = self._last_checkpoint_bytes
        device = settings.device if role == "owner" else "cpu"
        self.attestor = Attestor(node, device=device, say=say, gate=gate)
        self._note_sizes()
        room = Room(settings, node.spec)
        self.claimer = Claimer(node, room, settings.slot, self._wants_a_slot, say, self._show)
        self.lead: Lead | None = None
        self.worker: CrewWorker | None = None
        self.uplink = Uplink(node, settings.upload_limit_bytes_per_s)
        self.phase, self.why = "looking", "reading claims and tips"
        self.news = Notifier()
        self._leaving = asyncio.Event()
        self._paused, self._rests_word = asyncio.Event(), asyncio.Event()
        self._cool_until_s = 0.0  # monotonic
        self._pause_file = settings.data_dir / PAUSE_FILE
        if self._pause_file.exists():  # asked for before a restart
            self._paused.set()
        node.listeners.append(lambda _: self.news.notify())

    @property
    def room(self) -> Room:
        return self.claimer.room

    @property
    def standing(self) -> Standing:
        """Returns what the owner's word leaves this peer to do now."""
        return standing(self.node.state, self.node.peer_id, self.node.chain.fork)

    @property
    def working(self) -> Lead | CrewWorker | None:
        """Returns what this peer trains in now, as lead or in another's crew; None while it does not."""
        return self.lead or self.worker

    async def run(self) -> None:
        """Lives until `leave`, or an error nobody can mend here; RevokedError once the owner revoked it."""
        beside = announce(self.node, self.role, self.say), seed_tips(self.node, self.role)
        watches = (
            watch_twin(self.node, self.role, self.say),
            watch_clocks(self.node, lambda: self.working.slot if self.working else "", self.say),
        )
        own = self.attestor.run(), self._refresh(), self._watch_memory(), self._balance(), self.uplink.watch()
        care = (self.care.watch(), self._carry_out_rests()) if self.role != "owner" else ()
        works = OwnCards(self.node, self._leads, self.say).carry(), *own, *beside, *watches, *care
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
            training=self.working.training if self.working else None,
            care=self.care.status() if self.role != "owner" else None,
            attested=self.attestor.attested,
        )

    async def pause(self) -> str:
        """Publishes, releases the claim and frees the memory; returns when that is done."""
        with explained(self._pause_file):
            write_atomic(self._pause_file, "paris-peer resume\n")  # a restart leaves it so
        self._paused.set()
        if self.working is not None:
            self.working.stop("paused")
        await self.news.until(lambda: self.working is None)
        return "paused: the slot is left to others and the trainer is gone; `paris-peer resume` goes on"

    async def resume(self) -> str:
        self._pause_file.unlink(missing_ok=True)
        self._paused.clear()
        self.news.notify()
        return f"resumed, and rests: {self.care.rest}" if self.care.rest else "resumed"

    async def change(self, body: bytes) -> SetAnswer:
        """Takes other settings, keeps them, and carries them out; UsageError leaves all as it was."""
        question, before = parse_question(body), self.care.kept
        kept = before.with_words(question.words)
        kept.write()
        changed = changed_fields(before.settings, kept.settings)
        self.settings = self.node.host.settings = self.settings.model_copy(update=changed)
        self.room.change(self.settings)
        self.uplink.limit_bytes_per_s = self.settings.upload_limit_bytes_per_s
        self.care.change(kept)
        said = []
        if "max_disk_bytes" in changed:
            said.append(await change_store(self.node.host, self.settings.max_disk_bytes))
        if "nice" in changed:
            said.append(await renice(self._trainer(), self.settings.nice))
        self.news.notify()
        return answer(kept, question, said)

    async def leave(self) -> str:
        """Publishes, releases the claim and ends `run`."""
        self._leaving.set()
        self.news.notify()
        if self.working is not None:
            self.working.stop("leaving")
        return "leaving" if self.lead is None else "leaving: publishing the last checkpoint first"

    # the loop

    async def _live(self) -> None:
        while not self._leaving.is_set():
            if self._paused.is_set():
                self._show("paused", "asked to pause, also over restarts; `paris-peer resume` goes on")
                await self.news.until(lambda: self._leaving.is_set() or not self._paused.is_set())
                continue
            if not self._may_go_on():
                await self.news.wait(_LOOK_S)
                continue
            if self.care.rest is not None:
                self._show("resting", str(self.care.rest))
                await self.news.wait(_LOOK_S)
                continue
            if self.role != "peer":
                self._show("seeding", "attests and seeds, does not train")
            if self.role != "peer" or not await self._work():
                await self.news.wait(_LOOK_S)
        self._show("leaving", "asked to stop")

    def _may_go_on(self) -> bool:
        """Tells whether the owner's word lets this peer work in its role, and shows why not. RevokedError."""
        now = self.standing
        if now.phase == "revoked":
            raise RevokedError(now.why)
        if now.works or (now.phase == "not admitted" and self.role != "peer"):
            return True
        self._show(now.phase, f"{now.why}; {'attesting and seeding' if now.attests else 'seeding'}")
        return False

    def _wants_a_slot(self) -> bool:
        is_held = self._paused.is_set() or self._leaving.is_set() or self.care.rest is not None
        return self.standing.works and not is_held

    async def _claim(self) -> Envelope[ClaimRecord] | None:
        """Returns a claim that holds its slot; None when there is none to be had, and when the swarm cannot
        be asked, which mends itself.
        """
        if time.monotonic() < self._cool_until_s:
            return None
        try:
            return await self.claimer.claim()
        except SwarmError as error:
            self._cool_until_s = time.monotonic() + _RETRY_S
            self.say(f"could not claim a slot: {error}; trying again in {_RETRY_S:.0f} s")
            return None

    async def _work(self) -> bool:
        """Leads a slot that has no lead, or works in a crew; returns False when there was neither."""
        claim = await self._claim()
        if claim is not None:
            await self._lead(claim)
            return True
        crew = self.node.spec.crew
        if crew is None or time.monotonic() < self._cool_until_s or not self._wants_a_slot():
            return False
        choice = choose_crew(self.claimer.crews(), self.node.peer_id, crew, only=self.claimer.only)
        if choice is None or self.node.board.tip(choice.slot) is None:
            return False
        await asyncio.sleep(choice.delay * self.node.spec.timing.settle_s)
        await self._work_in_crew(choice)
        return True

    async def _work_in_crew(self, choice: Choice) -> None:
        slot = choice.slot
        settings, take_over = self.room.trainer_settings(), self.claimer.take_over
        worker = self.worker = CrewWorker(
            self.node, slot, settings, self.say, self.make_worker, self.uplink, take_over
        )
        view = self.node.board.view(slot)
        claim = lead_of(view.claims, view.tip, time.time(), view.timing, view.heard, view.floor)
        lead = claim.signer[-8:] if claim else "none"
        self._show("training", f"working in {slot}'s crew (lead {lead}): {choice.why}")
        self.say(f"joining the crew of {slot}: {choice.why}")
        try:
            await self._until_over(slot, worker.run(), "working on")
        finally:
            self.worker = None
            self.news.notify()
        if worker.claim is not None:
            await self._lead(worker.claim, worker.seat)

    async def _lead(self, claim: Envelope[ClaimRecord], seat: CrewSeat | None = None) -> None:
        slot, settings = claim.record.slot, self.room.trainer_settings()
        checker = self.attestor.checker
        lead = self.lead = Lead(
            self.node, settings, claim, self.say, self.make_worker, checker, self.uplink, seat
        )
        self._show("training", f"leads {slot}, epoch {claim.record.epoch}")
        try:
            await self._until_over(slot, lead.run(attest_wait_s=self._attest_wait_s), "leading")
        finally:
            self.lead = None
            self.news.notify()

    async def _until_over(self, slot: str, work: Coroutine[Any, Any, str], what: str) -> None:
        """Waits for the end of work on a slot, and tells the person why it ended."""
        try:
            self.say(f"stopped {what} {slot}: {await work}")
        except MemoryLimitError as error:
            self.say(f"gave up {slot}: {error}; {self.room.ran_out(slot, 1, str(error))}")
        except (SwarmError, ParisError) as error:
            # A key that is on its way is no failure of this machine's.
            cool_s = _RETRY_S if isinstance(error, MissingKeyError) else COOL_DOWN_S
            self._cool_until_s = time.monotonic() + cool_s
            self.say(f"gave up {slot} for {cool_s:.0f} s: {error}")
            self._show("cooling", str(error))

    def _attest_wait_s(self) -> float:
        rests = self._paused.is_set() or self.care.rest is not None or not self.standing.works
        return PAUSE_ATTEST_S if rests else LEAVE_ATTEST_S

    def _show(self, phase: str, why: str) -> None:
        if phase != self.phase and phase in _SAID:
            self.say(f"{phase}: {why}")
        self.phase, self.why = phase, why

    # beside it

    async def _refresh(self) -> None:
        """Reads the board, and every minute asks a peer directly: absence proves nothing and gossip is a
        hint.
        """
        last = time.monotonic()
        while True:
            await asyncio.sleep(min(_REFRESH_S, self.node.spec.timing.claim_s / 3))
            self._note_sizes()
            try:
                await self.node.read_peers()
                await self.node.refresh()
                if time.monotonic() - last > _CATCH_UP_S:
                    last = time.monotonic()
                    await self.node.ask_connected()
            except SwarmError as error:
                self.say(f"cannot read the swarm's records: {error}; training goes on, trying again")

    def _note_sizes(self) -> None:
        """Notes what the leads of all slots have to move, also of those that came since."""
        spec, sizes = self.node.spec, self.node.board.hearing.state_bytes
        sizes |= {slot: sum(checkpoint_limits(spec, slot)) for slot in spec.slots if slot not in sizes}

    async def _balance(self) -> None:
        """Goes where nobody trains, with fewer peers than slots: after a checkpoint that others hold, and not
        in a hurry.
        """
        free_since_s: dict[str, float] = {}  # monotonic
        while True:
            now_s, timing = time.monotonic(), self.node.spec.timing
            states = self.claimer.states()
            free_since_s = {
                state.slot: free_since_s.get(state.slot, now_s) for state in states if not state.lead
            }
            if self.lead is not None and not self.claimer.only and self.lead.outbox.state.attested:
                choice = choose_slot(states, self.node.peer_id, holding=self.lead.slot)
                patience_s = timing.claim_s * (1 + turns_before(states, self.lead.slot))
                if choice is not None and now_s - free_since_s[choice.slot] > patience_s:
                    # neither a standby took it, nor the lead of a slot that is trained more
                    self.lead.stop(f"{choice.slot} has no lead and is trained less; going there")
            self._balance_crews()
            await asyncio.sleep(min(_REFRESH_S, timing.claim_s / 3))

    def _balance_crews(self) -> None:
        """Moves to another crew where the rules say so: the newest worker of the fullest one."""
        crew, worker, only = self.node.spec.crew, self.worker, self.claimer.only
        if crew is None or worker is None or only:
            return
        patience_s = self.node.board.hearing.heard(worker.slot).patience_s
        choice = choose_move(self.claimer.crews(), self.node.peer_id, time.time(), crew, patience_s)
        if choice is not None:
            worker.stop(f"moving to {choice.slot}: {choice.why}")

    def _leads(self, slot: str) -> bool:
        return self.lead is not None and self.lead.slot == slot and self.lead.has_begun

    def _trainer(self) -> int | None:
        """Returns the process that trains, unless it is to stop."""
        work = self.working
        return None if work is None or work.stopping else work.trainer_pid

    def _last_checkpoint_bytes(self) -> int:
        """Returns what has to be sent when training stops: a checkpoint, to two others."""
        return 2 * self.node.board.hearing.state_bytes.get(self.lead.slot, 0) if self.lead else 0

    def _rest_changed(self) -> None:
        self._rests_word.set()
        self.news.notify()

    async def _carry_out_rests(self) -> None:
        """Ends the training, and the checks of others' cards, while this machine is to rest."""
        while True:
            self._rests_word.clear()
            rest, work = self.care.rest, self.working
            if rest is not None and work is not None and not work.stopping:
                work.stop(f"resting: {rest}")
            await self.attestor.rest(rest is not None and not rest.attests)
            with suppress(TimeoutError):  # training may have begun just when the rest did
                async with asyncio.timeout(_LOOK_S if rest else None):
                    await self._rests_word.wait()

    async def _watch_memory(self) -> None:
        """Stops the training when the process tree nears --max-memory: before the kernel
        kills.
        """
        while True:
            await asyncio.sleep(_MEMORY_LOOK_S)
            if not (limit := self.settings.max_memory_bytes):
                continue
            used = await asyncio.to_thread(tree_memory_bytes)
            work = self.working
            if used > MEMORY_SHARE * limit and work is not None:
                words = f"memory: {used / 2**30:.2f} GiB of --max-memory {limit / 2**30:.2f} GiB"
                if not work.stopping:
                    training = work.training
                    work.stop(
                        f"{words}; {self.room.ran_out(training.slot, training.micro_batch_clips, words)}"
                    )
                self._cool_until_s = time.monotonic() + COOL_DOWN_S
            if used > limit and self.working is None:
                raise MemoryLimitError(
                    f"the node alone uses {used / 2**30:.2f} GiB, over --max-memory {limit / 2**30:.2f} GiB; "
                    "allow more, or join a smaller run"
                )
