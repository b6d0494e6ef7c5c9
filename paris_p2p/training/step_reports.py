"""Tells the node about training steps, at most once a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from paris_p2p.data.batches import BatchSource
from paris_p2p.training.learner import Learner
from paris_p2p.training.messages import StepEvent

EVENT_S = 1.0  # at most one step event in this time


class RunningMean:
    """Keeps a mean that starts again when it is taken."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    def take(self) -> float:
        mean = self.total / max(1, self.count)
        self.total, self.count = 0.0, 0
        return mean


class StepReports:
    """Gathers steps, and emits an event about all since the one before."""

    def __init__(self, learner: Learner, source: BatchSource, emit: Callable[[StepEvent], None]):
        self._learner, self._source, self._emit = learner, source, emit
        self._loss, self._clips = RunningMean(), 0
        self._at, self._wait_s = time.monotonic(), source.wait_s

    def add(self, loss: float, clips: int) -> None:
        """Counts a step."""
        self._loss.add(loss)
        self._clips += clips

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._at >= EVENT_S

    def report(self) -> None:
        """Emits what was gathered, if anything was."""
        if self._loss.count == 0:
            return
        now, learner = time.monotonic(), self._learner
        elapsed_s = max(1e-6, now - self._at)
        self._emit(
            StepEvent(
                steps=learner.steps,
                clips=learner.clips,
                loss=self._loss.take(),
                clips_per_s=self._clips / elapsed_s,
                wait_share=min(1.0, (self._source.wait_s - self._wait_s) / elapsed_s),
                memory_bytes=learner.device.memory_bytes(),
            )
        )
        self._at, self._clips, self._wait_s = now, 0, self._source.wait_s
