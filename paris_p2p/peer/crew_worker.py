"""Working in the crew of a slot that another peer leads, as a loop:

    fetch the slot's clips and the tip's state, and train on from there; meanwhile
        say that this peer works here, renewed at each third of a claim's length
    at the round's end:          make an update, sign it and tell it
    when there is a new tip:     go on from it
    when the owner changed what the slot is trained with:  start the trainer anew from the tip
    when the lead is gone:       make an update at once, claim the slot, and lead it with this trainer

What is done when stands in rules/crew_steps.py; who may be in a crew in rules/crews.py.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from paris_p2p.crew_records import WorkerRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import SwarmError, TrainError
from paris_p2p.node.open_copies import make_work_folder, work_folder
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import TrainingStatus
from paris_p2p.peer.crew_seat import CrewSeat
from paris_p2p.peer.downloading import telling
from paris_p2p.peer.jobs import clip_blobs, train_job
from paris_p2p.peer.notifier import Notifier, StopRequest
from paris_p2p.peer.trainer_process import MakeWorker
from paris_p2p.peer.uplink import Uplink
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import leads_of
from paris_p2p.rules.crew_steps import MemberStep, MemberView, worker_step
from paris_p2p.rules.holding import renew_in_s
from paris_p2p.rules.tips import Tip
from paris_p2p.spec import CREW_READER
from paris_p2p.swarm.asking import end_tasks
from paris_p2p.training.messages import TrainJob

_LOOK_S = 1.0  # who leads changes without news
_LOOKS = 12  # at its own record in a claim's length, at most

TakeOver = Callable[[str], Awaitable[Envelope[ClaimRecord] | None]]


class CrewWorker:
    """One membership of one slot's crew.

    After `run`, `claim` is the claim that holds the slot where this peer leads it from now on, with `seat`.
    """

    def __init__(
        self,
        node: RunNode,
        slot: str,
        settings: PeerSettings,
        say: Callable[[str], None],
        make_worker: MakeWorker,
        uplink: Uplink,
        take_over: TakeOver,
    ):
        self.node, self.slot, self.settings, self.say = node, slot, settings, say
        self.news = Notifier()
        self.stop_request = StopRequest(self.news)
        self.seat = CrewSeat(node, slot, make_worker, uplink, say)
        self.claim: Envelope[ClaimRecord] | None = None
        self.joined_at = time.time()
        self.lead = ""  # peer id
        self.note = ""  # what it waits for before it trains
        self._take_over = take_over
        self._work_dir = work_folder(settings.data_dir, node.run, self.slot)

    @property
    def training(self) -> TrainingStatus:
        process = self.seat.process
        status = process.status if process else TrainingStatus(slot=self.slot, epoch=0)
        mine = {"note": self.note, "crew_lead": self.lead, "refused_updates": dict(self.seat.refusals)}
        return status.model_copy(update=mine)

    @property
    def trainer_pid(self) -> int | None:
        """Returns the id of the process that trains now, which is its group's too."""
        return self.seat.process.pid if self.seat.process is not None else None

    @property
    def stopping(self) -> bool:
        return self.stop_request.made

    def stop(self, reason: str) -> None:
        """Asks for the end; `run` returns when that is done. What no update holds is lost: at most a
        round.
        """
        self.stop_request.make(reason)

    async def run(self) -> str:
        """Works until asked to stop, or until this peer leads the slot; returns why it ended."""
        self.seat.came = self.news.notify
        beside = asyncio.create_task(self._keep_record())
        work = asyncio.create_task(self.stop_request.unless_made(self._work()))
        try:
            with self.news.listening(self.node, self.slot):
                await asyncio.wait([work, beside], return_when=asyncio.FIRST_COMPLETED)
                if beside.done():
                    beside.result()  # it ended, so it raised
                await work
        finally:
            await end_tasks([work, beside])
            if self.claim is None:
                await self.seat.close()
                shutil.rmtree(self._work_dir, ignore_errors=True)
            await self._say_so(released=True)
        return "the slot has no lead, and this peer takes over" if self.claim else self.stop_request.reason

    async def _work(self) -> None:
        while self.claim is None:
            tip = self.node.board.tip(self.slot)
            if tip is None or not self.node.spec.crew or self.slot not in self.node.spec.slots:
                return self.stop(f"{self.slot} has nothing to work on any more")
            try:
                await self._step(tip)
            except TrainError as error:
                self.seat.died(error)
                await self.seat.end()

    async def _step(self, tip: Tip) -> None:
        if self.seat.process is None:
            await self._begin(tip)
            return
        self.seat.trainer.raise_if_ended()
        step = worker_step(self._view(tip), has_lead=self._has_lead(tip), now_s=time.monotonic())
        await self._carry_out(step, tip)

    async def _carry_out(self, step: MemberStep, tip: Tip) -> None:
        seat = self.seat
        if step.action == "adopt":
            await seat.follow(tip)
        elif step.action == "renew":
            self.say(f"what {self.slot} is trained with changed; its trainer starts again from the tip")
            await self._begin(tip)
        elif step.action == "update":
            await seat.make_update()
        elif step.action == "claim":
            self.claim = await self._take_over(self.slot)
            if self.claim is None:
                await self.news.wait(_LOOK_S)
        else:
            await seat.tell()
            await self.news.wait(min(_LOOK_S, max(0.0, step.until_s - time.monotonic())))

    async def _begin(self, tip: Tip) -> None:
        """Fetches what training needs, and starts the trainer from the tip."""
        node, card = self.node, tip.card.record
        shards = clip_blobs(node.spec, self.slot)
        refs = [*shards, card.weights, card.resume]
        async with telling(node, f"what {self.slot} needs", refs, self.say, self._note):
            await node.fetch(shards, node.run)
            await node.fetch_card(tip.card)
        await self.seat.begin(tip, self._job)  # its trainer loads for a while, when all is here

    async def _job(self, files: AsyncExitStack) -> TrainJob:
        """Fetches the slot's clips by what the run is now; they can be read until `files` are closed."""
        node, number = self.node, self.node.state.number
        refs = clip_blobs(node.spec, self.slot)
        opened = node.readable(refs, node.run, f"shards/{self.slot}/{number}")
        paths = await files.enter_async_context(opened)
        shutil.rmtree(self._work_dir, ignore_errors=True)
        make_work_folder(self._work_dir)
        return train_job(node, self.slot, number, self.settings, paths, self._work_dir)

    def _note(self, note: str) -> None:
        self.note = note

    def _view(self, tip: Tip) -> MemberView:
        seat = self.seat
        return MemberView(
            base=seat.card.id,
            tip=tip.card.id,
            base_since_s=seat.base_since_s,
            round_s=seat.round_s,
            updated=seat.updated,
            outdated=seat.outdated(tip),
        )

    def _has_lead(self, tip: Tip) -> bool:
        view = self.node.board.view(self.slot)
        leads = leads_of(view.claims, tip, time.time(), self.node.spec.timing, view.heard, view.floor)
        others = [lead.signer for lead in leads if lead.signer != self.node.peer_id]
        self.lead = others[0] if others else ""
        return bool(others)

    # the record that says so

    async def _keep_record(self) -> None:
        """Says that this peer works here, again at each third of a claim's length, until cancelled."""
        timing = self.node.spec.timing
        while True:
            issued_at = await self._say_so(released=False)
            due_s = renew_in_s(issued_at, time.time(), timing)
            await asyncio.sleep(max(timing.claim_s / _LOOKS, due_s))

    async def _say_so(self, *, released: bool) -> float:
        head = self.node.header("worker", self.slot, self.node.spec.timing.claim_s)
        process, uplink = self.seat.process, self.seat.uplink
        record = WorkerRecord(
            **head,
            oldest_reader=CREW_READER,
            joined_at=min(self.joined_at, head["issued_at"]),
            released=released,
            step_s=min(1e6, process.step_s) if process else 0.0,
            upload_bytes_per_s=min(1e12, uplink.bytes_per_s),
        )
        try:
            await self.node.say(record)
        except SwarmError as error:
            self.say(f"could not say that this peer works on {self.slot}: {error}; training goes on")
        return float(head["issued_at"])
