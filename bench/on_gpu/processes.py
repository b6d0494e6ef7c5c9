"""Runs the real trainer and gate as their node does: processes, a job in, events or a result out."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.errors import TrainError
from paris_p2p.training.messages import (
    CheckpointReady,
    Command,
    Event,
    Failed,
    GateJob,
    GateResult,
    Message,
    Started,
    StepEvent,
    Stopped,
    TrainJob,
    parse_event,
)

Running = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Heard:
    """Holds an event of a trainer, and when it came, in seconds since its process was started."""

    event: Event
    at_s: float


def run_trainer(
    job: TrainJob, log: Path, timeout_s: float, enough: Callable[[list[Heard]], bool] = lambda heard: False
) -> list[Heard]:
    """Returns the events of a trainer until it ends, or until they are enough, when it is killed.

    TrainError when it fails or takes longer than `timeout_s`.
    """
    heard: list[Heard] = []
    started_at = time.monotonic()
    with _process("paris_p2p.training.trainer", job, log, timeout_s) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for line in process.stdout:
            heard.append(Heard(parse_event(line), time.monotonic() - started_at))
            if enough(heard):
                process.stdin.write(Command(command="kill").to_line().encode())
                process.stdin.flush()
                return heard
    last = heard[-1].event if heard else None
    if isinstance(last, Failed):
        raise TrainError(f"{last.error}: {last.message}{_end_of(log)}")
    if not isinstance(last, Stopped):
        spent_s = time.monotonic() - started_at
        raise TrainError(f"the trainer ended after {spent_s:.0f} s of {timeout_s:.0f} s{_end_of(log)}")
    return heard


def run_gate(job: GateJob, log: Path, timeout_s: float) -> GateResult:
    """Returns the gate's verdict; TrainError when it gives none within `timeout_s`."""
    with _process("paris_p2p.training.gate", job, log, timeout_s) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise TrainError(f"the gate gave no verdict within {timeout_s:.0f} s{_end_of(log)}")
        return GateResult.model_validate_json(line)


def steps_of(heard: list[Heard]) -> list[tuple[StepEvent, float]]:
    """Returns the step events with their times."""
    return [(each.event, each.at_s) for each in heard if isinstance(each.event, StepEvent)]


def started_of(heard: list[Heard]) -> tuple[Started, float]:
    """Returns how training began, and when."""
    return next((each.event, each.at_s) for each in heard if isinstance(each.event, Started))


def checkpoint_of(heard: list[Heard]) -> CheckpointReady:
    """Returns the last checkpoint."""
    return [each.event for each in heard if isinstance(each.event, CheckpointReady)][-1]


def say_of(log: Path) -> list[str]:
    """Returns what a process warned of: compiling that was given up, sums in no fixed order."""
    words = log.read_text(errors="replace") if log.exists() else ""
    found = set()
    if "WON'T CONVERT" in words or "suppress_errors" in words:
        found.add("a block was not compiled")
    for line in words.splitlines():
        if "does not have a deterministic implementation" in line:
            found.add("not repeatable: " + line.split(" does not have")[0].split()[-1])
    return sorted(found)


@contextmanager
def _process(module: str, job: Message, log: Path, timeout_s: float) -> Iterator[Running]:
    """Opens a process that has its job, writes its stderr to `log` and is killed at the end or in time."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors, subprocess.Popen(
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
    ) as process:  # fmt: skip
        assert process.stdin is not None
        timer = threading.Timer(max(0.1, timeout_s), process.kill)
        timer.start()
        try:
            process.stdin.write(job.to_line().encode())
            process.stdin.flush()
            yield process
            process.stdin.close()
        finally:
            timer.cancel()
            process.kill()


def _end_of(log: Path) -> str:
    words = log.read_text(errors="replace").strip() if log.exists() else ""
    return f"; {log.name} ends: {words[-600:]}" if words else ""
