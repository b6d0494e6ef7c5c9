"""Trains one slot of a run, as a process that trainer.py starts; read `train` first.

    weights, moments, average = the resume state, else the parent's or the run's first weights, else fresh
    for step from the resumed one to the last, or until asked to stop:
        batch = clips, noise, times and dropout, all functions of (run, slot, clip counter)
                and, where notices changed the clips, of the counters at which this lineage met the changes
        loss = mean |network(x_t, t, text) - (eps - x_0)|^2, or the router's cross-entropy
        weights, moments = AdamW or Muon(weights, moments, gradients of the loss)
        average = average + (1 - decay) (weights - average)
        at each interval: a checkpoint = resume state and average, a router's with its calibration

Nothing depends on when or how often it was stopped: resuming equals not stopping. In a run with compact
checkpoints the trainer goes on from what each of them holds, so that this is true of the same checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from paris_p2p.data.batches import BatchSource, Draws, open_batches
from paris_p2p.device import Device, compile_blocks, resident_bytes
from paris_p2p.errors import CheckpointError, MemoryLimitError
from paris_p2p.model.checkpoint import resume_note
from paris_p2p.spec import RunSpec
from paris_p2p.training.calibrating import calibrate_with
from paris_p2p.training.counted_note import COUNTED, counted_note, parse_counted
from paris_p2p.training.job_device import open_device
from paris_p2p.training.learner import Learner
from paris_p2p.training.memory import choose_micro_batch
from paris_p2p.training.messages import CheckpointReady, Command, Event, TrainJob
from paris_p2p.training.objective import batch_clips, open_clips, read_spec
from paris_p2p.training.segments import begin_segments, order_of, segments_note
from paris_p2p.training.step_reports import RunningMean, StepReports


def train(job: TrainJob, emit: Callable[[Event], None], next_command: Callable[[], Command | None]) -> str:
    """Trains until asked to stop or the last step of job or run; returns why it ended.

    A last checkpoint is written first. TrainError (DivergedError, DeviceError, MemoryLimitError), DataError,
    CheckpointError, StoreError.
    """
    spec = read_spec(job)
    with open_device(job) as device:
        return _train_on(device, spec, job, emit, next_command)


def _train_on(
    device: Device,
    spec: RunSpec,
    job: TrainJob,
    emit: Callable[[Event], None],
    next_command: Callable[[], Command | None],
) -> str:
    clips = open_clips(job, spec)
    learner = Learner(job.run, spec, job.slot, device, job.lowered)
    calibrate_with(learner, job)
    _begin(learner, job)
    if job.compile and device.compiles:
        compile_blocks(learner.network)
    draws, size = Draws.of(job.run, job.slot), batch_clips(spec, job.slot)
    segments = begin_segments(job, size)
    learner.notes = segments_note(segments, job.spans) | _counted_before(job)
    order = order_of(draws, job.spans, segments, len(clips))
    with open_batches(
        clips, draws, size, learner.clips, lambda batch: batch.to(device.torch), order
    ) as source:
        first = source.peek()
        learner.micro_batch_clips = choose_micro_batch(
            learner, first, job.micro_batch_clips, job.max_memory_bytes
        )
        emit(learner.started())
        learner.on_shrink = emit
        return _Session(job, spec, learner, source, emit).run(next_command)


def _begin(learner: Learner, job: TrainJob) -> None:
    """Begins from the job's resume state, else from the expert it was split from, else from the run's first
    weights, else as initialised.

    CheckpointError.
    """
    if job.resume_path is not None:
        learner.restore(job.resume_path, job.resume_steps, job.resume_clips, job.resume_experts)
    elif job.parent_path is not None:
        learner.start_as_child(job.parent_path)
    elif learner.spec.initial_for(job.slot) is not None:
        if job.initial_path is None:
            raise CheckpointError(
                f"the run says what weights {job.slot} starts from, and the job names no file of them; "
                "fetch them first"
            )
        learner.start_from(job.initial_path)


def _counted_before(job: TrainJob) -> dict[str, str]:
    """Returns what the job's resume state says of a crew that the slot had before; CheckpointError."""
    if job.resume_path is None:
        return {}
    return counted_note(parse_counted(resume_note(job.resume_path, COUNTED), job.resume_path.name))


class _Session:
    """Runs from the first step to the last: events, commands, checkpoints, limits."""

    def __init__(
        self,
        job: TrainJob,
        spec: RunSpec,
        learner: Learner,
        source: BatchSource,
        emit: Callable[[Event], None],
    ):
        self.job, self.learner, self.source, self.emit = job, learner, source, emit
        self._last_step = min((n for n in (job.max_steps, spec.training.total_steps) if n), default=0)
        self._reports, self._checkpoint_loss = StepReports(learner, source, emit), RunningMean()
        self._checkpoint_at = time.monotonic()
        self._saved_steps = learner.steps

    def run(self, next_command: Callable[[], Command | None]) -> str:
        learner = self.learner
        while not (self._last_step and learner.steps >= self._last_step):
            batch = self.source.next()
            loss = learner.step(batch)
            self._reports.add(loss, len(batch))
            self._checkpoint_loss.add(loss)
            command = next_command()
            if command is not None and command.command == "stop":
                self._checkpoint()
                return "asked to stop"
            due = self.job.checkpoint_s and time.monotonic() - self._checkpoint_at >= self.job.checkpoint_s
            if due or command is not None:
                self._checkpoint()
            elif self._reports.is_due:
                self._reports.report()
            self._keep_memory_limit()
        self._checkpoint()
        return f"reached step {self._last_step}, the last one"

    def _checkpoint(self) -> None:
        """Writes a checkpoint, unless nothing was learned since the last."""
        self._reports.report()
        learner = self.learner
        self._checkpoint_at = time.monotonic()
        if learner.steps == self._saved_steps:
            return
        weights, resume = learner.write_checkpoint(self.job.out_dir)
        self._saved_steps = learner.steps
        self.emit(
            CheckpointReady(
                weights_path=weights,
                resume_path=resume,
                steps=learner.steps,
                clips=learner.clips,
                train_loss=self._checkpoint_loss.take(),
            )
        )

    def _keep_memory_limit(self) -> None:
        """Shrinks the micro-batches on a CPU once the limit is passed.

        When that is no help, it writes a checkpoint and raises MemoryLimitError.
        """
        limit = self.job.max_memory_bytes
        if self.learner.device.cuda or not limit or resident_bytes() <= limit:
            return
        try:
            self.learner.shrink(
                f"the trainer uses {resident_bytes() >> 20} MiB, {limit >> 20} MiB are allowed"
            )
        except MemoryLimitError as error:
            self._checkpoint()
            used = resident_bytes()
            raise MemoryLimitError(
                f"the trainer uses {used >> 20} MiB, {limit >> 20} MiB are allowed; "
                "it stopped with a checkpoint; raise the limit"
            ) from error
