"""Holding one slot: renew the claim, run the trainer, publish what it makes, stop in good order."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from paris_p2p.envelope import Envelope
from paris_p2p.errors import MemoryLimitError, ParisError, SwarmError, TrainError
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import TrainingStatus
from paris_p2p.peer.check import Checker
from paris_p2p.peer.downloading import telling
from paris_p2p.peer.outbox import Outbox
from paris_p2p.peer.process import Worker
from paris_p2p.peer.setback import Setback
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.claims import decide_claim, may_publish
from paris_p2p.spec import PeerSettings
from paris_p2p.training.messages import (
    CheckpointReady,
    Failed,
    Shrunk,
    Started,
    StepEvent,
    Stopped,
    TrainJob,
    parse_event,
)

log = logging.getLogger(__name__)
MAX_TRAINER_DEATHS = 3  # in a row, without a checkpoint between them
KILL_GRACE_S = 5.0
RETRY_S = 2.0
TRAINER = "paris_p2p.training.trainer"
MakeWorker = Callable[[str], Worker]
T = TypeVar("T")


class Lead:
    """One leadership of one slot in one epoch."""

    def __init__(
        self,
        node: RunNode,
        settings: PeerSettings,
        claim: Envelope[ClaimRecord],
        say: Callable[[str], None],
        make_worker: MakeWorker,
        checker: Checker,
    ):
        self.node, self.settings, self.say, self.make_worker = node, settings, say, make_worker
        self.claim = claim
        self.slot, self.epoch = claim.record.slot, claim.record.epoch
        self.training = TrainingStatus(slot=self.slot, epoch=self.epoch)
        self.outbox = Outbox(node, self.slot, self.epoch, say, self._claim_epoch)
        self.setback = Setback(node, self.outbox, checker, say)
        self._claim_ends = time.monotonic() + (claim.record.expires_at - claim.record.issued_at)
        self._worker: Worker | None = None
        # a trainer is starting again and has not yet read the checkpoint it goes on from
        self._loading = False
        self._checkpoint_at_s = math.inf  # monotonic: when the trainer started, or made its newest checkpoint
        self._stopping = asyncio.Event()
        self._reason = ""
        self._work_dir = settings.data_dir / "runs" / node.run / "work" / self.slot

    @property
    def worker_pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self, reason: str) -> None:
        """Ask for a checkpoint and the end; `run` returns when that is done."""
        if not self._stopping.is_set():
            self._reason = reason
            self._stopping.set()

    async def run(self, *, attest_wait_s: Callable[[], float]) -> str:
        """Train until stopped or the claim is lost; returns why it ended.

        `attest_wait_s` bounds how long the last card's attestation is waited for before the claim is
        released.
        """
        beside = [
            asyncio.create_task(work)
            for work in (self._renew(), self._publish_waiting(), self.setback.watch())
        ]
        work = asyncio.create_task(self._work(attest_wait_s))
        try:
            await asyncio.wait([work, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in beside:
                if task.done():
                    task.result()  # it ended, so it raised
            await work
        except ParisError:
            await self._release()
            raise
        finally:
            for task in (work, *beside):
                task.cancel()
            await asyncio.gather(work, *beside, return_exceptions=True)
            if self._worker is not None:
                await self._worker.kill()
            shutil.rmtree(self._work_dir, ignore_errors=True)
            self.outbox.close()
        await self._release()
        return self._reason

    async def _work(self, attest_wait_s: Callable[[], float]) -> None:
        job = await self._unless_stopped(self._prepare())
        if job is None:
            return
        while job is not None:
            await self._train(job)
            job = await self._unless_stopped(self._after_setback(job)) if self.setback.came.is_set() else None
        await self._last_card(attest_wait_s())

    async def _after_setback(self, job: TrainJob) -> TrainJob | None:
        self._update(clips_per_s=0.0)
        after = await self.setback.next_job(job)
        if isinstance(after, str):
            self.stop(after)
            return None
        return after

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The work's result; None when this leadership was asked to stop before it ended. A download goes
        on where it was.
        """
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            stopping.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    # claim

    async def _renew(self) -> None:
        timing = self.node.spec.timing
        while True:
            await asyncio.sleep(timing.claim_s / 3)
            await self._claim_again()

    async def _claim_epoch(self, epoch: int) -> None:
        """Go on under a higher epoch. The same leadership, so it keeps its place among the claims."""
        self.epoch = epoch
        self._update(epoch=epoch)
        await self._claim_again()

    async def _claim_again(self) -> None:
        timing, started = self.node.spec.timing, time.monotonic()
        head = self.node.header("claim", self.slot, timing.claim_s)
        # cut off for too long: this is a new claim, whoever came between is first
        lapsed = started > self._claim_ends
        since = head["issued_at"] if lapsed else self.claim.record.claimed_at
        try:
            self.claim = await self.node.say(ClaimRecord(**head, epoch=self.epoch, claimed_at=since))
        except SwarmError as error:
            # the network may come back; until then the claim runs out and nothing is published
            self.say(f"could not renew the claim of {self.slot}: {error}; training goes on")
        else:
            self._claim_ends = started + timing.claim_s

    def _lost(self) -> str:
        """Why this peer no longer leads, or nothing. A claim that lapsed while nobody came is not lost: it
        is made anew.
        """
        decision = decide_claim(self.node.board.view(self.slot), self.node.peer_id, time.time())
        return decision.reason if decision.action in ("yield", "standby") else ""

    async def _release(self) -> None:
        head = self.node.header("claim", self.slot, self.node.spec.timing.claim_s)
        try:
            await self.node.say(
                ClaimRecord(**head, epoch=self.epoch, claimed_at=self.claim.record.claimed_at, released=True)
            )
        except SwarmError as error:
            self.say(f"could not release {self.slot}, its claim runs out by itself: {error}")

    # training

    async def _prepare(self) -> TrainJob:
        """Fetch what training needs: the slot's shards and the tip's resume state."""
        tip = self.node.board.tip(self.slot)
        wanted = self.node.spec.shards_for(self.slot, "train")
        initial = self.node.spec.initial_for(self.slot) if tip is None else None
        refs = (
            [shard.blob for shard in wanted]
            + ([initial] if initial else [])
            + ([tip.card.record.resume] if tip else [])
        )
        async with telling(
            self.node, f"what {self.slot} needs", refs, self.say, lambda note: self._update(note=note)
        ):
            shards = await self.node.fetch_shards(wanted)
            initial_path = (
                (await self.node.fetch([initial], self.node.run))[0] if initial is not None else None
            )
            await self.outbox.start_from(tip)
        shutil.rmtree(self._work_dir, ignore_errors=True)
        self._work_dir.mkdir(parents=True)
        return TrainJob(
            run=self.node.run,
            slot=self.slot,
            spec_path=self.node.spec_file,
            shard_paths=tuple(path for path, _ in shards),
            shard_clusters=tuple(cluster for _, cluster in shards),
            resume_path=self.outbox.newest.path,
            resume_steps=self.outbox.newest.steps,
            resume_clips=self.outbox.newest.clips,
            lowered=self.outbox.lowered,
            initial_path=initial_path,
            out_dir=self._work_dir,
            device=self.settings.device,
            threads=self.settings.threads,
            micro_batch_clips=self.settings.micro_batch_clips,
            compile=self.settings.compile,
            max_memory_bytes=self.settings.max_memory_bytes,
            max_vram_bytes=self.settings.max_vram_bytes,
            checkpoint_s=self.node.spec.timing.checkpoint_s,
        )

    async def _train(self, job: TrainJob) -> None:
        """Run the trainer, and again when it dies: from the newest checkpoint that is here."""
        deaths = 0
        while not (self._stopping.is_set() or self.setback.came.is_set()):
            self._worker = self.make_worker(TRAINER)
            await self._worker.start(job)
            stopper = asyncio.create_task(self._forward_stop(self._worker))
            before = self.outbox.newest.steps
            try:
                finished = await self._read_events(self._worker)
            finally:
                self._loading, self._checkpoint_at_s = False, math.inf
                stopper.cancel()
                await self._worker.kill(grace_s=KILL_GRACE_S)
            if finished or self._stopping.is_set() or self.setback.came.is_set():
                return
            deaths = 1 if self.outbox.newest.steps != before else deaths + 1
            words = " / ".join(list(self._worker.last_words)[-3:])
            self.say(
                f"the trainer of {self.slot} died (status {self._worker.returncode}): "
                f"{words or 'it said nothing'}"
            )
            if deaths >= MAX_TRAINER_DEATHS:
                raise TrainError(
                    f"the trainer of {self.slot} died {deaths} times without a checkpoint between; "
                    f"last words: {words}"
                )
            async with self.outbox.publishing:  # the newest resume state may be on its way into the store
                newest = self.outbox.newest
                job = job.model_copy(
                    update={
                        "resume_path": newest.path,
                        "resume_steps": newest.steps,
                        "resume_clips": newest.clips,
                    }
                )
                self._loading = True

    async def _forward_stop(self, worker: Worker) -> None:
        stopping, back = (
            asyncio.create_task(self._stopping.wait()),
            asyncio.create_task(self.setback.came.wait()),
        )
        try:
            await asyncio.wait([stopping, back], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            back.cancel()
        if self._stopping.is_set():
            await worker.send_line('{"command": "stop"}')
        else:
            await worker.kill()  # what it learned since is worth nothing

    async def _read_events(self, worker: Worker) -> bool:
        """Act on the trainer's events until it ends; True when it ended by itself in good order."""
        async for line in worker.lines():
            event = parse_event(line)
            if isinstance(event, Started):
                self._loading, self._checkpoint_at_s = False, time.monotonic()
                self._update(steps=event.steps, clips=event.clips, device=event.device, **_at_once(event))
                self.say(
                    f"training {self.slot} on {event.device} from step {event.steps} ({event.parameters:,} "
                    "parameters)"
                    + (
                        f", {self.training.at_once()}"
                        if event.micro_batch_clips < event.batch_clips or event.recomputes
                        else ""
                    )
                )
            elif isinstance(event, Shrunk):
                self._update(micro_batch_clips=event.micro_batch_clips, recomputes=event.recomputes)
                self.say(f"{event.why}: {self.slot} goes on with {self.training.at_once()}")
            elif isinstance(event, StepEvent):
                self._update(
                    steps=event.steps,
                    clips=event.clips,
                    loss=event.loss,
                    clips_per_s=event.clips_per_s,
                    wait_share=event.wait_share,
                )
            elif isinstance(event, CheckpointReady):
                self._checkpoint_at_s = time.monotonic()
                self.outbox.keep(event)
            elif isinstance(event, Failed):
                raise (MemoryLimitError if event.error == "MemoryLimitError" else TrainError)(event.message)
            elif isinstance(event, Stopped):
                if not self._stopping.is_set():
                    self.stop(event.reason)
                return True
        return False

    def _update(self, **fields: Any) -> None:
        self.training = self.training.model_copy(update=fields)

    # checkpoints

    async def _publish_waiting(self) -> None:
        while True:
            lost = self._lost()
            if lost:
                self.stop(lost)
            elif not self.outbox.descends():
                self.stop(
                    f"the tip of {self.slot} is not what this training descends from; "
                    "it starts again from there"
                )
            else:
                try:
                    await self._publish_if_due()
                except SwarmError as error:  # the others may be told later; until then training goes on
                    self.say(f"could not tell of the checkpoint of {self.slot} yet: {error}")
                    await asyncio.sleep(RETRY_S)
                await self._ask_for_checkpoint()
            await asyncio.sleep(0.25)

    async def _publish_if_due(self) -> None:
        timing = self.node.spec.timing
        # Publishing moves the files into the store, from under a trainer that is about to read them. And near
        # its end the claim may be another's by now: renewing or losing it decides.
        sure = may_publish(self._claim_ends, time.monotonic(), min(timing.margin_s, timing.claim_s / 4))
        if sure and not self._loading:
            await self.outbox.publish_if_due(hurry=self._stopping.is_set())

    async def _ask_for_checkpoint(self) -> None:
        """In time for the next card; the trainer's own timer is for when cards go out more slowly."""
        if self._worker is not None and time.monotonic() - self._checkpoint_at_s >= self.outbox.cadence_s:
            self._checkpoint_at_s = time.monotonic()
            await self._worker.send_line('{"command": "checkpoint"}')

    async def _attestors_connected(self) -> bool:
        try:
            return await self.node.attestors_connected()
        except SwarmError:  # our own daemon is being restarted: they may be there yet
            return True

    async def _last_card(self, wait_s: float) -> None:
        """Publish what is left and wait, within bounds, until another peer holds it or it was found to be
        worse.
        """
        deadline, refused = time.monotonic() + wait_s, False
        while self.outbox.busy and time.monotonic() < deadline and not (self._lost() or refused):
            if not self.outbox.publishing.locked() and not await self._attestors_connected():
                break
            await asyncio.sleep(0.1)
            refused = self.setback.came.is_set() and await self.setback.counts()
        if refused:
            self.say(f"the last checkpoint of {self.slot} was refused; the slot goes on from its tip")
        elif self.outbox.busy:
            self.say(
                f"nobody attested the last checkpoint of {self.slot} in time (at most {wait_s:.0f} s); "
                "the slot goes on from its tip"
            )


def _at_once(event: Started) -> dict[str, Any]:
    return {
        "micro_batch_clips": event.micro_batch_clips,
        "batch_clips": event.batch_clips,
        "recomputes": event.recomputes,
    }
