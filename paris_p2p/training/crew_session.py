"""Trains one slot of a run as a member of its crew, as a process that trainer.py starts; read `run` first.

    base = the state of the tip, from a full card's files and the rounds since
    weights = base; moments = 0, or a lead's own from when it trained alone
    until asked to stop:
        a step of AdamW on clips of this machine's own stream
        between two steps, what the node asks for:
            update  write what was learned since the base, compressed; training goes on
            merge   (a lead) check candidates, merge the good ones into a copy of the base
            adopt   go on from another card's state: everybody computes it, and compares its hash
            solo    (a lead) write a checkpoint of this machine alone, and end

Training waits for nothing: an update is uploaded, and a round merged, while steps go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from paris_p2p.data.batches import BatchSource, ClipOrder, open_batches
from paris_p2p.device import Device, compile_blocks, resident_bytes
from paris_p2p.errors import DivergedError
from paris_p2p.rules.rounds import MAX_STEPS_OF_MEDIAN
from paris_p2p.spec import RunSpec
from paris_p2p.training.calibrating import calibrate_with
from paris_p2p.training.counted_note import counted_note
from paris_p2p.training.crew_learner import CrewLearner
from paris_p2p.training.crew_merging import Merger
from paris_p2p.training.crew_messages import (
    Adopt,
    Adopted,
    CrewCommand,
    CrewEvent,
    CrewJob,
    GoSolo,
    MakeUpdate,
    Merge,
    NothingLearned,
    UpdateReady,
)
from paris_p2p.training.job_device import open_device
from paris_p2p.training.learner import Learner
from paris_p2p.training.memory import choose_micro_batch
from paris_p2p.training.messages import CheckpointReady, Event
from paris_p2p.training.needs import CREW_LATER_BYTES
from paris_p2p.training.objective import open_clips, open_gate_clips, read_spec
from paris_p2p.training.probing import peer_draws
from paris_p2p.training.round_merge import CrewSlot
from paris_p2p.training.segments import Segment, segments_note
from paris_p2p.training.step_reports import RunningMean, StepReports
from paris_p2p.training.update_trials import Trials
from paris_p2p.updates.known_merge import check_known_merge

Emit = Callable[[Event | CrewEvent], None]


class Commands(Protocol):
    """Gives what the node asks for, in its order."""

    def pending(self) -> CrewCommand | None:
        """Returns the next command that came, if one did."""

    def wait(self) -> CrewCommand:
        """Returns the next command once it comes."""


def train_in_crew(job: CrewJob, emit: Emit, commands: Commands) -> str:
    """Trains until asked to stop, or until the crew reached the last step of job or run; returns why.

    TrainError (DivergedError, DeviceError, MemoryLimitError), InexactError where this machine computes
    otherwise than others, DataError, CheckpointError, UpdateFormatError, StoreError.
    """
    spec = read_spec(job)
    check_known_merge()
    with open_device(job) as device:
        return _train_on(device, spec, job, emit, commands)


def _train_on(device: Device, spec: RunSpec, job: CrewJob, emit: Emit, commands: Commands) -> str:
    clips = open_clips(job, spec)
    probes = open_gate_clips(job, spec) if job.gate_shard_paths else clips
    learner = Learner(job.run, spec, job.slot, device, job.lowered)
    calibrator = calibrate_with(learner, job)
    crew = CrewLearner(learner, CrewSlot.of(job.run, job.slot, spec, job.crew), job)
    if job.compile and device.compiles:
        compile_blocks(learner.network)
    draws, size = peer_draws(job.run, job.slot, job.peer), crew.crew_slot.batch_clips
    first_clip = max(job.first_clip, crew.progress.unsent.span[1])
    with open_batches(
        clips, draws, size, first_clip, lambda batch: batch.to(device.torch), ClipOrder(draws, len(clips))
    ) as source:
        later_bytes = CREW_LATER_BYTES * crew.crew_slot.parameters
        limit_bytes = max(1, job.max_memory_bytes - later_bytes) if job.max_memory_bytes else 0
        learner.micro_batch_clips = choose_micro_batch(
            learner, source.peek(), job.micro_batch_clips, limit_bytes
        )
        emit(learner.started())
        learner.on_shrink = emit
        merger = Merger(crew, Trials(crew, clips, probes, job.notices), job, calibrator)
        return _CrewSession(job, crew, merger, source).run(emit, commands)


class _CrewSession:
    """Runs from the first step to the last: steps, commands, events."""

    def __init__(self, job: CrewJob, crew: CrewLearner, merger: Merger, source: BatchSource):
        self.job, self.crew, self.merger, self.source = job, crew, merger, source
        total_steps = crew.crew_slot.spec.training.total_steps
        self._last_step = min((n for n in (job.max_steps, total_steps) if n), default=0)
        self._step_s = RunningMean()
        self._diverged_on = ""  # the card from which training diverged

    def run(self, emit: Emit, commands: Commands) -> str:
        """Trains and obeys; returns why it ended."""
        reports = StepReports(self.crew.learner, self.source, emit)
        while not self._reached(self.crew.base.steps):
            command: CrewCommand | None
            if self._reached(self.crew.learner.steps) or self._is_far():
                reports.report()
                command = commands.wait()
            else:
                self._step(reports)
                command = commands.pending()
            while command is not None:
                reports.report()
                if (reason := self._obey(command, emit)) is not None:
                    return reason
                command = commands.pending()
            if reports.is_due:
                reports.report()
            self._keep_memory_limit()
        return f"reached step {self._last_step}, the last one"

    def _reached(self, steps: int) -> bool:
        return bool(self._last_step) and steps >= self._last_step

    def _is_far(self) -> bool:
        """Tells whether this machine is as many steps ahead of its base as an update may count: with a small
        network and a long round it rests until the round is over.
        """
        return self.crew.progress.ahead.steps >= MAX_STEPS_OF_MEDIAN * self.job.crew.most_steps

    def _step(self, reports: StepReports) -> None:
        """Takes one step; where it diverges, goes back to the base, once for each base."""
        started_s = time.monotonic()
        batch = self.source.next()
        try:
            reports.add(self.crew.step(batch), len(batch))
        except DivergedError as error:
            self._start_again(error)
        self._step_s.add(time.monotonic() - started_s)

    def _start_again(self, error: DivergedError) -> None:
        """Goes back to the base; raises the error where it is the second from this base."""
        if self._diverged_on == self.crew.card:
            raise error
        self._diverged_on = self.crew.card
        self.crew.restart()

    def _obey(self, command: CrewCommand, emit: Emit) -> str | None:
        """Does what the node asks for; returns why training ends, where it does."""
        if isinstance(command, MakeUpdate):
            emit(self._update(command))
        elif isinstance(command, Adopt):
            self.crew.adopt(command, self.merger.take(command))
            emit(self._adopted())
        elif isinstance(command, Merge):
            emit(self.merger.merge(command))
        elif isinstance(command, GoSolo):
            emit(self._checkpoint(command))
            return "asked to train alone"
        else:
            return "asked to stop"
        return None

    def _update(self, command: MakeUpdate) -> UpdateReady | NothingLearned:
        try:
            sent = self.crew.publish(command.step, command.part, self.job.out_dir)
        except DivergedError as error:
            self._start_again(error)
            return NothingLearned()
        if sent is None:
            return NothingLearned()
        return UpdateReady(
            path=sent.path,
            base=self.crew.card,
            steps=sent.work.steps,
            clips=sent.work.clips,
            first_clip=sent.work.first_clip,
            train_loss=sent.work.mean_loss,
            step=command.step,
        )

    def _adopted(self) -> Adopted:
        base = self.crew.base
        return Adopted(card=self.crew.card, steps=base.steps, clips=base.clips, step_s=self._step_s.take())

    def _checkpoint(self, command: GoSolo) -> CheckpointReady:
        """Writes the checkpoint of this machine alone, whose clips are those that the job's notices leave."""
        while not self.crew.progress.ahead.steps:
            self.crew.step(self.source.next())
        job, learner, ahead = self.job, self.crew.learner, self.crew.progress.ahead
        notes = segments_note((Segment(0, job.notices, len(self.merger.trials.clips)),), job.spans)
        weights, resume = self.crew.write_alone(job.out_dir, notes | counted_note(command.counted))
        return CheckpointReady(
            weights_path=weights,
            resume_path=resume,
            steps=learner.steps,
            clips=learner.clips,
            train_loss=ahead.mean_loss,
        )

    def _keep_memory_limit(self) -> None:
        """Shrinks micro-batches on a CPU beyond its memory limit; MemoryLimitError when that is no help."""
        limit, learner = self.job.max_memory_bytes, self.crew.learner
        if not learner.device.cuda and limit and resident_bytes() > limit:
            learner.shrink(f"the trainer uses {resident_bytes() >> 20} MiB, {limit >> 20} MiB are allowed")
