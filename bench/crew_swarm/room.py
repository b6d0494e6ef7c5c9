"""Opens a swarm whose slots are trained by crews, watches it, and closes it whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bench.crew_swarm.evidence import Evidence
from bench.crew_swarm.machines import go_on, make_trainers_nice
from examples.demo.processes import Node
from examples.demo.swarm import Swarm
from paris_p2p.envelope import Envelope
from paris_p2p.identity import load_or_create_peer_key
from paris_p2p.spec import RunSpec

T = TypeVar("T")
ASK_S = 2.0  # between two looks at a node's status
PATIENCE_S = 300.0


@dataclass
class Room:
    """A run with its nodes, and what they left on their disks."""

    root: Path
    run: Envelope[RunSpec]
    swarm: Swarm
    evidence: Evidence
    began_s: float = field(default_factory=time.monotonic)
    unasked: set[str] = field(default_factory=set)  # names of nodes that stand still or are being started
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def invite(self) -> Path:
        return self.root / "invite.txt"

    @property
    def now_s(self) -> float:
        """Returns the seconds since the room was opened."""
        return time.monotonic() - self.began_s

    def add(self, name: str, *more: str, **how: Any) -> Node:
        """Starts one more volunteer, which is asked for its status from then on."""
        node = self.swarm.add_volunteer(name, self.invite, *more, **how)
        self.ask(node)
        return node

    def ask(self, node: Node) -> None:
        """Asks a node for its status again and again, until the room closes."""
        threading.Thread(target=self._ask, args=(node,), daemon=True).start()

    def yield_to_nodes(self) -> None:
        """Lets trainers that have begun give way to nodes and gates, until the room closes: two cores have a
        dozen of each.
        """
        threading.Thread(target=self._keep_trainers_nice, daemon=True).start()

    def _keep_trainers_nice(self) -> None:
        while not self._over.is_set():
            for node in list(self.swarm.volunteers):
                make_trainers_nice(node)
            self._over.wait(ASK_S)

    def _ask(self, node: Node) -> None:
        while not self._over.is_set():
            if node.name not in self.unasked:
                node.status()
            self._over.wait(ASK_S)

    def peer_id(self, node: Node) -> str:
        return load_or_create_peer_key(node.data_dir / "identity.key").peer_id

    def names(self) -> dict[str, str]:
        """Returns the names of the peers that are there, by peer id."""
        those = [self.swarm.owner, *self.swarm.volunteers]
        return {self.peer_id(node): node.name for node in those if (node.data_dir / "identity.key").exists()}

    def lead_of(self, slot: str) -> str:
        """Returns the peer id of the slot's lead as the owner sees it; empty when there is none."""
        return str(self.swarm.slot(slot).get("lead", ""))

    def wait(self, what: str, look: Callable[[], T | None], patience_s: float = PATIENCE_S) -> T:
        """Waits until `look` returns something; ends the program where nothing comes."""
        deadline_s = time.monotonic() + patience_s
        while not (found := look()):
            if time.monotonic() > deadline_s:
                words = "\n\n".join(
                    f"{node.name}:\n{node.last_lines()}"
                    for node in [self.swarm.owner, *self.swarm.volunteers]
                )
                raise SystemExit(f"waited {patience_s:.0f} s for {what}\n{words}")
            time.sleep(0.2)
        return found

    def close(self) -> None:
        self._over.set()
        self.evidence.close()
        for node in [*self.swarm.volunteers, self.swarm.owner, self.swarm.bootstrap]:
            go_on(node)
            node.kill()


@contextmanager
def opened_room(root: Path, run: Envelope[RunSpec]) -> Iterator[Room]:
    """Starts bootstrap node and owner of the run in `root/run`; closes all that was started at the end."""
    swarm = Swarm(root, peers=0)

    def data_dirs() -> list[Path]:
        return [root / "run" / "node", *(node.data_dir for node in list(swarm.volunteers))]

    room = Room(root, run, swarm, Evidence(run.id, root / "kept", data_dirs))
    try:
        swarm.open(root / "run")
        room.evidence.open()
        room.ask(swarm.owner)
        room.yield_to_nodes()
        yield room
    finally:
        if room.evidence.is_open:
            room.close()
        else:  # it did not start
            swarm.close()
