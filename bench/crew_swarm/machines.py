"""Does to a node's processes what happens to machines: it dies, stands still, or is slow."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from examples.demo.processes import Node

TURN_S = 0.2  # of a slow machine: it runs for its share of each, and stands still for the rest
LOOK_S = 1.0  # new children are looked for so often
NICE, LOADED_S = 15, 8.0  # of trainers, after so many seconds of processor time
GONE_S = 10.0  # within which children of a killed node are to be gone


def processes(node: Node) -> list[psutil.Process]:
    """Returns the node's process and all that it started; none when it is gone."""
    if node.process is None or not node.running:
        return []
    try:
        parent = psutil.Process(node.process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def halt(node: Node) -> None:
    """Stops every process of a machine with SIGSTOP, as when it sleeps."""
    _signal(processes(node), signal.SIGSTOP)


def go_on(node: Node) -> None:
    """Lets a machine that was halted go on."""
    _signal(processes(node), signal.SIGCONT)


def kill(node: Node) -> list[psutil.Process]:
    """Sends SIGKILL to the node's process alone; returns what it had started and still runs after GONE_S."""
    children = processes(node)[1:]
    _signal(children, signal.SIGCONT)  # a halted process dies too, but is looked for as one that runs
    node.kill()
    _, alive = psutil.wait_procs(children, GONE_S)
    return list(alive)


def _signal(those: list[psutil.Process], number: int) -> None:
    for process in those:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@dataclass
class Slowness:
    """Gives a machine `share` of the processor time that it would take, by halting it again and again."""

    node: Node
    share: float
    trainer_alone: bool = False  # its node keeps its time
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        those: list[psutil.Process] = []
        looked_s = -LOOK_S
        while not self._over.is_set():
            if time.monotonic() - looked_s >= LOOK_S:
                those, looked_s = self._found(), time.monotonic()
            _signal(those, signal.SIGSTOP)
            self._over.wait(TURN_S * (1 - self.share))
            _signal(those, signal.SIGCONT)
            self._over.wait(TURN_S * self.share)

    def end(self) -> None:
        self._over.set()

    def _found(self) -> list[psutil.Process]:
        found = processes(self.node)
        if not self.trainer_alone:
            return found
        return [one for one in found[1:] if _is_trainer(one)]


def make_trainers_nice(node: Node) -> None:
    """Gives a node's trainers, once they have loaded, what processor time is left over."""
    for process in processes(node)[1:]:
        with suppress(psutil.Error):
            if _is_trainer(process) and process.nice() < NICE and process.cpu_times().user > LOADED_S:
                process.nice(NICE)


def _is_trainer(process: psutil.Process) -> bool:
    try:
        return any("trainer" in word for word in process.cmdline())
    except psutil.Error:
        return False


@contextmanager
def slowed(node: Node, share: float, *, trainer_alone: bool = False) -> Iterator[None]:
    """Slows a machine down meanwhile."""
    slowness = Slowness(node, share, trainer_alone)
    thread = threading.Thread(target=slowness.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        slowness.end()
        thread.join()
