"""Trains a slot's network, with its optimizer and averaged weights, one step at a time.

A step stays within the memory there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paris_p2p.data.batches import Batch
from paris_p2p.device import Device, return_memory
from paris_p2p.errors import CheckpointError, DivergedError, MemoryLimitError
from paris_p2p.family import ancestors, parents_from
from paris_p2p.model.checkpoint import (
    AverageNote,
    Counters,
    TrainState,
    copy_state,
    counters_of,
    empty_state,
    load_initial_into,
    load_weights_into,
    no_note,
)
from paris_p2p.model.grown_router import grow_router, without_outputs
from paris_p2p.model.power_average import power_decays
from paris_p2p.model.resume_format import format_of_run
from paris_p2p.model.state_parts import StateParts
from paris_p2p.records import MAX_LOSS
from paris_p2p.spec import RunSpec
from paris_p2p.training.contrast import contrast_of, contrasted_losses
from paris_p2p.training.messages import Shrunk, Started
from paris_p2p.training.objective import batch_clips, build_network, train_losses
from paris_p2p.training.optimizers import SlotOptimizer
from paris_p2p.training.schedule import ema_decay, learning_rate


class Learner:
    """Holds a slot's network, optimizer and averaged weights, at one step of its lineage."""

    def __init__(self, run: str, spec: RunSpec, slot: str, device: Device, lowered: int = 0):
        self.run, self.spec, self.slot, self.device, self.lowered = run, spec, slot, device, lowered
        self.steps = self.clips = 0
        self.notes: dict[str, str] = {}  # that its resume states keep beside the counters
        self.average_note: AverageNote = no_note  # of its weights files
        self.rate_share = 1.0  # of the schedule's learning rate
        self.micro_batch_clips = batch_clips(spec, slot)
        self.on_shrink: Callable[[Shrunk], None] = lambda event: None
        self.network = build_network(run, spec, slot).to(device.torch).train()
        self.weights: dict[str, Tensor] = dict(self.network.named_parameters())
        self.ema = {name: weight.detach().clone() for name, weight in self.weights.items()}
        two = StateParts.of_run(spec.training).two_averages
        self.ema_long = {name: average.clone() for name, average in self.ema.items()} if two else {}
        self.optimizer = SlotOptimizer(
            self.weights, spec.training, torch.bfloat16 if device.bf16 else torch.float32
        )

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    def started(self) -> Started:
        """Returns the event that tells how training begins."""
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
        """Says whether activations are computed again for backward."""
        return bool(getattr(self.network, "gradient_checkpointing", False))

    def state(self) -> TrainState:
        """Returns everything a successor needs; the tensors are this learner's own."""
        return TrainState(
            counters=Counters(self.run, self.slot, self.steps, self.clips),
            weights=self.weights,
            exp_avg=self.optimizer.exp_avg,
            exp_avg_sq=self.optimizer.exp_avg_sq,
            ema=self.ema,
            notes=self.notes,
            ema_long=self.ema_long,
            average_note=self.average_note,
        )

    def start_from(self, path: Path) -> None:
        """Begins with the weights that the run's owner gave, which are the first average too.

        CheckpointError.
        """
        load_initial_into(path, self.weights)
        self._begin_averages()

    def start_as_child(self, path: Path) -> None:
        """Begins with the weights of the expert that this one was split from, or of that one's parent and so
        on, as they were attested. They are the first average too. CheckpointError.
        """
        made, theirs = counters_of(path), tuple(ancestors(self.spec, self.slot))
        if made.run != self.run or made.slot not in theirs:
            raise CheckpointError(
                f"{path.name} holds weights of {made.slot[:80]}, where {self.slot} starts from "
                f"{' or '.join(theirs) or 'no other expert'}; fetch them again"
            )
        load_weights_into(path, self.weights)
        self._begin_averages()

    def restore(self, path: Path, steps: int, clips: int, experts: int = 0) -> None:
        """Goes on from a resume state that must stand at these counters; CheckpointError.

        One of a router with fewer outputs says how many `experts` it has: it gets the others first.
        """
        self.steps, self.clips = steps, clips
        state, max_norm = self.state(), self.spec.training.clip_grad_norm
        load_resume = format_of_run(self.spec.training).load
        if parents := parents_from(self.spec, experts):
            shapes = without_outputs({n: tuple(w.shape) for n, w in self.weights.items()}, len(parents))
            smaller = empty_state(state.counters, shapes, StateParts.of_run(self.spec.training))
            load_resume(path, smaller, max_norm)
            copy_state(grow_router(smaller, parents), state)
        else:
            load_resume(path, state, max_norm)
        self.optimizer.count_as(steps)

    def write_checkpoint(self, folder: Path) -> tuple[Path, Path]:
        """Writes weights and resume state into `folder`; returns their paths.

        In a run with compact checkpoints this learner goes on from what they hold, as a successor does.
        DivergedError, before anything is written, when a tensor is not finite; DiskFullError, ReadOnlyError.
        """
        return format_of_run(self.spec.training).write(folder, self.state())

    def step(self, batch: Batch) -> float:
        """Takes one optimizer step and returns the mean loss.

        DivergedError before anything that is not finite is kept.
        """
        loss = self._accumulate(batch)
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights.values(), self.spec.training.clip_grad_norm))
        if not (loss <= MAX_LOSS and math.isfinite(norm)):
            raise DivergedError(
                f"{self.slot} diverged at step {self.steps}: loss {loss:.4g}, gradient norm {norm:.4g}; "
                "training goes back to the last checkpoint; "
                "if this happens again, the run's learning rate is too high"
            )
        rate = learning_rate(self.spec.training, self.slot, self.steps, self.lowered)
        self.optimizer.step(self.rate_share * rate)
        self._average()
        self.steps += 1
        self.clips += len(batch)
        return loss

    def _average(self) -> None:
        """Takes the step's weights into the averages."""
        if self.ema_long:
            averages = list(zip((self.ema, self.ema_long), power_decays(self.steps), strict=True))
        else:
            averages = [(self.ema, ema_decay(self.spec.training.ema_limit(self.slot), self.steps))]
        with torch.no_grad():
            for average, decay in averages:
                torch._foreach_lerp_(list(average.values()), list(self.weights.values()), 1 - decay)

    def _begin_averages(self) -> None:
        """Sets the averages to the weights that training begins with."""
        with torch.no_grad():
            for average in filter(None, (self.ema, self.ema_long)):
                torch._foreach_copy_(list(average.values()), list(self.weights.values()))

    def _accumulate(self, batch: Batch) -> float:
        """Accumulates the gradients of the batch's mean loss.

        The micro-batch is halved, for good, whenever memory runs out.
        """
        while True:
            loss = self._backward(batch)
            if loss is not None:
                break
            self.optimizer.forget_gradients()
            self.shrink(f"memory ran out on {self.device}")
        for weight in self.weights.values():
            if weight.grad is None:
                # No clip needed this input's stand-in, and the optimizer must count the step for it too.
                weight.grad = torch.zeros_like(weight)
        return loss

    def _backward(self, batch: Batch) -> float | None:
        """Returns the mean loss, or None when memory ran out on the way."""
        total = torch.zeros((), device=self.device.torch)
        contrast = contrast_of(self.spec, self.slot, batch)
        try:
            for start in range(0, len(batch), self.micro_batch_clips):
                stop = start + self.micro_batch_clips
                part = batch.part(start, stop)
                with self.device.autocast():
                    if contrast is None:
                        losses = plain = train_losses(self.spec, self.slot, self.network, part)
                    else:
                        losses, plain = contrasted_losses(
                            self.spec, self.slot, self.network, part, contrast.part(start, stop)
                        )
                # Each clip weighs the same, even in a smaller last part.
                torch.autograd.backward(losses.sum() / len(batch))
                total += plain.detach().sum() / len(batch)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                return None
            raise
        return float(total)

    def shrink(self, why: str) -> None:
        """Halves the micro-batch; at one clip it computes activations twice instead of keeping them.

        MemoryLimitError when that is done already.
        """
        if self.micro_batch_clips == 1 and not self.recompute():
            raise MemoryLimitError(
                f"training {self.slot} ({self.parameters:,} parameters) does not fit "
                f"on {self.device} one clip at a time; allow more memory, or take a slot of a smaller run"
            )
        self.micro_batch_clips = max(1, min(self.micro_batch_clips, batch_clips(self.spec, self.slot)) // 2)
        return_memory(self.device)
        self.on_shrink(Shrunk(micro_batch_clips=self.micro_batch_clips, recomputes=self.recomputes, why=why))

    def recompute(self) -> bool:
        """Trades time for memory: activations are computed again for backward.

        It returns False when that is on, or the network cannot.
        """
        network: Any = self.network
        if getattr(network, "gradient_checkpointing", True):  # the router is too small to have it
            return False
        network.gradient_checkpointing = True
        return True
