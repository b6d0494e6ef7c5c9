"""The trainer of a member of a crew: a handle that sends one command at a time and returns its answer.

It trains all the while; what it says of its steps shows in `status`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from paris_p2p.errors import TrainError
from paris_p2p.node.status import TrainingStatus
from paris_p2p.peer.process import Worker
from paris_p2p.peer.trainer_process import MakeWorker
from paris_p2p.training.crew_messages import (
    Adopt,
    Adopted,
    CrewJob,
    GoSolo,
    MakeUpdate,
    Merge,
    MergedReady,
    NothingLearned,
    NotMerged,
    UpdateReady,
    parse_crew_event,
)
from paris_p2p.training.messages import (
    CheckpointReady,
    Failed,
    Message,
    Shrunk,
    Started,
    StepEvent,
    Stopped,
    error_of,
)

M = TypeVar("M", bound=Message)
_TRAINER = "paris_p2p.training.trainer"
_STEP_FIELDS = {"steps", "clips", "loss", "clips_per_s", "wait_share"}
_STARTED_FIELDS = {"steps", "clips", "device", "micro_batch_clips", "batch_clips", "recomputes"}
_END_GRACE_S = 5.0


class CrewProcess:
    """One process over its life; `came` is called when it has ended."""

    def __init__(
        self, slot: str, make_worker: MakeWorker, say: Callable[[str], None], came: Callable[[], None]
    ):
        self.slot, self.say, self.came = slot, say, came
        self.status = TrainingStatus(slot=slot, epoch=0)
        self.step_s = 0.0  # of one optimizer step, as measured last; 0: not yet
        self.job: CrewJob | None = None
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answer: asyncio.Future[Message] | None = None
        self._unheard = 0  # answers to come that nobody waits for any more
        self._turn = asyncio.Lock()
        self._began = asyncio.Event()
        self._files = AsyncExitStack()  # what it starts from, open until it was read

    @property
    def pid(self) -> int | None:
        """Returns the process's id, which is its group's too, while it runs."""
        return self._worker.pid if self._worker is not None else None

    @property
    def ended(self) -> bool:
        """Tells whether the process is gone, or about to go."""
        return self._reading is not None and self._reading.done()

    async def start(self, job: CrewJob, files: AsyncExitStack) -> None:
        """Starts the process; returns when it trains. `files` is closed when what it names was read."""
        self.job, self._files = job, files
        self._worker = self._make_worker(_TRAINER)
        await self._worker.start(job)
        self._reading = asyncio.create_task(self._read(self._worker))
        began = asyncio.create_task(self._began.wait())
        try:
            await asyncio.wait({began, self._reading}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            began.cancel()
            await asyncio.gather(began, return_exceptions=True)
        self.raise_if_ended()

    def raise_if_ended(self) -> None:
        """Raises what ended the process, if it has ended: TrainError, MachineError."""
        if self._reading is None or not self._reading.done() or self._reading.cancelled():
            return
        self._reading.result()
        worker = self._worker
        words = " / ".join(list(worker.last_words)[-3:]) if worker else ""
        status = worker.returncode if worker else None
        raise TrainError(f"the trainer of {self.slot} ended (status {status}): {words or 'it said nothing'}")

    async def adopt(self, command: Adopt) -> Adopted:
        """Has training go on from another card's state."""
        adopted = _of(await self._ask(command), Adopted)
        self.step_s = adopted.step_s or self.step_s
        return adopted

    async def update(self, step: float, part: int) -> UpdateReady | None:
        """Returns an update of what was learned; None where nothing was."""
        answer = await self._ask(MakeUpdate(step=step, part=part))
        return None if isinstance(answer, NothingLearned) else _of(answer, UpdateReady)

    async def merge(self, command: Merge) -> MergedReady | NotMerged:
        """Returns the state that candidates were merged to, or why none could be."""
        answer = await self._ask(command)
        return answer if isinstance(answer, NotMerged) else _of(answer, MergedReady)

    async def solo(self, counted: dict[str, int]) -> CheckpointReady:
        """Returns a checkpoint of this machine alone, which says what the last round counted, and ends the
        process.
        """
        checkpoint = _of(await self._ask(GoSolo(counted=counted)), CheckpointReady)
        await self.kill(grace_s=_END_GRACE_S)
        return checkpoint

    async def kill(self, *, grace_s: float = 0.0) -> None:
        """Ends the process; returns when it is gone."""
        if self._worker is not None:
            await self._worker.kill(grace_s=grace_s)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._files.aclose()

    def note(self, **fields: Any) -> None:
        """Changes fields of `status`."""
        self.status = self.status.model_copy(update=fields)

    async def _ask(self, command: Message) -> Message:
        async with self._turn:
            self.raise_if_ended()
            if self._worker is None or self._reading is None:
                raise TrainError(f"the trainer of {self.slot} was not started")
            answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            self._answer = answer
            try:
                await self._worker.send_line(command.model_dump_json())
                either: set[asyncio.Future[Any]] = {answer, self._reading}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._answer = None
                self._unheard += not answer.done()
            if not answer.done():
                self.raise_if_ended()
                raise TrainError(f"the trainer of {self.slot} ended without an answer")
            return answer.result()

    async def _read(self, worker: Worker) -> None:
        try:
            async for line in worker.lines():
                event = parse_crew_event(line)
                if isinstance(event, Failed):
                    raise error_of(event)
                if isinstance(event, Stopped):
                    return
                await self._take(event)
        finally:
            self.came()

    async def _take(self, event: Message) -> None:
        if isinstance(event, StepEvent):
            self._measure(event)
            self.note(**event.model_dump(include=_STEP_FIELDS))
        elif isinstance(event, Started):
            self.note(**event.model_dump(include=_STARTED_FIELDS))
            self.say(f"training {self.slot} in its crew on {event.device} from step {event.steps}")
            await self._files.aclose()
            self._began.set()
        elif isinstance(event, Shrunk):
            self.note(micro_batch_clips=event.micro_batch_clips, recomputes=event.recomputes)
            self.say(f"{event.why}: {self.slot} goes on with {self.status.at_once()}")
        elif self._unheard:
            self._unheard -= 1
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(event)

    def _measure(self, event: StepEvent) -> None:
        """Notes how long a step takes, from the clips of one and how many go through in a second."""
        batch_clips = self.status.batch_clips
        if event.clips_per_s > 0 and batch_clips:
            self.step_s = batch_clips / event.clips_per_s


def _of(answer: Message, kind: type[M]) -> M:
    if not isinstance(answer, kind):
        raise TrainError(
            f"the trainer answered with {type(answer).__name__}, not {kind.__name__}; this is a bug in it"
        )
    return answer
