"""Holding one slot, as a loop:

    fetch the slot's clips and the tip's resume state
    train, until somebody asks this leadership to stop; meanwhile, side by side:
        renew the claim at each third of its length          (held_claim.py)
        start the trainer again when it dies                 (trainer_process.py)
        sign the newest checkpoint and tell the others       (outbox.py)
        go back to the best one when the gate refuses a card (setback.py)
        stop, or start again, when the owner changes the run (owner_changes.py)
        train in rounds while there are workers              (lead_rounds.py, crew_lead.py)
    wait until another peer holds the last checkpoint, and release the claim

What is done when stands in rules/: claims.py, trainer_life.py, next_card.py, next_setback.py, lead_move.py.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from paris_p2p.envelope import Envelope
from paris_p2p.errors import (
    DiskFullError,
    MachineError,
    MissingKeyError,
    ParisError,
    SwarmError,
    TrainError,
)
from paris_p2p.node.open_copies import make_work_folder, work_folder
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import TrainingStatus
from paris_p2p.peer.beginning import beginning_of, own_card_settled
from paris_p2p.peer.check import Checker
from paris_p2p.peer.crew_seat import CrewSeat
from paris_p2p.peer.downloading import telling
from paris_p2p.peer.held_claim import HeldClaim
from paris_p2p.peer.jobs import clip_blobs, train_job
from paris_p2p.peer.lead_rounds import LeadRounds
from paris_p2p.peer.notifier import Notifier, StopRequest
from paris_p2p.peer.outbox import Outbox
from paris_p2p.peer.owner_changes import OwnerChanges
from paris_p2p.peer.setback import Setback
from paris_p2p.peer.trainer_process import MakeWorker, TrainerProcess
from paris_p2p.peer.uplink import Uplink
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.next_card import CardDecision
from paris_p2p.rules.rest import WORDS_OF_REST, rests
from paris_p2p.rules.woken import woken_at_s
from paris_p2p.training.messages import TrainJob

_RETRY_S = 2.0  # after the others could not be told of a card, or a key to sign it was missing
_NO_ROOM_S = 30.0  # after this disk had no room for a checkpoint
_LOOK_S = 1.0  # the order of claims, and who is connected, change without news


class Lead:
    """One leadership of one slot."""

    def __init__(
        self,
        node: RunNode,
        settings: PeerSettings,
        claim: Envelope[ClaimRecord],
        say: Callable[[str], None],
        make_worker: MakeWorker,
        checker: Checker,
        uplink: Uplink,
        seat: CrewSeat | None = None,
    ):
        self.node, self.settings, self.say, self.slot = node, settings, say, claim.record.slot
        self.news = Notifier()
        self.stop_request = StopRequest(self.news)
        self.claim = HeldClaim(node, claim, say)
        self.outbox = Outbox(node, self.claim, self.news, say)
        self.setback = Setback(node, self.outbox, checker, self.news, say)
        self.changes = OwnerChanges(node, self.outbox, self.news, self.stop_request, self._job, say)
        self._work_dir = work_folder(settings.data_dir, node.run, self.slot)
        self._keeps_work = seat is not None  # what a worker's trainer, which this one goes on with, wrote
        seat = seat or CrewSeat(node, self.slot, make_worker, uplink, say)
        self.rounds = LeadRounds(
            node,
            self.outbox,
            self.setback,
            self.changes,
            seat,
            self.news,
            self.stop_request,
            self._work_dir,
            say,
        )
        self.trainer = TrainerProcess(
            self.outbox, make_worker, self.stop_request, self.setback.came, self._is_to_follow, say
        )

    @property
    def epoch(self) -> int:
        return self.claim.holding.epoch

    @property
    def training(self) -> TrainingStatus:
        process = self.rounds.seat.process
        status = process.status if process is not None else self.trainer.status
        return status.model_copy(update={"epoch": self.epoch})

    @property
    def trainer_pid(self) -> int | None:
        """Returns the id of the process that trains now, which is its group's too."""
        process = self.rounds.seat.process or self.trainer.worker
        return process.pid if process is not None else None

    @property
    def has_begun(self) -> bool:
        """Tells whether it knows what it goes on from: until then an own card of before is carried by itself
        (own_cards.py).
        """
        return bool(self.outbox.state.ancestors)

    @property
    def stopping(self) -> bool:
        return self.stop_request.made

    def stop(self, reason: str) -> None:
        """Asks for a checkpoint and the end; `run` returns when that is done."""
        self.stop_request.make(reason)

    async def run(self, *, attest_wait_s: Callable[[], float]) -> str:
        """Trains until stopped or the claim is lost; returns why it ended.

        `attest_wait_s` bounds how long the last card's attestation is waited for before the claim is
        released.
        """
        beside = [
            asyncio.create_task(work)
            for work in (
                self.claim.keep(),
                self._send_cards(),
                self.setback.watch(),
                self.changes.watch(),
                self.rounds.watch(self.trainer),
            )
        ]
        work = asyncio.create_task(self._work(attest_wait_s))
        try:
            with self.news.listening(self.node, self.slot):
                await asyncio.wait([work, *beside], return_when=asyncio.FIRST_COMPLETED)
                for task in beside:
                    if task.done():
                        task.result()  # it ended, so it raised
                await work
        except ParisError as error:
            await self._keep_after(error)
            await self.claim.release()
            raise
        finally:
            for task in (work, *beside):
                task.cancel()
            await asyncio.gather(work, *beside, return_exceptions=True)
            await self.trainer.kill()
            await self.rounds.seat.close()
            await self.changes.close()
            shutil.rmtree(self._work_dir, ignore_errors=True)
            self.outbox.close()
        await self.claim.release()
        return self.stop_request.reason

    async def _work(self, attest_wait_s: Callable[[], float]) -> None:
        job = await self.stop_request.unless_made(self._prepare())
        if job is None:
            return
        while job is not None:
            if self.rounds.entered:
                job = await self.rounds.run(job)
                continue
            await self.trainer.run(job)
            job = await self._next_job(job)
        await self._last_card(attest_wait_s())

    async def _next_job(self, job: TrainJob) -> TrainJob | None:
        """Returns what is trained after a job has ended; None when this leadership is over."""
        self.trainer.update(clips_per_s=0.0)
        if self.setback.came.is_set():
            after = await self.stop_request.unless_made(self.setback.next_job(job))
            if isinstance(after, str):
                self.stop(after)
                return None
            return after
        if self.rounds.due.is_set() and not self.stopping:
            self.rounds.enter()
            return job
        if not self.changes.due.is_set():
            return None
        return await self.stop_request.unless_made(self.changes.next_job())

    def _is_to_follow(self) -> bool:
        return self.changes.due.is_set() or self.rounds.due.is_set()

    async def _prepare(self) -> TrainJob:
        """Fetches what training needs: the slot's clips, and what it starts from by then."""
        node = self.node
        await self._know_what_the_tip_knows()
        await self._have_gone_back()
        if not self._keeps_work:
            shutil.rmtree(self._work_dir, ignore_errors=True)
            make_work_folder(self._work_dir)
        tip, refs = node.board.tip(self.slot), list(clip_blobs(node.spec, self.slot))
        if not self.rounds.begin(tip) and (start := beginning_of(node, self.slot, tip)) is not None:
            refs.append(start.blob)
        what = f"what {self.slot} needs"
        async with telling(node, what, refs, self.say, lambda note: self.trainer.update(note=note)):
            job = await self.changes.first_job()
            while not self.rounds.begin(tip := node.board.tip(self.slot)):
                if await self.outbox.start_from(tip):
                    return job
        self.outbox.stand_on(tip)
        return job

    async def _have_gone_back(self) -> None:
        """Waits for this peer's own card where that goes back; stops where the slot rests after it."""
        node = self.node
        await own_card_settled(node, self.slot, self.news, self.say)
        woken_s = woken_at_s(node.state, self.slot)
        if rests(node.board.tip(self.slot), time.time(), node.spec.timing, woken_s):
            self.stop(f"{self.slot} {WORDS_OF_REST}")

    async def _know_what_the_tip_knows(self) -> None:
        """Asks for the owner's notices that the tip was trained by; SwarmError where nobody tells them."""
        node, tip = self.node, self.node.board.tip(self.slot)
        if tip is None or (known := tip.card.record.notices) <= node.state.number:
            return
        await node.refresh()
        if known > node.state.number:
            raise SwarmError(
                f"the tip of {self.slot} was trained by notice {known} of the run's owner, and nobody who "
                f"was asked told more than {node.state.number}"
            )

    async def _job(self, files: AsyncExitStack) -> TrainJob:
        """Fetches the slot's clips by what the run is now; they can be read until `files` are closed."""
        node, number = self.node, self.node.state.number
        refs = clip_blobs(node.spec, self.slot)
        opened = node.readable(refs, node.run, f"shards/{self.slot}/{number}")
        paths = await files.enter_async_context(opened)
        return train_job(node, self.slot, number, self.settings, paths, self._work_dir)

    async def _send_cards(self) -> None:
        """Carries out what the rules say of the next card, until cancelled."""
        while True:
            decision = self._next_card()
            ends = decision.action in ("yield", "abandon")
            if ends:
                self.stop(decision.why)
            try:
                await self.outbox.carry_out(decision)
            except SwarmError as error:  # the others may be told later; until then training goes on
                self.say(f"could not tell of the checkpoint of {self.slot} yet: {error}")
                await asyncio.sleep(_RETRY_S)
            except (MissingKeyError, DiskFullError) as error:  # it waits, and training goes on
                self.say(f"could not sign the checkpoint of {self.slot} yet: {error}")
                await asyncio.sleep(_NO_ROOM_S if isinstance(error, DiskFullError) else _RETRY_S)
            due_s = math.inf if ends else await self.trainer.ask_for_checkpoint()
            if ends or decision.action == "wait":
                left_s = min(decision.until_s, due_s) - time.monotonic()
                await self.news.wait(min(left_s, _LOOK_S))

    def _next_card(self) -> CardDecision:
        """Returns what the rules say of the next card now."""
        loading = self.trainer.life.loading or self.rounds.entering
        return self.outbox.decide(loading=loading, ending=self.stopping)

    def _is_signing(self) -> bool:
        """Tells whether a card is being signed, or is to be at once: what was learned is lost without it,
        also where nobody is there to hear of it.
        """
        return self.outbox.publishing.locked() or self._next_card().action in ("publish", "publish again")

    async def _last_card(self, wait_s: float) -> None:
        """Waits until another peer holds what is left or it was found to be worse, for at most `wait_s`, and
        as long as somebody is there who could attest it. What is still left then is signed and put by.
        """
        deadline_s, refused = time.monotonic() + wait_s, False
        while self.outbox.busy and time.monotonic() < deadline_s and not (self.outbox.is_lost or refused):
            if not self._is_signing() and not await self._attestors_connected():
                break
            await self.news.wait(min(deadline_s - time.monotonic(), _LOOK_S))
            refused = self.setback.came.is_set() and await self.setback.counts()
        if refused:
            self.outbox.forget()
            self.say(f"the last checkpoint of {self.slot} was refused; the slot goes on from its tip")
        elif self.outbox.busy:
            await self._put_by(wait_s)

    async def _keep_after(self, error: ParisError) -> None:
        """Keeps for later what a leadership learned that ends with an error. A trainer that died at what it
        began with is to begin with something older; where the machine failed it, its checkpoints are good.
        """
        with suppress(ParisError):  # the first error is the one to show
            if isinstance(error, TrainError) and not isinstance(error, MachineError):
                self.outbox.forget_newest()
            else:
                await self.outbox.put_by()

    async def _put_by(self, wait_s: float) -> None:
        """Keeps what nobody attested for later."""
        try:
            await self.outbox.put_by()
        except ParisError as error:
            self.say(f"the last checkpoint of {self.slot} is lost: it could not be signed: {error}")
            return
        if self.outbox.is_lost:  # why a claim was lost is said by who ends
            return
        self.say(
            f"nobody attested the last checkpoint of {self.slot} in time (at most {wait_s:.0f} s); "
            "it is kept here, and goes out and is trained on from, unless the slot goes on without it"
        )

    async def _attestors_connected(self) -> bool:
        try:
            return await self.node.attestors_connected()
        except SwarmError:  # our own daemon is being restarted: they may be there yet
            return True
