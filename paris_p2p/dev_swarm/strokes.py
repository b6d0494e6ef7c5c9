"""Carries troubles out: a node is killed and started again, halted and let go on, cut off and joined."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import psutil

from paris_p2p.dev_swarm.dev_nodes import DevNode, signal_all
from paris_p2p.dev_swarm.hand_overs import Struck
from paris_p2p.dev_swarm.namespaces import Switch
from paris_p2p.dev_swarm.trouble_plan import Trouble


class Troubled(Protocol):
    """Is a dev-swarm, as what is done to it sees it."""

    peers: list[DevNode]
    struck: list[Struck]
    switch: Switch | None

    @property
    def say(self) -> Callable[[str], None]: ...

    @property
    def now_s(self) -> float: ...


@dataclass
class Strokes:
    """Begins troubles, and ends each when it is over."""

    swarm: Troubled
    _ends: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def begin(self, trouble: Trouble, began_s: float) -> None:
        """Strikes a peer; `began_s` is when the plan began."""
        peer, swarm = self.swarm.peers[trouble.peer], self.swarm
        at_s, ends_s = swarm.now_s, began_s + trouble.ends_s
        words, end = self._strike(peer, trouble)
        swarm.struck.append(Struck(at_s, trouble.kind, peer.name, ends_s, time.time()))
        swarm.say(f"{peer.name} {words} for {trouble.lasts_s:.0f} s")
        self._ends.append((ends_s, end))

    def end_due(self, now_s: float) -> None:
        """Ends the troubles that are over."""
        due = [end for ends_s, end in self._ends if ends_s <= now_s]
        self._ends = [one for one in self._ends if one[0] > now_s]
        for end in due:
            end()

    def _strike(self, peer: DevNode, trouble: Trouble) -> tuple[str, Callable[[], None]]:
        if trouble.kind == "kill":
            peer.kill()
            return "is killed (SIGKILL)", lambda: self._start(peer)
        if trouble.kind == "pause":
            peer.halt()
            return "stands still (SIGSTOP)", lambda: self._go_on(peer)
        return self._cut(peer)

    def _cut(self, peer: DevNode) -> tuple[str, Callable[[], None]]:
        """Takes a peer's link down; without namespaces its p2pd stands still: nothing comes or goes."""
        switch, space = self.swarm.switch, peer.space
        if switch is not None and space is not None:
            switch.plug(space, "down")
            return "has no link", lambda: self._mend(peer, lambda: switch.plug(space, "up"))
        daemons: list[psutil.Process] = peer.daemons()
        signal_all(daemons, signal.SIGSTOP)
        return "has a p2pd that stands still", lambda: self._mend(
            peer, lambda: signal_all(daemons, signal.SIGCONT)
        )

    def _start(self, peer: DevNode) -> None:
        peer.start()
        self.swarm.say(f"{peer.name} is started again")

    def _go_on(self, peer: DevNode) -> None:
        peer.go_on()
        self.swarm.say(f"{peer.name} goes on")

    def _mend(self, peer: DevNode, mend: Callable[[], None]) -> None:
        mend()
        self.swarm.say(f"{peer.name} has its link again")
