"""Training one slot: AdamW on counter-based batches, an average of the weights, and a schedule of the lineage's step alone.

Run as a process by trainer.py; read `train` first. Resuming equals not stopping.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paris_p2p.data.batches import Batch, BatchSource, Draws, batches
from paris_p2p.errors import CheckpointError, DivergedError, MemoryLimitError
from paris_p2p.spec import RunSpec
from paris_p2p.work.checkpoint import BETAS, Counters, TrainState, load_initial_into, load_resume, write_checkpoint
from paris_p2p.work.device import (
    Device,
    compile_blocks,
    compute_repeatably,
    limit_cuda_memory,
    pick_device,
    resident_bytes,
    return_memory,
    set_threads,
)
from paris_p2p.work.memory import choose_micro_batch
from paris_p2p.work.messages import CheckpointReady, Command, Event, Shrunk, Started, StepEvent, TrainJob
from paris_p2p.work.objective import batch_clips, build_network, open_clips, read_spec, train_losses
from paris_p2p.work.schedule import ema_decay, learning_rate

EPSILON = 1e-8
EVENT_S = 1.0  # at most one step event in this time
MAX_LOSS = 1e6


def train(job: TrainJob, emit: Callable[[Event], None], next_command: Callable[[], Command | None]) -> str:
    """Train until told to stop or the job's or run's last step; returns why it ended, after a last checkpoint.

    Raises TrainError (DivergedError, DeviceError, MemoryLimitError), DataError, CheckpointError, StoreError.
    """
    spec = read_spec(job)
    set_threads(job.threads)
    device = pick_device(job.device)
    compute_repeatably(device)
    limit_cuda_memory(device, job.max_vram_bytes)
    clips = open_clips(job, spec)
    learner = Learner(job.run, spec, job.slot, device, job.lowered)
    _begin(learner, job)
    if job.compile and device.compiles:
        compile_blocks(learner.network)
    draws, size = Draws.of(job.run, job.slot), batch_clips(spec, job.slot)
    with batches(clips, draws, size, learner.clips, lambda batch: batch.to(device.torch)) as source:
        first = source.peek()
        learner.micro_batch_clips = choose_micro_batch(learner, first, job.micro_batch_clips, job.max_memory_bytes)
        emit(learner.started())
        learner.on_shrink = emit
        return _Session(job, spec, learner, source, emit).run(next_command)


def _begin(learner: Learner, job: TrainJob) -> None:
    """From the job's resume state, else from the run's first weights, else as the network was initialised. CheckpointError."""
    if job.resume_path is not None:
        learner.restore(job.resume_path, job.resume_steps, job.resume_clips)
    elif learner.spec.initial_for(job.slot) is not None:
        if job.initial_path is None:
            raise CheckpointError(f"the run says what weights {job.slot} starts from, and the job names no file of them; fetch them first")
        learner.start_from(job.initial_path)


class Learner:
    """A slot's network, optimizer and averaged weights, at one step of its lineage."""

    def __init__(self, run: str, spec: RunSpec, slot: str, device: Device, lowered: int = 0):
        self.run, self.spec, self.slot, self.device, self.lowered = run, spec, slot, device, lowered
        self.steps = self.clips = 0
        self.micro_batch_clips = batch_clips(spec, slot)
        self.on_shrink: Callable[[Shrunk], None] = lambda event: None
        self.network = build_network(run, spec, slot).to(device.torch).train()
        self.weights: dict[str, Tensor] = dict(self.network.named_parameters())
        self.ema = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.optimizer = _adamw(list(self.weights.values()), spec.training.weight_decay)

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    def started(self) -> Started:
        return Started(
            steps=self.steps,
            clips=self.clips,
            parameters=self.parameters,
            device=str(self.device),
            precision=self.device.precision,
            batch_clips=batch_clips(self.spec, self.slot),
            micro_batch_clips=self.micro_batch_clips,
            recomputes=self.recomputes,
        )

    @property
    def recomputes(self) -> bool:
        """Whether activations are computed again for backward."""
        network: Any = self.network
        return bool(network._supports_gradient_checkpointing and network.is_gradient_checkpointing)

    def state(self) -> TrainState:
        """Everything a successor needs; the tensors are this learner's own."""
        moments = {name: self.optimizer.state[weight] for name, weight in self.weights.items()}
        return TrainState(
            counters=Counters(self.run, self.slot, self.steps, self.clips),
            weights=self.weights,
            exp_avg={name: moment["exp_avg"] for name, moment in moments.items()},
            exp_avg_sq={name: moment["exp_avg_sq"] for name, moment in moments.items()},
            ema=self.ema,
        )

    def start_from(self, path: Path) -> None:
        """Begin with the weights that the run's owner gave, which are the first average too. CheckpointError."""
        load_initial_into(path, self.weights)
        with torch.no_grad():
            torch._foreach_copy_(list(self.ema.values()), list(self.weights.values()))

    def restore(self, path: Path, steps: int, clips: int) -> None:
        """Go on from a resume state that must stand at these counters; CheckpointError."""
        self.steps, self.clips = steps, clips
        load_resume(path, self.state(), self.spec.training.clip_grad_norm)
        for weight in self.weights.values():
            self.optimizer.state[weight]["step"].fill_(steps)

    def step(self, batch: Batch) -> float:
        """One optimizer step; returns the mean loss. DivergedError before anything that is not finite is kept."""
        loss = self._accumulate(batch)
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights.values(), self.spec.training.clip_grad_norm))
        if not (loss <= MAX_LOSS and math.isfinite(norm)):
            raise DivergedError(
                f"{self.slot} diverged at step {self.steps}: loss {loss:.4g}, gradient norm {norm:.4g}; "
                "training goes back to the last checkpoint; if this happens again, the run's learning rate is too high"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.spec.training, self.slot, self.steps, self.lowered)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = ema_decay(self.spec.training.ema_decay, self.steps)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), list(self.weights.values()), 1 - decay)
        self.steps += 1
        self.clips += len(batch)
        return loss

    def _accumulate(self, batch: Batch) -> float:
        """Gradients of the batch's mean loss; the micro-batch is halved, for good, whenever memory runs out."""
        while True:
            loss = self._backward(batch)
            if loss is not None:
                break
            self.optimizer.zero_grad(set_to_none=True)
            self.shrink(f"memory ran out on {self.device}")
        for weight in self.weights.values():
            if weight.grad is None:  # an input's stand-in that no clip needed: AdamW must count this step for it too
                weight.grad = torch.zeros_like(weight)
        return loss

    def _backward(self, batch: Batch) -> float | None:
        """The mean loss, or None when memory ran out on the way."""
        total = torch.zeros((), device=self.device.torch)
        try:
            for start in range(0, len(batch), self.micro_batch_clips):
                part = batch.part(start, start + self.micro_batch_clips)
                with self.device.autocast():
                    losses = train_losses(self.spec, self.slot, self.network, part)
                loss = losses.sum() / len(batch)  # each clip weighs the same, also in a smaller last part
                torch.autograd.backward(loss)
                total += loss.detach()
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                return None
            raise
        return float(total)

    def shrink(self, why: str) -> None:
        """Halve the micro-batch; at one clip compute activations twice instead of keeping them; then MemoryLimitError."""
        if self.micro_batch_clips == 1 and not self.recompute():
            raise MemoryLimitError(
                f"training {self.slot} ({self.parameters:,} parameters) does not fit on {self.device} one clip at a time; "
                "allow more memory, or take a slot of a smaller run"
            )
        self.micro_batch_clips = max(1, min(self.micro_batch_clips, batch_clips(self.spec, self.slot)) // 2)
        return_memory(self.device)
        self.on_shrink(Shrunk(micro_batch_clips=self.micro_batch_clips, recomputes=self.recomputes, why=why))

    def recompute(self) -> bool:
        """Trade time for memory: activations are computed again for backward. False when that is on, or the network cannot."""
        network: Any = self.network  # a diffusers ModelMixin
        if not network._supports_gradient_checkpointing or network.is_gradient_checkpointing:
            return False
        network.enable_gradient_checkpointing()
        return True


def _adamw(weights: list[Tensor], weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), matrices decayed, vectors not; its state exists from the start."""
    groups = [
        {"params": [weight for weight in weights if weight.dim() >= 2], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=BETAS, eps=EPSILON, fused=True)
    for weight in weights:
        moments = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        optimizer.state[weight] = {"step": torch.zeros((), device=weight.device), **moments}
    return optimizer


class _Mean:
    """A running mean that starts again when it is taken."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    def take(self) -> float:
        mean = self.total / max(1, self.count)
        self.total, self.count = 0.0, 0
        return mean


class _Session:
    """From the first step to the last: events, commands, checkpoints, limits."""

    def __init__(self, job: TrainJob, spec: RunSpec, learner: Learner, source: BatchSource, emit: Callable[[Event], None]):
        self.job, self.learner, self.source, self.emit = job, learner, source, emit
        self._last_step = min((n for n in (job.max_steps, spec.training.total_steps) if n), default=0)
        self._event_loss, self._checkpoint_loss = _Mean(), _Mean()
        self._event_at = self._checkpoint_at = time.monotonic()
        self._event_clips, self._event_wait_s = learner.clips, source.wait_s
        self._saved_steps = learner.steps

    def run(self, next_command: Callable[[], Command | None]) -> str:
        learner = self.learner
        while not (self._last_step and learner.steps >= self._last_step):
            loss = learner.step(self.source.next())
            self._event_loss.add(loss)
            self._checkpoint_loss.add(loss)
            command = next_command()
            if command is not None and command.command == "stop":
                self._checkpoint()
                return "asked to stop"
            due = self.job.checkpoint_s and time.monotonic() - self._checkpoint_at >= self.job.checkpoint_s
            if due or command is not None:
                self._checkpoint()
            elif time.monotonic() - self._event_at >= EVENT_S:
                self._report()
            self._keep_memory_limit()
        self._checkpoint()
        return f"reached step {self._last_step}, the last one"

    def _report(self) -> None:
        """A step event about everything since the one before."""
        if self._event_loss.count == 0:
            return
        now, learner = time.monotonic(), self.learner
        elapsed_s = max(1e-6, now - self._event_at)
        self.emit(
            StepEvent(
                steps=learner.steps,
                clips=learner.clips,
                loss=self._event_loss.take(),
                clips_per_s=(learner.clips - self._event_clips) / elapsed_s,
                wait_share=min(1.0, (self.source.wait_s - self._event_wait_s) / elapsed_s),
                memory_bytes=learner.device.memory_bytes(),
            )
        )
        self._event_at, self._event_clips, self._event_wait_s = now, learner.clips, self.source.wait_s

    def _checkpoint(self) -> None:
        """Write one, unless nothing was learned since the last."""
        self._report()
        learner = self.learner
        self._checkpoint_at = time.monotonic()
        if learner.steps == self._saved_steps:
            return
        weights, resume = write_checkpoint(self.job.out_dir, learner.state())
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
        """On a CPU: smaller micro-batches once the limit is passed, and the end, with a checkpoint, when that is no help."""
        limit = self.job.max_memory_bytes
        if self.learner.device.cuda or not limit or resident_bytes() <= limit:
            return
        try:
            self.learner.shrink(f"the trainer uses {resident_bytes() >> 20} MiB, {limit >> 20} MiB are allowed")
        except MemoryLimitError as error:
            self._checkpoint()
            used = resident_bytes()
            raise MemoryLimitError(
                f"the trainer uses {used >> 20} MiB, {limit >> 20} MiB are allowed; it stopped with a checkpoint; raise the limit"
            ) from error
