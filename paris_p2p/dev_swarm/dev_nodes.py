"""The nodes of a dev-swarm: each a command of this program in a process, a namespace and a folder of its own,
and what can be done to one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from paris_p2p.dev_swarm.namespaces import Space, enter
from paris_p2p.dev_swarm.warden import MARK
from paris_p2p.errors import ParisError
from paris_p2p.node.control_client import call_control

LOOK_S = 2.0  # between two looks at a node's status
TURN_S = 0.2  # of a slow node: it runs for its share of each, and stands still for the rest
SLOW_SHARE = 0.25
TRAINER_NICE = 5  # a dozen nodes on a few cores are to answer as if each had a machine
_ASK_LIMIT_S = 15.0
_CHILDREN_S = 2.0  # a slow node's new processes are found so often
_TRAINER = "paris_p2p.training.trainer"


@dataclass
class DevNode:
    """Runs one command in the background, its output in a log file."""

    name: str
    command: list[str]
    data_dir: Path
    log: Path
    mark: str
    space: Space | None = None
    halted: bool = False
    process: subprocess.Popen[bytes] | None = None
    children: list[psutil.Process] = field(default_factory=list)  # of those that were killed

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            MARK: self.mark,
        }
        prefix = self.space.prefix if self.space is not None else ()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", *self.command],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is the dev-swarm's to handle
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tree(self) -> list[psutil.Process]:
        """Returns the node's process and all that it started; none when it is gone."""
        if self.process is None or not self.running:
            return []
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Sends SIGKILL to the node's process alone: what it started has to end by itself."""
        self.children += self.tree()[1:]
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def left_behind(self) -> list[str]:
        """Returns what the node started before it was killed and still runs; ending may take its time."""
        return [_name(child) for child in self.children if _runs(child)]

    def halt(self) -> None:
        """Stops all processes of the node with SIGSTOP, as when a machine sleeps."""
        self.halted = True
        signal_all(self.tree(), signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets a node that was halted go on."""
        self.halted = False
        signal_all(self.tree(), signal.SIGCONT)

    def daemons(self) -> list[psutil.Process]:
        """Returns the node's p2pd."""
        return [one for one in self.tree()[1:] if "p2pd" in _name(one)]

    def last_lines(self, lines: int = 12) -> str:
        """Returns the end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def signal_all(those: list[psutil.Process], number: int) -> None:
    """Sends a signal to processes, of which some may be gone."""
    for process in those:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def make_trainers_nice(nodes: list[DevNode]) -> None:
    """Gives the nodes' trainers what processor time the nodes and gates leave."""
    for node in nodes:
        for process in node.tree()[1:]:
            with suppress(psutil.Error):
                if process.nice() < TRAINER_NICE and _TRAINER in " ".join(process.cmdline()):
                    process.nice(TRAINER_NICE)


class Watch:
    """Asks one node for its status again and again, in a thread that lives in the node's namespace."""

    def __init__(self, node: DevNode, seen: Callable[[str, dict[str, Any]], None]):
        self.node, self._seen = node, seen
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"watch {node.name}")
        self._thread.start()

    def close(self) -> None:
        self._over.set()

    def _run(self) -> None:
        if self.node.space is not None:
            enter(self.node.space)
        while not self._over.wait(LOOK_S):
            if not self.node.running or self.node.halted:
                continue
            with suppress(ParisError):  # it starts, or is on its way out
                self._seen(
                    self.node.name, call_control(self.node.data_dir, "GET", "status", timeout_s=_ASK_LIMIT_S)
                )


class Slowness:
    """Gives a node SLOW_SHARE of the processor time that it would take, by halting it again and again."""

    def __init__(self, node: DevNode):
        self.node = node
        self._over = threading.Event()
        threading.Thread(target=self._run, daemon=True, name=f"slow {node.name}").start()

    def close(self) -> None:
        self._over.set()

    def _run(self) -> None:
        those: list[psutil.Process] = []
        looked_s = -_CHILDREN_S
        while not self._over.is_set():
            if time.monotonic() - looked_s >= _CHILDREN_S:
                those, looked_s = self.node.tree(), time.monotonic()
            if not self.node.halted:
                signal_all(those, signal.SIGSTOP)
            self._over.wait(TURN_S * (1 - SLOW_SHARE))
            if not self.node.halted:
                signal_all(those, signal.SIGCONT)
            self._over.wait(TURN_S * SLOW_SHARE)


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:3]) or str(process.name())
    except psutil.Error:
        return "?"


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
