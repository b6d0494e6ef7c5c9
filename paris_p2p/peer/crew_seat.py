"""One machine's seat in a crew, as lead or worker: its trainer, the card whose state that has, its updates.

A member makes one update of each base: what it learns until the next one goes into the next update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from paris_p2p.crew_records import CrewSpec, UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import MemoryLimitError, RecordError, SwarmError, TrainError
from paris_p2p.node.own_updates import sign_update, tell_update
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.crew_files import card_refs, opened_basis, opened_rounds, read_rounds
from paris_p2p.peer.crew_process import CrewProcess
from paris_p2p.peer.owner_changes import MakeJob
from paris_p2p.peer.trainer_process import MakeWorker
from paris_p2p.peer.uplink import Uplink
from paris_p2p.records import CardRecord
from paris_p2p.rules.crew_steps import Fate, fate_of, rounds_after
from paris_p2p.rules.lead_move import trains_alike
from paris_p2p.rules.rates import lowered_after
from paris_p2p.rules.round_checks import OpenedRound, lineage_after
from paris_p2p.rules.rounds import (
    REASONS_FOR_UPDATES,
    round_length_s,
)
from paris_p2p.rules.tips import Tip
from paris_p2p.rules.trainer_life import MAX_TRAINER_DEATHS
from paris_p2p.rules.update_sizes import expected_bytes, step_for_line
from paris_p2p.training.counted_note import read_counted
from paris_p2p.training.crew_messages import Adopt, Basis, CrewJob
from paris_p2p.training.needs import parameter_count


class CrewSeat:
    """A seat over its member's life; a worker that becomes the lead takes it along."""

    def __init__(
        self, node: RunNode, slot: str, make_worker: MakeWorker, uplink: Uplink, say: Callable[[str], None]
    ):
        self.node, self.slot, self.uplink, self.say = node, slot, uplink, say
        self.make_worker = make_worker
        self.came: Callable[[], None] = lambda: None  # called when the trainer has ended
        self.files = AsyncExitStack()  # the clips that are trained
        self.process: CrewProcess | None = None
        self.base: Envelope[CardRecord] | None = None
        self.rounds: tuple[OpenedRound, ...] = ()  # of the base
        self.base_since_s = 0.0  # monotonic
        self.own: tuple[Envelope[UpdateRecord], ...] = ()  # this machine's updates of the base
        self.untold: Envelope[UpdateRecord] | None = None
        self.refusals: dict[str, int] = {}  # code of rules/rounds.py -> own updates that were refused
        self._deaths, self._died_on = 0, ""  # of its trainers, on one base
        self._updated = ""  # the base of which an update was made
        self._counted: Mapping[str, int] = {}  # as the base's resume state says
        self._purpose = f"crew/{slot}"

    @property
    def crew(self) -> CrewSpec:
        """Returns the run's numbers for crews; RecordError where it has none."""
        crew = self.node.spec.crew
        if crew is None:
            raise RecordError(f"the run of {self.slot} has no crews")
        return crew

    @property
    def trainer(self) -> CrewProcess:
        """Returns the trainer, which was started."""
        if self.process is None:
            raise RuntimeError(f"no trainer of {self.slot} was started")
        return self.process

    @property
    def card(self) -> Envelope[CardRecord]:
        """Returns the card whose state the trainer has."""
        if self.base is None:
            raise RuntimeError(f"{self.slot} has no base yet")
        return self.base

    @property
    def lineage(self) -> tuple[str, ...]:
        """Returns the cards that an update may start from which is merged next, the newest first."""
        return lineage_after(self.card.id, self.rounds[-1].made if self.rounds else None)

    @property
    def counts(self) -> Mapping[str, int]:
        """Returns up to where each peer's stream was merged before the base; of one lead's own checkpoint its
        resume state says it.
        """
        if not self.rounds:
            return self._counted
        return {one.peer: one.next for one in self.rounds[-1].made.counted}

    @property
    def updated(self) -> bool:
        """Tells whether an update was made of this base."""
        return self.base is not None and self._updated == self.base.id

    @property
    def round_s(self) -> float:
        """Returns how long this round takes; the lead's card says it, once it leads rounds."""
        said_s = self.card.record.round_s
        return said_s or round_length_s([self.trainer.step_s], [], self.crew, self.node.spec.timing)

    def outdated(self, tip: Tip) -> bool:
        """Tells whether the trainer's job is not what the run and the tip ask for now."""
        job, state = self.trainer.job, self.node.state
        if job is None:
            return True
        alike = trains_alike(state.spec_at(job.notices), state.spec, self.slot)
        return not alike or job.lowered != lowered_after(tip.card.record.lowered)

    async def begin(self, tip: Tip, make_job: MakeJob, **own: Any) -> None:
        """Starts a trainer from the tip's state; returns when it trains. `make_job` fetches the slot's clips,
        `own` are the fields of a CrewJob that say what this machine goes on with.
        """
        await self.end()
        node, card = self.node, tip.card
        job = await make_job(self.files)
        self.rounds = await read_rounds(node, card)
        node.hold(self._purpose, {ref.id for ref in card_refs(card.record, self.rounds)})
        self.base = card
        process = self.process = CrewProcess(self.slot, self.make_worker, self.say, lambda: self.came())
        async with AsyncExitStack() as stack:
            files = AsyncExitStack()
            stack.push_async_exit(files)
            basis = await files.enter_async_context(opened_basis(node, card, self.rounds, "crew"))
            self._read_counted(basis)
            crew_job = CrewJob(
                **dict(job)
                | {
                    "resume_path": None,
                    "resume_steps": basis.steps,
                    "resume_clips": basis.clips,
                    "lowered": lowered_after(card.record.lowered),
                    "crew": self.crew,
                    "basis": basis,
                    "peer": node.peer_id,
                    "first_clip": self._first_clip(),
                }
                | own,
            )
            await process.start(crew_job, files)
        self._stands_on(card)

    async def follow(self, tip: Tip) -> None:
        """Has training go on from the tip's state, with the rounds alone where the trainer has the one before
        them; tells the person when this machine's update was refused.
        """
        node, card, before = self.node, tip.card, self.card
        rounds = await read_rounds(node, card)
        place = rounds_after([one.made for one in rounds], before.id)
        new = rounds if place is None else rounds[place:]
        fate = self._fate(card, rounds, new)
        if place is None:
            async with opened_basis(node, card, rounds, "crew") as basis:
                self._read_counted(basis)
                await self.trainer.adopt(Adopt(card=card.id, basis=basis, own=fate))
        else:
            async with opened_rounds(node, card.id, new, "crew/updates") as files:
                await self.trainer.adopt(Adopt(card=card.id, from_card=before.id, rounds=files, own=fate))
        self.rounds = rounds
        node.hold(self._purpose, {ref.id for ref in card_refs(card.record, rounds)})
        self._stands_on(card)

    async def again(self) -> None:
        """Gives up what was learned since the base: an update that could not be merged is of no use."""
        base = self.card
        await self.trainer.adopt(Adopt(card=base.id, from_card=base.id, own="lost"))
        self.own, self._updated = (), ""
        self._stands_on(base)

    async def make_update(self) -> None:
        """Makes an update of what was learned since the base, and tells the others of it."""
        node, base = self.node, self.card
        parameters = parameter_count(node.spec, self.slot)
        step = step_for_line(self.crew, self.round_s, self.uplink.bytes_per_s, parameters)
        ready = await self.trainer.update(step, base.record.seq % self.crew.parts)
        self._updated = base.id
        if ready is None:
            return
        job = self.trainer.job
        own = await sign_update(
            node,
            self.slot,
            ready.path,
            base=base.id,
            steps=ready.steps,
            clips=ready.clips,
            first_clip=ready.first_clip,
            train_loss=ready.train_loss,
            notices=job.notices if job else 0,
        )
        node.ledger.put(f"own-clips/{self.slot}", str(ready.first_clip + ready.clips).encode())
        node.keep(own)
        self.own, self.untold = (*self.own, own), own
        await self.tell()

    async def tell(self) -> None:
        """Tells the others of the newest update, where they were not told yet; it may be told later."""
        if self.untold is None:
            return
        try:
            await tell_update(self.node, self.untold)
        except SwarmError as error:
            self.say(f"could not tell of an update of {self.slot} yet: {error}; training goes on")
        else:
            self.untold = None

    def update_bytes(self) -> float:
        """Returns about how large an update of this slot's network is, at the run's own step."""
        return expected_bytes(self.crew, parameter_count(self.node.spec, self.slot), self.crew.step)

    async def end(self) -> None:
        """Ends the trainer, where there is one."""
        if self.process is not None:
            await self.process.kill()
            self.process = None
        await self.files.aclose()

    async def close(self) -> None:
        await self.end()
        self.node.let_go(self._purpose)

    def died(self, error: TrainError) -> None:
        """Notes that the trainer died, to be started again from the tip. Raises what ended it when that is of
        no use: too often on one base, or for want of memory.
        """
        base = self.base.id if self.base is not None else ""
        self._deaths = self._deaths + 1 if base == self._died_on else 1
        self._died_on = base
        self.node.tallies = self.node.tallies.trainer_died()
        if isinstance(error, MemoryLimitError) or self._deaths >= MAX_TRAINER_DEATHS:
            raise error
        self.say(f"{error}; it is started again from the tip")

    def _stands_on(self, card: Envelope[CardRecord]) -> None:
        self.base, self.base_since_s = card, time.monotonic()

    def _read_counted(self, basis: Basis) -> None:
        alone = not (basis.rounds or basis.merged_start)
        self._counted = read_counted(basis.resume_path) if alone else {}

    def _first_clip(self) -> int:
        """Returns where this machine's stream of clips goes on: after all that was merged or told."""
        told = self.node.ledger.get(f"own-clips/{self.slot}") or b"0"
        return max(
            self.counts.get(self.node.peer_id, 0), int(told) if told.isdigit() and len(told) < 19 else 0
        )

    def _fate(
        self, card: Envelope[CardRecord], rounds: Sequence[OpenedRound], new: Sequence[OpenedRound]
    ) -> Fate:
        """Returns what became of this machine's newest update, and tells of those that were refused."""
        merged = {one.id for each in new for one in each.updates}
        refused = {one.update: one.reason for each in new for one in each.made.refused}
        lineage = lineage_after(card.id, rounds[-1].made if rounds else None)
        newest: Fate = "merged"
        for own in self.own:
            newest, code = fate_of(own.id, own.record.base, merged, refused, lineage)
            if code and rounds:  # a lead that trains on alone merges nothing, and refuses nothing
                self._tell_refused(own.record.steps, code)
        self.own = ()
        return newest

    def _tell_refused(self, steps: int, code: str) -> None:
        self.refusals[code] = self.refusals.get(code, 0) + 1
        words = REASONS_FOR_UPDATES.get(code, code)
        self.say(
            f"an update of {self.slot} ({steps:,} steps) was not merged: {words}; "
            "training goes on from the tip"
        )
