"""Tells how much of this machine's processors others use: all that runs, less this peer's own processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import psutil

_MIN_SPAN_S = 0.5  # the kernel counts in hundredths: less says nothing


@dataclass(frozen=True)
class ProcessorTimes:
    """Seconds of processor time since the machine's start, and when that was read (monotonic)."""

    busy_s: float  # of all cores together
    own_s: float
    read_s: float
    cores: int


class LoadSensor(Protocol):
    """What a machine's processors are asked."""

    def read(self) -> float | None:
        """Returns the share of all cores, 0 to 1, that others used since the last call; None at first."""
        ...


class KernelLoad:
    """Compares the kernel's counts between two calls."""

    def __init__(self, times: Callable[[], ProcessorTimes] | None = None):
        self._times = times or processor_times
        self._before: ProcessorTimes | None = None

    def read(self) -> float | None:
        """Returns the share of all cores that others used since the last call; None when that was too
        short a while ago.
        """
        before, now = self._before, self._times()
        if before is not None and now.read_s - before.read_s < _MIN_SPAN_S:
            return None
        self._before = now
        return None if before is None else others_share(before, now)


def others_share(before: ProcessorTimes, now: ProcessorTimes) -> float:
    """Returns the share of all cores, 0 to 1, that others used between two readings."""
    # A process of ours that ended and is not yet waited for is in no count: never less than nothing.
    own_s = max(0.0, now.own_s - before.own_s)
    others_s = now.busy_s - before.busy_s - own_s
    return min(1.0, max(0.0, others_s / ((now.read_s - before.read_s) * now.cores)))


def processor_times() -> ProcessorTimes:
    """Returns what all and what this process and its children have used so far."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
    # the kernel counts a guest's time in `user` as well
    busy = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return ProcessorTimes(busy, _own_s(), time.monotonic(), psutil.cpu_count() or 1)


def _own_s() -> float:
    me, total = psutil.Process(), 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # its own and of its children that have ended
        except psutil.Error:
            continue  # it ended since
    return total
