"""Troubles machines at random: they are killed, stand still, are slow, and have slow lines."""

from __future__ import annotations

import random
import shutil
import threading
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.crew_swarm.machines import go_on, halt, kill, slowed
from bench.crew_swarm.room import Room
from examples.demo.processes import Node

AT_ONCE = 2  # machines in trouble, those that are starting again among them
PAUSE_S = (5.0, 15.0)  # between two troubles
START_S = 90.0  # within which a machine is expected back
LINES = ("100KB", "400KB", "0")  # a second; 0: as fast as loopback is
FRESH_SHARE = 0.3  # of killed machines, those that come back without anything


@dataclass
class Trouble:
    """One thing that happened to one machine; times are seconds since the room was opened."""

    at_s: float
    machine: str
    kind: str
    words: str
    slot: str  # that it worked on, by what it said last
    phase: str
    over_s: float = 0.0
    left_behind: int = 0  # processes that outlived their killed node


@dataclass
class Troublemaker:
    """Picks machines and troubles by a seed, each trouble in a thread of its own."""

    room: Room
    rng: random.Random
    keep_disks: frozenset[str] = frozenset()  # names of machines that never lose their disks
    told: list[Trouble] = field(default_factory=list)
    _busy: dict[str, threading.Thread] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self, for_s: float) -> None:
        """Troubles machines for so long; then waits until all have recovered."""
        ends_s = self.room.now_s + for_s
        while self.room.now_s < ends_s:
            self._over.wait(self.rng.uniform(*PAUSE_S))
            self._busy = {name: thread for name, thread in self._busy.items() if thread.is_alive()}
            free = [node for node in self.room.swarm.volunteers if node.name not in self._busy]
            if len(self._busy) < AT_ONCE:
                self.begin(self.rng.choice(free), self.rng.choice(tuple(KINDS)))
        self.end()

    def begin(self, node: Node, kind: str) -> None:
        """Starts a trouble of KINDS on a machine that has none."""
        training = node.last_status.get("training") or {}
        phase = str(node.last_status.get("phase", "starting"))
        trouble = Trouble(self.room.now_s, node.name, kind, "", str(training.get("slot", "")), phase)
        draw = random.Random(self.rng.random())
        thread = threading.Thread(target=self._carry_out, args=(node, trouble, draw), daemon=True)
        self.told.append(trouble)
        self._busy[node.name] = thread
        thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._busy.values():
            thread.join()

    def as_rows(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in self.told]

    def _carry_out(self, node: Node, trouble: Trouble, rng: random.Random) -> None:
        self.room.unasked.add(node.name)
        getattr(self, KINDS[trouble.kind])(node, trouble, rng)
        self.room.unasked.discard(node.name)
        ends_s = self.room.now_s + START_S
        while node.status() is None and self.room.now_s < ends_s:
            self._over.wait(1.0)
        trouble.over_s = self.room.now_s
        print(f"  {trouble.at_s:5.0f} s  {trouble.machine}: {trouble.words}", flush=True)

    def _kill(self, node: Node, trouble: Trouble, rng: random.Random) -> None:
        away_s = rng.uniform(1.0, 15.0)
        is_fresh = rng.random() < FRESH_SHARE and node.name not in self.keep_disks
        trouble.left_behind = len(kill(node))
        if is_fresh:
            shutil.rmtree(node.data_dir, ignore_errors=True)
        self._over.wait(away_s)
        node.start()
        trouble.words = f"killed, away for {away_s:.0f} s" + (", back without its disk" if is_fresh else "")

    def _halt(self, node: Node, trouble: Trouble, rng: random.Random) -> None:
        stood_s = rng.uniform(3.0, 40.0)
        halt(node)
        self._over.wait(stood_s)
        go_on(node)
        trouble.words = f"stood still for {stood_s:.0f} s"

    def _slow(self, node: Node, trouble: Trouble, rng: random.Random) -> None:
        lasted_s, share = rng.uniform(15.0, 60.0), rng.choice((0.1, 0.25, 0.5))
        with slowed(node, share):
            self._over.wait(lasted_s)
        trouble.words = f"had {share:.0%} of its processor for {lasted_s:.0f} s"

    def _line(self, node: Node, trouble: Trouble, rng: random.Random) -> None:
        limit = rng.choice(LINES)
        node.stop()
        if "--upload-limit" in node.command:
            at = node.command.index("--upload-limit")
            del node.command[at : at + 2]
        node.command += ["--upload-limit", limit]
        node.start()
        trouble.words = f"stopped, and started with an upload of {limit}/s"


KINDS = {"kill": "_kill", "halt": "_halt", "slow": "_slow", "line": "_line"}
