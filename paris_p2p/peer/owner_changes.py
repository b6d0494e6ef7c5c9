"""What the owner's notices, and dates, ask of one leadership, carried out as rules/lead_move.py decides.

New clips are fetched beside the training: the trainer starts again with them at the next checkpoint once they
are here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from paris_p2p.errors import ParisError
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.notifier import Notifier, StopRequest
from paris_p2p.peer.outbox import Outbox
from paris_p2p.rules.lead_move import Footing, LeadMove, lead_move
from paris_p2p.rules.standing import standing
from paris_p2p.training.messages import TrainJob

LOOK_S = 1.0  # dates pass without news
_AGAIN_S = 5.0  # after clips that could not be had

# Fetches the slot's clips, which can be read until the stack is closed, and returns the job of training them.
MakeJob = Callable[[AsyncExitStack], Coroutine[Any, Any, TrainJob]]


class OwnerChanges:
    """Watches one leadership's run. `due` is set once there is a newer job than the one that is trained: the
    trainer stops with its next checkpoint, and `next_job` says what it goes on with.
    """

    def __init__(
        self,
        node: RunNode,
        outbox: Outbox,
        news: Notifier,
        stop: StopRequest,
        make_job: MakeJob,
        say: Callable[[str], None],
    ):
        self.node, self.outbox, self.news, self.stop, self.say = node, outbox, news, stop, say
        self.make_job = make_job
        self.due = asyncio.Event()
        self._files = AsyncExitStack()  # the clips that are trained
        self._ready: tuple[TrainJob, AsyncExitStack] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._alike: tuple[int, int] | None = None  # two numbers of notices by which one trains alike
        self._trained: int | None = None  # the notices that what is trained knows; None before there is any

    async def watch(self) -> None:
        """Acts on what the owner says, and on dates that pass, until cancelled."""
        while True:
            move = self.move()
            if move.action == "abandon":
                self.outbox.give_up(move.why)
                self.stop.make(move.why)
            elif move.action == "end":
                self.stop.make(move.why)
            elif move.action == "renew" and not self._is_fetching():
                self.say(move.why)
                self._fetching = asyncio.create_task(self._fetch())
            await self.news.wait(LOOK_S)

    def move(self) -> LeadMove:
        """Returns what the rules say of this leadership now."""
        node, state, mine = self.node, self.node.state, self.outbox.state
        trained = state.number if self._trained is None else self._trained
        number = trained if self._ready is None else self._ready[0].notices
        compared = (state.number, number)
        footing = Footing(
            slot=self.outbox.slot,
            epoch=self.outbox.claim.holding.epoch,
            notices=state.number if compared == self._alike else number,
            places=mine.places,
        )
        move = lead_move(state, footing, standing(state, node.peer_id, node.chain.fork))
        if move.action == "go on":
            self._alike = compared
        return move

    async def first_job(self) -> TrainJob:
        """Returns the job to begin with."""
        job = await self.make_job(self._files)
        self._trained = job.notices
        return job

    async def next_job(self) -> TrainJob:
        """Returns the newest job, once there is one; the files of the one before may go."""
        while self._ready is None:
            await self.news.wait(LOOK_S)
        before, (job, self._files) = self._files, self._ready
        self._ready, self._trained = None, job.notices
        self.due.clear()
        await before.aclose()
        return job

    async def close(self) -> None:
        """Lets go of all files."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self._let_go_of_ready()
        await self._files.aclose()

    def _is_fetching(self) -> bool:
        """Tells whether a newer job is on its way; raises what ended that and was not expected."""
        if self._fetching is None or not self._fetching.done():
            return self._fetching is not None
        fetched, self._fetching = self._fetching, None
        fetched.result()
        return False

    async def _fetch(self) -> None:
        """Gets a newer job ready, in place of one that was ready and is overtaken."""
        await self._let_go_of_ready()
        async with AsyncExitStack() as files:
            try:
                job = await self.make_job(files)
            except ParisError as error:  # training goes on as it was
                self.say(f"could not fetch what the owner added to {self.outbox.slot} yet: {error}")
                await asyncio.sleep(_AGAIN_S)
                return
            self._ready = job, files.pop_all()
        self.due.set()
        self.news.notify()

    async def _let_go_of_ready(self) -> None:
        if self._ready is not None:
            _, files = self._ready
            self._ready = None
            await files.aclose()
