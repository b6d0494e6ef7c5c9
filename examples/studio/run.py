"""Plays a studio's weekend on this machine: a private run, and an observer who finds nothing of it.

    five machines behind one office router, a friend's storage node outside, all in network namespaces
    clips -> paris-run prepare, create --private, publish; the friend stores, the machines join by token
    Friday:   everybody trains; a pause over dinner; one machine's cable is pulled, its slot goes on elsewhere
    Saturday: one machine is revoked, and a slot gets a tip after that
    Monday:   the four that remain generate; the revoked one can fetch nothing that came since
    the observer has all packets of every link, the friend's disk and the memory of the friend's node, and
    looks for the run's name, captions, latents, weights, losses and slots, byte by byte, plain and encoded

    scripts/studio                    # about ten minutes; needs root, iproute2 and iptables
    scripts/studio --out weekend

The exit status is 1 when anything of that did not come out so.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.demo.processes import run_command, wait_for_file
from examples.little_internet import LittleInternet, Machine, NodeAt, Office, little_internet, why_not
from examples.studio.data import EXPERTS, make_run
from examples.studio.observer import Observer, Verdict
from paris_p2p.preparation.create import load_run

console = Console(highlight=False)
MACHINES = 5  # the owner's, and four that train
PORT = 31337
PATIENCE_S = 240.0
PROMPT = "Corridors with many textures, walking down a passage in a labyrinth"
SLOTS = (*(f"expert-{k}" for k in range(EXPERTS)), "router")


@dataclass
class Weekend:
    """Holds the office, the friend's node, and what has happened so far."""

    net: LittleInternet
    root: Path
    nodes: list[NodeAt] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    revoked_at_s: float = 0.0  # Unix time

    @property
    def folder(self) -> Path:
        return self.root / "run"

    def open(self) -> None:
        """Lays the cables, starts everybody, and returns when all have joined."""
        self.office: Office = self.net.add_office("office", MACHINES)
        self.friend: Machine = self.net.add_machine("friend")
        self.observer = Observer(self.root / "observed", self.folder)
        self.observer.listen(self.office, self.friend)
        address = self._start_friend()
        self.observer.note_idle(self.storage)
        self.owner = self._start(
            self.office.machines[0],
            "owner",
            *("paris-run", "publish", str(self.folder), "--peer", address, "--port", str(PORT)),
            *("--invite-file", str(self.root / "first-invite")),
            data_dir=self.folder / "node",
        )
        wait_for_file(self.root / "first-invite", self.owner)
        stores, trains = self.root / "store-invite", self.root / "train-invite"
        self.own("invite", "--for", "store", "--uses", "1", "--until", "7d", "--out", str(stores))
        self.own(
            "invite", "--for", "train,attest,generate", "--uses", "4", "--until", "3d", "--out", str(trains)
        )
        self.storage.stop()
        self._start_friend("--admit", f"@{stores}")
        self.peers = [
            self._start(
                machine,
                f"machine-{number}",
                *(
                    "paris-peer",
                    "start",
                    f"@{trains}",
                    "--yes",
                    "--threads",
                    "1",
                    "--name",
                    f"machine {number}",
                ),
                *("--port", str(PORT), "--announce", f"/ip4/{machine.address}/tcp/{PORT}"),
            )
            for number, machine in enumerate(self.office.machines[1:], 1)
        ]
        self.trains = trains

    def _start_friend(self, *more: str) -> str:
        addresses = self.root / "friend-addresses"
        addresses.unlink(missing_ok=True)
        serve = ("paris-bootstrap", "serve", "--port", str(PORT), "--address-file", str(addresses), *more)
        self.storage = self._start(self.friend, "friend", *serve)
        lines = wait_for_file(addresses, self.storage).splitlines()
        return next(line for line in lines if self.friend.address in line and "/tcp/" in line)

    def _start(self, machine: Machine, name: str, *command: str, data_dir: Path | None = None) -> NodeAt:
        self.nodes.append(NodeAt.started(machine, name, self.root, *command, data_dir=data_dir))
        return self.nodes[-1]

    def own(self, verb: str, *arguments: str) -> None:
        """Runs a command of the owner's, on the owner's machine."""
        self.at(self.office.machines[0], "paris-run", verb, str(self.folder), *arguments)

    def at(self, machine: Machine, program: str, *arguments: str) -> None:
        """Runs one of our commands on a machine, to its end; SystemExit with its words when it fails."""
        run_command(program, *arguments, log=self.root / "logs" / "commands.log", prefix=machine.prefix)

    # looking

    def status(self, node: NodeAt | None = None) -> dict[str, Any]:
        return (node or self.owner).status() or {}

    def leads(self) -> dict[int, str]:
        """Returns which of the peers lead which slot, as they say themselves."""
        states = {number: self.status(peer) for number, peer in enumerate(self.peers) if peer.running}
        return {
            number: state["training"]["slot"] for number, state in states.items() if state.get("training")
        }

    def peer_id(self, number: int) -> str:
        return str((self.status(self.peers[number]) or self.peers[number].last_status)["peer_id"])

    def slot(self, name: str) -> dict[str, Any]:
        return next((slot for slot in self.status().get("slots", ()) if slot["slot"] == name), {})

    def until(self, what: str, look: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        """Returns once `look` is true; SystemExit with everybody's words when that takes too long."""
        began_s = time.monotonic()
        while not look():
            if time.monotonic() - began_s > patience_s:
                words = "\n\n".join(f"{node.name}:\n{node.last_lines(25)}" for node in self.nodes)
                raise SystemExit(f"waited {patience_s:.0f} s for {what}\n{words}")
            time.sleep(0.5)
        console.print(f"  {what}: {time.monotonic() - began_s:.0f} s")

    def check(self, what: str, holds: bool) -> None:
        console.print(f"  {'yes' if holds else 'NO '} {what}")
        if not holds:
            self.failures.append(what)


def friday(weekend: Weekend) -> None:
    """Everybody trains; then a pause, and a cable that somebody fell over."""
    console.rule("Friday")
    weekend.until("every slot has a tip", lambda: all(weekend.slot(slot).get("tip") for slot in SLOTS))
    weekend.until(
        "the friend holds blobs of the run", lambda: any(weekend.storage.data_dir.glob("blobs/*/*.data"))
    )
    weekend.own("say", "pause", "--reason", "dinner")
    weekend.until("everybody rests", lambda: not weekend.leads())
    weekend.own("say", "resume")
    weekend.until("somebody trains again", lambda: bool(weekend.leads()))
    cut, slot = next(iter(weekend.leads().items()))
    weekend.office.plug(cut + 1, "down")
    weekend.until(
        f"{slot} goes on on another machine",
        lambda: any(other != cut and led == slot for other, led in weekend.leads().items()),
    )
    weekend.office.plug(cut + 1, "up")


def saturday(weekend: Weekend) -> int:
    """One machine is revoked; returns which, once every slot it might have led got a tip without it."""
    console.rule("Saturday")
    weekend.until("somebody trains", lambda: bool(weekend.leads()))
    revoked, _ = next(iter(weekend.leads().items()))
    weekend.own("say", "revoke", weekend.peer_id(revoked))
    weekend.revoked_at_s = time.time()
    weekend.until(
        "every slot has a tip made since",
        lambda: all(
            time.time() - (weekend.slot(slot).get("tip_age_s") or 1e9) > weekend.revoked_at_s
            for slot in SLOTS
        ),
    )
    return revoked


def monday(weekend: Weekend, revoked: int) -> None:
    """The four that remain generate; the revoked one gets nothing that came since."""
    console.rule("Monday")
    rest = [(number, peer) for number, peer in enumerate(weekend.peers) if number != revoked]
    places = [("owner", weekend.office.machines[0], weekend.root / "owner-generates")]
    places += [(peer.name, weekend.office.machines[number + 1], peer.data_dir) for number, peer in rest]
    for name, machine, home in places:
        out = weekend.root / f"{name}.mp4"
        invite = weekend.root / "first-invite" if name == "owner" else weekend.trains
        weekend.at(
            machine, "paris-peer", "generate", PROMPT, f"@{invite}", "--out", str(out),
            "--data-dir", str(home), "--steps", "8",
        )  # fmt: skip
        weekend.check(f"{name} made a video of {out.stat().st_size} bytes", out.stat().st_size > 500)
    weekend.peers[revoked].stop()
    outcast = weekend.peers[revoked].data_dir
    machine = weekend.office.machines[revoked + 1]
    try:
        weekend.at(machine, "paris-peer", "fetch", f"@{weekend.trains}", "--data-dir", str(outcast))
    except SystemExit as refused:
        console.print(f"  the revoked machine was told: {str(refused).splitlines()[-1]}")
    else:
        weekend.failures.append("the revoked machine could fetch the run")
    made = weekend.owner.data_dir.glob("blobs/*/*.data")
    since = {file.name for file in made if file.stat().st_mtime > weekend.revoked_at_s}
    there = {file.name for file in outcast.rglob("*.data")}
    weekend.check(f"{len(since)} blobs came since", bool(since))
    weekend.check("the revoked machine has none of them", not there & since)


def observe(weekend: Weekend) -> Verdict:
    """Lets the observer search; its search is tested on the run's own folder first."""
    console.rule("The observer")
    model, home = weekend.root / "model", weekend.root / "owner-generates"
    export = ("export", f"@{weekend.root / 'first-invite'}", "--out", str(model), "--data-dir", str(home))
    weekend.at(weekend.office.machines[0], "paris-run", *export, "--offline")
    weights = sorted(model.rglob("*.safetensors"))
    losses = [
        slot[name] for slot in weekend.status()["slots"] for name in ("loss", "card_loss") if slot.get(name)
    ]
    spec = load_run(weekend.folder).record
    blind = weekend.observer.blind_spots(spec, weights, losses)
    weekend.check(
        f"the search finds captions, latents and weights where they are in clear {dict(blind)}", not blind
    )
    verdict = weekend.observer.look(weekend.storage, spec, weights, losses)
    for place, size_bytes in verdict.searched.items():
        console.print(f"  {place}: {size_bytes / 1e6:.1f} MB, found {verdict.found[place] or 'nothing'}")
    console.print(f"  passed over, since it stands in the program itself: {verdict.passed_over}")
    console.print(f"  packets that the kernel dropped before they were captured: {verdict.dropped_packets}")
    weekend.failures += verdict.leaks
    return verdict


def main() -> int:
    """Plays the weekend; returns 1 when something did not come out as it must."""
    parser = argparse.ArgumentParser(description="Play a studio's weekend with an observer.")
    parser.add_argument("--out", type=Path, default=Path("studio-out"), help="everything goes here")
    root: Path = parser.parse_args().out.resolve()
    if reason := why_not():
        raise SystemExit(f"the studio's network cannot be made here: {reason}")
    shutil.rmtree(root, ignore_errors=True)
    began_s = time.monotonic()
    console.rule("Before the weekend")
    make_run(root)
    with little_internet() as net:
        weekend = Weekend(net, root)
        try:
            weekend.open()
            friday(weekend)
            monday(weekend, saturday(weekend))
            observe(weekend)
        finally:
            for node in weekend.nodes:
                node.stop(10.0)
    console.print(f"the weekend took {time.monotonic() - began_s:.0f} s")
    for failure in weekend.failures:
        console.print(f"NOT so: {failure}")
    return bool(weekend.failures)


if __name__ == "__main__":
    sys.exit(main())
