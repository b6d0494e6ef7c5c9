"""Opens a dev-swarm, breaks it by the plan, waits until it has recovered, and says what became of it.

bootstrap node, owner and peers start, each in a namespace of its own
once every slot has a tip, the troubles begin (trouble_plan.py)
afterwards the swarm gets time to recover: is anybody stuck?
everything is killed, and what the disks hold is checked (outcome.py)
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paris_p2p.dev_swarm.chronicle import Chronicle
from paris_p2p.dev_swarm.dev_nodes import DevNode, Slowness, Watch, make_trainers_nice
from paris_p2p.dev_swarm.hand_overs import Struck, with_slot
from paris_p2p.dev_swarm.namespaces import Switch, sweep_spaces
from paris_p2p.dev_swarm.outcome import OWNER, Outcome, Witnessed, caught_up, idle_slots, outcome_of
from paris_p2p.dev_swarm.papers import Papers
from paris_p2p.dev_swarm.strokes import Strokes
from paris_p2p.dev_swarm.trouble_plan import SwarmWishes, Trouble, slow_peers, trouble_plan
from paris_p2p.dev_swarm.warden import kill_marked, kill_orphans, new_mark
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError
from paris_p2p.keyring import load_keyring
from paris_p2p.node.home_check import check_home
from paris_p2p.node.ledger_check import OpenRecord, opener_of
from paris_p2p.spec import RunSpec

TICK_S = 0.25
START_PAUSE_S = 2.0  # between two nodes
READ_EVERY_S = 15.0  # the owner's ledger remembers the last 32 tips of a slot
NICE_EVERY_S = 5.0
START_PATIENCE_S = 900.0  # for a tip of every slot, on a busy machine
RECOVERY_CLAIMS, RECOVERY_CHECKPOINTS, RECOVERY_S = 4, 3, 180.0  # the time to recover, at most
INVITE_USES = 10_000
_FAULT = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)*(.*)")

SayLine = Callable[[str], None]
ShowSwarm = Callable[["DevSwarm"], None]


@dataclass
class DevSwarm:
    """Holds a swarm on this machine; `opened_swarm` makes one."""

    root: Path
    run: Envelope[RunSpec]
    wishes: SwarmWishes
    say: SayLine
    shown: ShowSwarm
    switch: Switch | None = None
    mark: str = field(default_factory=new_mark)
    chronicle: Chronicle = field(default_factory=Chronicle)
    papers: Papers = field(default_factory=Papers)
    owner: DevNode = field(init=False)
    peers: list[DevNode] = field(default_factory=list)
    nodes: list[DevNode] = field(default_factory=list)  # all of them
    struck: list[Struck] = field(default_factory=list)
    phase: str = "starting"
    troubled_s: float = 0.0  # when the troubles began; 0: not yet
    _began_s: float = field(default_factory=time.monotonic)
    _next: dict[str, float] = field(default_factory=dict)

    @property
    def now_s(self) -> float:
        """Returns the seconds since this dev-swarm began."""
        return time.monotonic() - self._began_s

    @property
    def slots(self) -> tuple[str, ...]:
        return self.run.record.slots

    def add(self, stack: ExitStack, name: str, *command: str, data_dir: Path | None = None) -> DevNode:
        """Starts one more node, and asks it for its status from then on."""
        space = self.switch.add(name) if self.switch is not None else None
        host = () if space is not None else ("--host", "127.0.0.1")
        home = data_dir or self.root / name
        own = () if data_dir is not None else ("--data-dir", str(home))
        node = DevNode(
            name, [*command, *own, *host], home, self.root / "logs" / f"{name}.log", self.mark, space
        )
        node.start()
        self.nodes.append(node)
        if name != "bootstrap":
            stack.callback(Watch(node, self._note).close)
        return node

    def _note(self, name: str, status: dict[str, Any]) -> None:
        self.chronicle.note(name, self.now_s, status)

    def until(self, look: Callable[[], bool], patience_s: float) -> bool:
        """Ticks until `look` says so; returns whether it did in time."""
        ends_s = self.now_s + patience_s
        while not look():
            if self.now_s > ends_s:
                return False
            self.tick()
        return True

    def wait(self, for_s: float) -> None:
        """Ticks for so long."""
        self.until(lambda: False, for_s)

    def tick(self) -> None:
        """Does what is due again and again, and waits a moment."""
        if self._due("read", READ_EVERY_S):
            self.read(self.owner)
        if self._due("nice", NICE_EVERY_S):
            make_trainers_nice(self.peers)
        self.shown(self)
        time.sleep(TICK_S)

    def read(self, node: DevNode) -> None:
        """Reads what is new in a node's ledger."""
        self.papers.read(node.name, node.data_dir / "runs" / self.run.id / "ledger", self._open_record)

    @property
    def _open_record(self) -> OpenRecord:
        ring = load_keyring(self.owner.data_dir / "runs" / self.run.id)
        return opener_of(self.run.id, ring, private=self.run.record.private)

    def _due(self, what: str, every_s: float) -> bool:
        if self.now_s < self._next.get(what, 0.0):
            return False
        self._next[what] = self.now_s + every_s
        return True


@contextmanager
def opened_swarm(
    root: Path,
    run: Envelope[RunSpec],
    wishes: SwarmWishes,
    say: SayLine,
    *,
    namespaces: bool,
    shown: ShowSwarm,
) -> Iterator[DevSwarm]:
    """Starts the nodes of a swarm that trains the run in `root/run`; whatever happens, all of them are gone
    afterwards, and so are the namespaces.
    """
    cleaned = kill_orphans(), sweep_spaces()
    if any(cleaned):
        say(f"cleared what an earlier dev-swarm left: {cleaned[0]} processes, {cleaned[1]} namespaces")
    swarm = DevSwarm(root, run, wishes, say, shown)
    with ExitStack() as stack:
        switch = Switch() if namespaces else None
        stack.enter_context(_warden(swarm.mark, switch.mark if switch is not None else ""))
        stack.callback(kill_marked, swarm.mark)
        if switch is not None:
            stack.callback(switch.close)
            switch.open()
            swarm.switch = switch
        _start(swarm, stack)
        yield swarm


@contextmanager
def _warden(mark: str, spaces: str) -> Iterator[None]:
    """Keeps a process that cleans up when this one is killed."""
    command = [sys.executable, "-m", "paris_p2p.dev_swarm.warden", mark, spaces]
    warden = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        if warden.stdin is not None:
            warden.stdin.close()
        warden.wait()


def _start(swarm: DevSwarm, stack: ExitStack) -> None:
    root, addresses, invite = swarm.root, swarm.root / "bootstrap.addr", swarm.root / "invite.txt"
    serve = ("paris_p2p.cli.bootstrap", "serve", "--port", "0", "--address-file", str(addresses))
    bootstrap = swarm.add(stack, "bootstrap", *serve)
    lines = _file_of(bootstrap, addresses).splitlines()
    wanted = bootstrap.space.address if bootstrap.space is not None else "127.0.0.1"
    address = next((line for line in lines if "/tcp/" in line and wanted in line), "")
    if not address:
        raise ParisError(f"the bootstrap node listens at {', '.join(lines)[:300]}, not at {wanted}")
    publish = ("paris_p2p.cli.run", "publish", str(root / "run"), "--peer", address)
    more = ("--invite-file", str(invite), "--invite-uses", str(INVITE_USES))
    swarm.owner = swarm.add(stack, OWNER, *publish, *more, data_dir=root / "run" / "node")
    _file_of(swarm.owner, invite)
    slow = slow_peers(swarm.wishes)
    for number in range(swarm.wishes.peers):
        start = ("paris_p2p.cli.peer", "start", f"@{invite}", "--yes", "--threads", "1", "--device", "cpu")
        peer = swarm.add(stack, f"peer-{number + 1}", *start)
        swarm.peers.append(peer)
        if number in slow:
            stack.callback(Slowness(peer).close)
            swarm.say(f"{peer.name} is slow all the time")
        swarm.wait(START_PAUSE_S)


def _file_of(node: DevNode, path: Path, patience_s: float = 120.0) -> str:
    """Returns the file that a node writes when it is there; ParisError with its own words when it is not."""
    ends_s = time.monotonic() + patience_s
    while not (path.exists() and (text := path.read_text().strip())):
        if not node.running or time.monotonic() > ends_s:
            state = "ended" if not node.running else f"did not write {path} within {patience_s:.0f} s"
            raise ParisError(f"{node.name} {state}; it said:\n{node.last_lines()}")
        time.sleep(0.1)
    return text


def run_dev_swarm(swarm: DevSwarm) -> tuple[Witnessed, Outcome]:
    """Breaks an opened swarm, lets it recover, ends it and looks at what is left."""

    def has_tips() -> bool:
        return all(swarm.chronicle.tip(OWNER, slot) for slot in swarm.slots)

    if not swarm.until(has_tips, START_PATIENCE_S):
        there = [slot for slot in swarm.slots if swarm.chronicle.tip(OWNER, slot)]
        words = "\n\n".join(f"{node.name}:\n{node.last_lines(6)}" for node in (swarm.owner, *swarm.peers[:3]))
        raise ParisError(
            f"after {START_PATIENCE_S:.0f} s only {there or 'no slot'} has a tip; logs:\n{words}"
        )
    swarm.say(f"every slot has a tip after {swarm.now_s:.0f} s")
    quiet_s = _be_quiet(swarm)
    began_s = _break(swarm)
    ended_s = swarm.now_s
    swarm.phase = "recovering"
    stuck = _recover(swarm, ended_s)
    left_behind = [f"{words} of {peer.name}" for peer in swarm.peers for words in peer.left_behind()]
    over = swarm.chronicle.over(OWNER, time.time())
    swarm.phase = "checking"
    swarm.say("killing everything, and checking what the disks hold")
    for node in swarm.nodes:
        node.kill()
    for node in (swarm.owner, *swarm.peers):
        swarm.read(node)
    sightings = swarm.chronicle.copy()
    stores, words = _check_stores(swarm)
    seen = Witnessed(
        slots=swarm.slots,
        peers=tuple(peer.name for peer in swarm.peers),
        quorum=swarm.run.record.gate.quorum,
        chronicle=swarm.chronicle,
        papers=swarm.papers,
        struck=[with_slot(one, sightings) for one in swarm.struck],
        began_s=began_s,
        quiet_s=quiet_s,
        ended_s=ended_s,
        stuck=stuck,
        over=over,
        stores=stores,
        stores_words=words,
        left_behind=left_behind,
        faults=_faults(swarm.root / "logs"),
    )
    return seen, outcome_of(seen)


def _be_quiet(swarm: DevSwarm) -> float:
    """Lets the swarm train undisturbed; returns for how long."""
    if not swarm.wishes.quiet_s:
        return 0.0
    swarm.phase, began_s = "quiet", swarm.now_s
    swarm.say(f"{swarm.wishes.quiet_s / 60:.3g} quiet minutes begin, to compare with")
    swarm.wait(swarm.wishes.quiet_s)
    return swarm.now_s - began_s


def _break(swarm: DevSwarm) -> float:
    """Carries out the plan; returns when the troubles began."""
    troubles: list[Trouble] = list(trouble_plan(swarm.wishes))
    swarm.phase, swarm.troubled_s = "troubles", swarm.now_s
    began_s, strokes = swarm.now_s, Strokes(swarm)
    swarm.say(f"{len(troubles)} troubles in {swarm.wishes.length_s / 60:.3g} min begin")
    while swarm.now_s - began_s < swarm.wishes.length_s:
        while troubles and swarm.now_s - began_s >= troubles[0].at_s:
            strokes.begin(troubles.pop(0), began_s)
        strokes.end_due(swarm.now_s)
        swarm.tick()
    strokes.end_due(float("inf"))
    return began_s


def _recover(swarm: DevSwarm, since_s: float) -> dict[str, str]:
    """Waits until every peer has caught up and every slot has a new tip; returns who has not, and why."""
    timing = swarm.run.record.timing
    patience_s = RECOVERY_CLAIMS * timing.claim_s + RECOVERY_CHECKPOINTS * timing.checkpoint_s + RECOVERY_S
    goals = {slot: tip for slot in swarm.slots if (tip := swarm.chronicle.tip(OWNER, slot)) is not None}

    def stuck() -> dict[str, str]:
        found = {peer.name: caught_up(swarm.chronicle, peer.name, goals, since_s) for peer in swarm.peers}
        return {peer: why for peer, why in found.items() if why}

    def recovered() -> bool:
        over = swarm.chronicle.over(OWNER, time.time())
        return not stuck() and not idle_slots(swarm.chronicle, swarm.slots, since_s, over)

    if swarm.until(recovered, patience_s):
        swarm.say(f"everybody has caught up {swarm.now_s - since_s:.0f} s after the last trouble")
    return stuck()


def _check_stores(swarm: DevSwarm) -> tuple[dict[str, str], str]:
    """Returns what is damaged in each node's folder, and in words how much was hashed."""
    found: dict[str, str] = {}
    blobs = hashed_bytes = records = 0
    for node in swarm.nodes:
        report = check_home(node.data_dir)
        blobs += report.states["right"]
        hashed_bytes += report.hashed_bytes
        records += report.records
        wrong = [
            *(f"blob {one.path.name[:16]}…: {one.words}" for one in (*report.blobs, *report.unsealed)),
            *(f"{one.key}: {one.words}" for one in report.ledger),
            *report.specs.values(),
        ]
        found[node.name] = "; ".join(wrong[:4])
    words = (
        f"{blobs} blobs of {len(found)} nodes hashed again ({hashed_bytes / 1e6:.0f} MB), {records} records"
    )
    return found, words


def _faults(logs: Path) -> list[str]:
    """Returns the last lines of what looks like a fault of the program in the nodes' logs."""
    return [
        f"{file.stem}: {match[1][:160]}"
        for file in sorted(logs.iterdir())
        for match in _FAULT.finditer(file.read_text(errors="replace"))
    ]
