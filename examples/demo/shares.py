"""Accounts for the swarm's processor time by kind of process: what trains, and what a swarm costs beside it.

A process's time is what the kernel counted for it, user and system, at the last look. What it used between
that look and its end is in its parent's count of ended children, from which what was seen is taken away.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import psutil

TRAINERS, GATES, NODES, DAEMONS = "trainers", "gates", "nodes", "p2pd"
DEMO, ENDED = "the demo itself", "ended between two looks"
KINDS = (TRAINERS, GATES, NODES, DAEMONS, DEMO, ENDED)


@dataclass(frozen=True)
class Look:
    """Holds what one process had used at one moment."""

    pid: int
    started_at: float  # Unix seconds; pid and start together name a process for good
    parent: int
    command: tuple[str, ...]
    cpu_s: float
    ended_children_cpu_s: float  # of the children it has waited for, and of their children

    @property
    def key(self) -> tuple[int, float]:
        return self.pid, self.started_at

    @property
    def whole_s(self) -> float:
        return self.cpu_s + self.ended_children_cpu_s


@dataclass
class Shares:
    """Counts processor seconds by kind, looking at the demo's process and all beneath it, since `begin`."""

    demo: int = field(default_factory=os.getpid)
    _seen: dict[tuple[int, float], Look] = field(default_factory=dict)
    _begun: dict[tuple[int, float], Look] = field(default_factory=dict)
    _alive: set[tuple[int, float]] = field(default_factory=set)

    def begin(self, looks: Iterable[Look]) -> None:
        """Begins to count; what was used until now is left out."""
        self._begun = {look.key: look for look in looks}
        self._seen, self._alive = dict(self._begun), set(self._begun)

    def add(self, looks: Iterable[Look]) -> None:
        now = {look.key: self._named(look) for look in looks}
        self._seen |= now
        self._alive = set(now)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of every kind; 0 where none ran."""
        total = dict.fromkeys(KINDS, 0.0)
        for key, look in self._seen.items():
            before = self._begun.get(key)
            total[self._kind(look)] += look.cpu_s - (before.cpu_s if before else 0.0)
        total[ENDED] = sum(self._unseen_s(look) for look in self._seen.values())
        return total

    def share(self, kind: str = TRAINERS) -> float:
        """Returns a kind's share of all processor time; 0 before any was used."""
        seconds = self.seconds()
        return seconds[kind] / max(sum(seconds.values()), 1e-9)

    def _named(self, look: Look) -> Look:
        """Returns a process's command line, or the one it had before it began to end."""
        before = self._seen.get(look.key)
        return look if look.command or before is None else replace(look, command=before.command)

    def _kind(self, look: Look) -> str:
        return DEMO if look.pid == self.demo else kind_of(look.command)

    def _unseen_s(self, parent: Look) -> float:
        """Returns what ended children used after their last look; of a killed node's nobody hears."""
        before = self._begun.get(parent.key)
        counted = parent.ended_children_cpu_s - (before.ended_children_cpu_s if before else 0.0)
        seen = 0.0
        for key, look in self._seen.items():
            if look.parent == parent.pid and key not in self._alive:
                begun = self._begun.get(key)
                seen += look.whole_s - (begun.whole_s if begun else 0.0)
        return max(0.0, counted - seen)


def kind_of(command: tuple[str, ...]) -> str:
    """Says by the command line what a process of the demo's is for."""
    words = " ".join(command)
    if "paris_p2p.training.trainer" in words:
        return TRAINERS
    if "paris_p2p.training.gate" in words:
        return GATES
    return DAEMONS if command and os.path.basename(command[0]) == "p2pd" else NODES


def look_around(pid: int | None = None) -> list[Look]:
    """Looks at this process, or another, and at all beneath it."""
    top = psutil.Process(pid)
    looks = []
    for process in [top, *top.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess), process.oneshot():
            times = process.cpu_times()
            ended_s = times.children_user + times.children_system
            looks.append(
                Look(
                    *(process.pid, process.create_time(), process.ppid(), tuple(process.cmdline())),
                    cpu_s=times.user + times.system,
                    ended_children_cpu_s=ended_s,
                )
            )
    return looks
