"""The trainer of one leadership: started, heard, and started again when it dies (rules/trainer_life.py)."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from paris_p2p.errors import TrainError
from paris_p2p.node.status import TrainingStatus
from paris_p2p.peer.notifier import StopRequest
from paris_p2p.peer.outbox import Outbox
from paris_p2p.peer.process import Worker
from paris_p2p.rules.trainer_life import TrainerLife, after_end
from paris_p2p.training.messages import (
    CheckpointReady,
    Failed,
    Shrunk,
    Started,
    StepEvent,
    Stopped,
    TrainJob,
    error_of,
    parse_event,
)

MakeWorker = Callable[[str], Worker]
_TRAINER = "paris_p2p.training.trainer"
_KILL_GRACE_S = 5.0


class TrainerProcess:
    """Runs jobs one after the other; `status` is what it said last. `back` is set when what it learned since
    the tip is worth nothing; `renew` tells whether something else is to follow its next checkpoint.
    """

    def __init__(
        self,
        outbox: Outbox,
        make_worker: MakeWorker,
        stop: StopRequest,
        back: asyncio.Event,
        renew: Callable[[], bool],
        say: Callable[[str], None],
    ):
        self.outbox, self.slot, self.make_worker = outbox, outbox.slot, make_worker
        self.stop, self.back, self.renew, self.say = stop, back, renew, say
        self.status = TrainingStatus(slot=outbox.slot, epoch=outbox.claim.holding.epoch)
        self.life = TrainerLife()
        self.worker: Worker | None = None
        self._files = AsyncExitStack()  # what the worker starts from, open until it was read

    @property
    def _wanted(self) -> bool:
        return not (self.stop.made or self.back.is_set())

    @property
    def trains(self) -> bool:
        """Tells whether a process trains, and can be asked for a checkpoint."""
        return self.life.checkpoint_at_s < math.inf

    async def run(self, job: TrainJob) -> None:
        """Trains on from the newest checkpoint that is here, until it was asked to stop or go back, or made
        the checkpoint that a newer job follows; again after each death. Raises TrainError after too many.
        """
        job = await self._goes_on(job, TrainerLife())
        while self._wanted:
            worker = self.worker = self.make_worker(_TRAINER)
            async with self._files:
                in_order = await self._run_once(
                    worker, await self._files.enter_async_context(self.outbox.opened(job))
                )
            self.life = self.life.died(self.outbox.state.newest.steps)
            after = after_end(self.life, in_order=in_order, wanted=self._wanted)
            if after == "over":
                return
            self.outbox.node.tallies = self.outbox.node.tallies.trainer_died()
            words = " / ".join(list(worker.last_words)[-3:])
            self.say(
                f"the trainer of {self.slot} died (status {worker.returncode}): {words or 'it said nothing'}"
            )
            if after == "give up":
                raise TrainError(
                    f"the trainer of {self.slot} died {self.life.deaths} times without a checkpoint "
                    f"between; last words: {words}"
                )
            job = await self._goes_on(job, self.life)

    async def _goes_on(self, job: TrainJob, life: TrainerLife) -> TrainJob:
        """Returns the job as it goes on from the newest checkpoint, which stays where it is until it is
        read.
        """
        async with self.outbox.publishing:  # the newest resume state may be on its way into the store
            again = self.outbox.state.newest.path is not None or life.deaths > 0
            self.life = life.starting_again() if again else life
            return self.outbox.resumed(job)

    async def ask_for_checkpoint(self, *, at_once: bool = False) -> float:
        """Asks for a checkpoint when the next card should soon go out, or `at_once`; returns when that is
        (monotonic).
        """
        now_s, cadence_s = time.monotonic(), 0.0 if at_once else self.outbox.cadence_s
        if self.worker is not None and now_s >= self.life.checkpoint_due_s(cadence_s):
            self.life = self.life.checkpointed(now_s)
            await self.worker.send_line('{"command": "checkpoint"}')
        return self.life.checkpoint_due_s(cadence_s)

    async def kill(self) -> None:
        if self.worker is not None:
            await self.worker.kill()

    def update(self, **fields: Any) -> None:
        """Changes fields of `status`."""
        self.status = self.status.model_copy(update=fields)

    async def _run_once(self, worker: Worker, job: TrainJob) -> bool:
        """Runs one process; returns True when it ended by itself in good order."""
        await worker.start(job)
        self.life = self.life.launched(self.outbox.state.newest.steps)
        stopper = asyncio.create_task(self._forward_stop(worker))
        try:
            return await self._read_events(worker)
        finally:
            self.life = self.life.ended()
            stopper.cancel()
            await worker.kill(grace_s=_KILL_GRACE_S)

    async def _forward_stop(self, worker: Worker) -> None:
        await self.stop.unless_made(self.back.wait())
        if self.stop.made and not self.outbox.state.dropped_for:
            await worker.send_line('{"command": "stop"}')
        else:
            await worker.kill()  # what it learned since is worth nothing

    async def _read_events(self, worker: Worker) -> bool:
        """Acts on the trainer's events until it ends, or a newer job is to follow; returns True when that is
        in good order.
        """
        async for line in worker.lines():
            event = parse_event(line)
            if isinstance(event, Stopped):
                if not self.renew():
                    self.stop.make(event.reason)
                return True
            if isinstance(event, Failed):
                raise error_of(event)
            if isinstance(event, CheckpointReady):
                self.life = self.life.checkpointed(time.monotonic())
                self.outbox.keep(event)
                if self.renew():  # what follows goes on from here
                    return True
            elif isinstance(event, Started):
                await self._files.aclose()
                self._began(event)
            elif isinstance(event, Shrunk):
                self.update(micro_batch_clips=event.micro_batch_clips, recomputes=event.recomputes)
                self.say(f"{event.why}: {self.slot} goes on with {self.status.at_once()}")
            elif isinstance(event, StepEvent):
                self.update(
                    **event.model_dump(include={"steps", "clips", "loss", "clips_per_s", "wait_share"})
                )
        return False

    def _began(self, event: Started) -> None:
        self.life = self.life.training(time.monotonic())
        told = {"steps", "clips", "device", "micro_batch_clips", "batch_clips", "recomputes"}
        self.update(**event.model_dump(include=told))
        partly = event.micro_batch_clips < event.batch_clips or event.recomputes
        self.say(
            f"training {self.slot} on {event.device} from step {event.steps} "
            f"({event.parameters:,} parameters)" + (f", {self.status.at_once()}" if partly else "")
        )
        self.outbox.news.notify()  # a checkpoint that waits may go out, and the next one has its time
