"""A lead goes from training alone to rounds with its crew, and back (rules/crew_steps.py, peer/crew_lead.py).

Into rounds it goes with its newest checkpoint, which no card names: what it learned since the tip counts into
its first update. Back it goes with a checkpoint of its own machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from paris_p2p.errors import TrainError
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.beginning import expected_card
from paris_p2p.peer.crew_lead import CrewLead, RoundNotes
from paris_p2p.peer.crew_seat import CrewSeat
from paris_p2p.peer.notifier import Notifier, StopRequest
from paris_p2p.peer.outbox import Outbox
from paris_p2p.peer.owner_changes import OwnerChanges
from paris_p2p.peer.setback import Setback
from paris_p2p.peer.trainer_process import TrainerProcess
from paris_p2p.rules.crew_steps import enters_rounds
from paris_p2p.rules.rounds import light_way_pays
from paris_p2p.rules.tips import Tip
from paris_p2p.training.messages import TrainJob

_LOOK_S = 1.0  # workers' records run out without news


class LeadRounds:
    """The rounds of one leadership. `due` is set once its trainer, which trains alone, is to go over to them
    with its next checkpoint.
    """

    def __init__(
        self,
        node: RunNode,
        outbox: Outbox,
        setback: Setback,
        changes: OwnerChanges,
        seat: CrewSeat,
        news: Notifier,
        stop: StopRequest,
        work_dir: Path,
        say: Callable[[str], None],
    ):
        self.node, self.outbox, self.setback, self.changes, self.seat = node, outbox, setback, changes, seat
        self.news, self.stop, self.work_dir, self.say = news, stop, work_dir, say
        self.slot = outbox.slot
        self.due = asyncio.Event()
        self.entered = False
        self.entering = False  # its newest checkpoint is about to be read, and does not go out
        self.lead = CrewLead(node, outbox, setback, seat, news, stop, work_dir, RoundNotes(), say)
        self._from_alone = False  # its own trainer's newest checkpoint is what it goes on from
        seat.came = news.notify

    def begin(self, tip: Tip | None) -> bool:
        """Returns whether a leadership that starts from the tip starts in rounds: the tip is a crew's, or the
        own card that is out in its place.
        """
        own = expected_card(self.node, self.slot)
        newest = own.card if own is not None else tip.card if tip is not None else None
        has_state = newest is not None and bool(newest.record.merged)
        self.entered = self.node.spec.crew is not None and (has_state or self.seat.process is not None)
        return self.entered

    def enter(self) -> None:
        """Notes that the trainer that trained alone has ended with a checkpoint, for rounds to begin."""
        self.due.clear()
        self.entered, self._from_alone, self.entering = True, True, True

    async def watch(self, trainer: TrainerProcess) -> None:
        """Asks the trainer that trains alone for its last checkpoint once rounds are due, until cancelled."""
        attested = self.outbox.state.attested
        while True:
            if not self.entered:
                worth, now = self.lead.notes.worth, self.outbox.state.attested
                for _ in range(now - attested):
                    worth = worth.round_over()
                attested, self.lead.notes.worth = now, worth
                if not self.due.is_set() and trainer.trains and self._is_due():
                    self.due.set()
                    self.entering = True
                    await trainer.ask_for_checkpoint(at_once=True)
            await self.news.wait(_LOOK_S)

    def _is_due(self) -> bool:
        tip, state = self.node.board.tip(self.slot), self.outbox.state
        if self.node.spec.crew is None or tip is None or state.going_back or not state.descends(tip):
            return False
        return enters_rounds(
            workers=len(self.lead.colleagues),
            tip_merged=False,
            light_pays=light_way_pays(self.lead.full_upload_s, self.node.spec.timing),
            kept_alone=self.lead.notes.worth.alone_left > 0,
            stuck=self.lead.notes.worth.stuck,
        )

    async def run(self, job: TrainJob) -> TrainJob | None:
        """Trains in rounds; returns the job that comes after them, None when this leadership is over."""
        try:
            if self.seat.process is None and not await self._begin(job):
                return None
            end = await self.lead.run(self.changes.due.is_set)
        except TrainError as error:
            self.seat.died(error)
            await self.seat.end()
            self._from_alone = False
            return None if self.stop.made else job
        return await self._after(end, job)

    async def _begin(self, job: TrainJob) -> bool:
        """Starts the trainer from the tip; returns False when this leadership was asked to end meanwhile."""
        await self._settled()
        tip = self.node.board.tip(self.slot)
        if tip is None or self.stop.made:
            self.entering = False
            return False
        own: dict[str, Any] = {"alone": not self.lead.colleagues}
        async with AsyncExitStack() as files:
            if self._from_alone:
                started = await files.enter_async_context(self.outbox.opened(self.outbox.resumed(job)))
                if started.resume_path is not None and started.resume_steps >= tip.card.record.steps:
                    own |= {
                        "own_resume_path": started.resume_path,
                        "own_resume_steps": started.resume_steps,
                        "own_resume_clips": started.resume_clips,
                    }

            async def make_job(_: AsyncExitStack) -> TrainJob:
                return job

            await self.seat.begin(tip, make_job, **own)
        self.outbox.drop()
        self.entering = self._from_alone = False
        self._say_who()
        return True

    def _say_who(self) -> None:
        workers = len(self.lead.colleagues)
        if workers:
            self.say(f"{self.slot} is trained in rounds now, with {workers} worker{'s' * (workers > 1)}")
            return
        self.say(
            f"{self.slot} is trained in rounds now, without workers: a full checkpoint takes "
            f"{self.lead.full_upload_s:.0f} s to send, so small updates go out between"
        )

    async def _settled(self) -> None:
        """Waits until the card that is out is the tip, for the patience of a card."""
        state = self.outbox.state
        ends_s = time.monotonic() + state.patience_s(self.node.spec.timing.checkpoint_s)
        while self.outbox.state.pending is not None and not self.stop.made and time.monotonic() < ends_s:
            self.outbox.look()
            if self.outbox.state.pending is not None:
                await self.news.wait(_LOOK_S)

    async def _after(self, end: str, job: TrainJob) -> TrainJob | None:
        if end == "renew":
            await self.seat.end()
            return await self.changes.next_job() if self.changes.due.is_set() else job
        if end == "solo":
            self.outbox.expect_nothing()
            self.say(f"{self.slot} is trained by this machine alone again")
            checkpoint = await self.seat.trainer.solo(dict(self.seat.counts))
            await self.seat.end()
            self.outbox.keep(checkpoint)
            self.entered, self.lead.notes.alone = False, 0
            return job
        if end == "back":
            after = await self.stop.unless_made(self.setback.next_job(job))
            if isinstance(after, str):
                self.stop.make(after)
            await self.seat.end()
            return after if isinstance(after, TrainJob) else None
        return None
