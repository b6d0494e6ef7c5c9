"""Runs the members of a crew in one process, each in a thread, step by step as a test asks: what nodes do."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from paris_p2p.crew_records import CrewSpec
from paris_p2p.errors import ParisError
from paris_p2p.identity import Identity
from paris_p2p.training.crew_messages import (
    Adopt,
    Adopted,
    Basis,
    CrewCommand,
    CrewEvent,
    CrewJob,
    MakeUpdate,
    Merge,
    MergedReady,
    NotMerged,
    Plain,
    RoundFiles,
    UpdateFile,
    UpdateReady,
)
from paris_p2p.training.crew_session import train_in_crew
from paris_p2p.training.messages import CheckpointReady, Event, Shrunk, Started, StepEvent, TrainJob
from paris_p2p.updates.compression import Precision, compress
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.outer_step import add_scaled
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader
from tests.made.tiny_run import TinyRun

CREW = CrewSpec(peers=8, least_steps=1, most_steps=100)
WAIT_S = 60.0  # against hanging


def peer_of(number: int) -> str:
    """Returns a peer's id, the same in every process."""
    return Identity.from_private_bytes(bytes([number + 1]) * 32).peer_id


def card_id(*words: object) -> str:
    return blake3(" ".join(map(str, words)).encode()).hexdigest()


def basis_of(ready: CheckpointReady, card: str) -> Basis:
    """Returns the basis of a card of one lead alone."""
    return Basis(
        card=card,
        weights_path=ready.weights_path,
        resume_path=ready.resume_path,
        start_steps=ready.steps,
        start_clips=ready.clips,
    )


def crew_job(tiny: TinyRun, number: int, basis: Basis, *, crew: CrewSpec = CREW, **changes: Any) -> CrewJob:
    """Returns the job of peer `number` of the slot expert-1."""
    plain = tiny.train_job(changes.pop("slot", "expert-1"), out=f"crew-{number}", max_steps=0)
    return crew_job_of(plain, number, basis, crew=crew, **changes)


def crew_job_of(
    plain: TrainJob, number: int, basis: Basis, *, crew: CrewSpec = CREW, **changes: Any
) -> CrewJob:
    """Returns a plain job's fellow in a crew."""
    fields = plain.model_dump()
    counters = {"resume_steps": basis.steps, "resume_clips": basis.clips}
    return CrewJob(**(fields | counters | {"crew": crew, "basis": basis, "peer": peer_of(number)} | changes))


class Member:
    """Is one member's trainer; it takes a step, or obeys a command, only when it is told to."""

    def __init__(self, job: CrewJob):
        self.job, self.reason = job, ""
        self.error: ParisError | None = None
        self.first: Started | None = None
        self._inbox: queue.SimpleQueue[CrewCommand | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Event | CrewEvent | None] = queue.SimpleQueue()
        self.steps: list[StepEvent] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Member:
        self._thread.start()
        return self

    def train(self, steps: int) -> None:
        """Lets it take some steps; the first it took by itself."""
        for _ in range(steps):
            self._inbox.put(None)

    def ask(self, command: CrewCommand) -> Any:
        """Returns its answer; raises what its training ended with."""
        self._inbox.put(command)
        while True:
            event = self._outbox.get(timeout=WAIT_S)
            if event is None:
                if self.error is not None:
                    raise self.error
                return None
            if isinstance(event, Started):
                self.first = event
            elif isinstance(event, StepEvent):
                self.steps.append(event)
            elif not isinstance(event, Shrunk):
                return event

    def end(self) -> str:
        """Stops it and returns why it ended."""
        self._inbox.put(Plain(command="stop"))
        self._thread.join(WAIT_S)
        return self.reason

    def pending(self) -> CrewCommand | None:
        return self._inbox.get(timeout=WAIT_S)

    def wait(self) -> CrewCommand:
        while (command := self._inbox.get(timeout=WAIT_S)) is None:
            pass
        return command

    def _run(self) -> None:
        try:
            self.reason = train_in_crew(self.job, self._outbox.put, self)
        except ParisError as error:
            self.error = error
        finally:
            self._outbox.put(None)


@dataclass
class MadeCrew:
    """Is the node of all members: it names cards, and hands files around. The first member leads."""

    members: list[Member]
    basis: Basis
    rounds: list[RoundFiles] = field(default_factory=list)

    @property
    def lead(self) -> Member:
        return self.members[0]

    def update_of(self, member: Member, step: float = 2.0, **more: Any) -> UpdateFile:
        """Asks a member for an update and returns it as the lead gets it."""
        ready = member.ask(MakeUpdate(step=step))
        assert isinstance(ready, UpdateReady), ready
        return update_file(ready, member.job.peer, **more)

    def merge(self, files: Sequence[UpdateFile], **more: Any) -> MergedReady | NotMerged:
        answer = self.lead.ask(Merge(parent=self.basis.card, candidates=tuple(files), **more))
        assert isinstance(answer, MergedReady | NotMerged), answer
        return answer

    def adopt(self, ready: MergedReady, **own: Any) -> str:
        """Lets all members adopt what was merged; returns the new card's id. `own`: what became of the
        update of the member with that number, as `member_1="lost"`.
        """
        before, card = self.basis.card, card_id("card", ready.round.merged)
        for number, member in enumerate(self.members):
            fate = own.get(f"member_{number}", "merged")
            command = Adopt(card=card, from_card=before, rounds=(ready.round,), own=fate)
            adopted = member.ask(command)
            assert isinstance(adopted, Adopted), adopted
            assert (adopted.card, adopted.steps, adopted.clips) == (
                card,
                ready.round.steps,
                ready.round.clips,
            )
        self.basis = after(self.basis, card, ready)
        return card

    def round(self, steps: int, **more: Any) -> MergedReady:
        """Trains all for some steps, merges and adopts."""
        for member in self.members:
            member.train(steps)
        files = [self.update_of(member) for member in self.members]
        ready = self.merge(files, **more)
        assert isinstance(ready, MergedReady), ready
        self.adopt(ready)
        return ready


def after(basis: Basis, card: str, ready: MergedReady) -> Basis:
    """Returns the basis of the card that publishes what was merged."""
    if ready.weights_path is None or ready.resume_path is None:
        return basis.model_copy(update={"card": card, "rounds": (*basis.rounds, ready.round)})
    return Basis(
        card=card,
        weights_path=ready.weights_path,
        resume_path=ready.resume_path,
        start_steps=ready.round.steps,
        start_clips=ready.round.clips,
        merged_start=ready.round.merged,
    )


def update_file(ready: UpdateReady, peer: str, **more: Any) -> UpdateFile:
    fields = ready.model_dump(include={"path", "steps", "clips", "first_clip", "train_loss"})
    name = card_id("update", peer, ready.base, ready.first_clip, ready.clips)
    return UpdateFile(**({"update": name, "signer": peer} | fields | more))


@contextmanager
def made_crew(tiny: TinyRun, members: int, basis: Basis, **changes: Any) -> Iterator[MadeCrew]:
    """Starts a crew of so many members on a basis; `changes` are of all their jobs."""
    with ExitStack() as stack:
        started = [Member(crew_job(tiny, number, basis, **changes)).start() for number in range(members)]
        for member in started:
            stack.callback(member.end)
        yield MadeCrew(started, basis)


def entries_of(path: Path, parameters: int) -> Vector:
    """Returns all entries [n] of an update's file; zeros where it holds none."""
    entries = np.zeros(parameters, np.float32)
    add_scaled(entries, Update.open(path, parameters), 1)
    return entries


def write_update(path: Path, entries: Vector, step: float = 2.0) -> Path:
    """Writes an update of these entries [n]."""
    with path.open("wb") as file:
        blank = np.zeros_like(entries)
        header, nothing = UpdateHeader(entries.size), np.zeros_like(entries)
        compress(blank, entries, nothing, header, Precision(step, 1.0), file)
    return path
