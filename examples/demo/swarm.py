"""Holds the demo's swarm: a bootstrap node, the owner and the peers; one lead is killed and replaced."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from examples.demo.processes import BIN, Node, wait_for_file

LOOPBACK = "127.0.0.1"


@dataclass
class HandOver:
    """Says when the lead was killed and what came after, in seconds since the SIGKILL."""

    slot: str = ""
    victim: str = ""  # name
    killed_at: float = 0.0
    epoch: int = 0
    steps_at_tip: int = 0  # what the swarm had
    steps_at_kill: int = 0  # what the lead had
    first_step_s: float | None = None
    successor: str = ""
    new_tip_s: float | None = None


@dataclass
class Swarm:
    """Holds all the nodes, what they last said, and the hand-over."""

    root: Path
    peers: int
    bootstrap: Node = field(init=False)
    owner: Node = field(init=False)
    volunteers: list[Node] = field(default_factory=list)
    invite: str = ""
    hand_over: HandOver = field(default_factory=HandOver)
    leads: dict[str, list[str]] = field(default_factory=dict)  # slot -> names in order
    moved_bytes: dict[str, int] = field(default_factory=dict)  # by node name

    def open(self, run_folder: Path) -> None:
        """Starts the bootstrap node, then the owner's, then the volunteers."""
        logs, addresses = self.root / "logs", self.root / "bootstrap.addr"
        data = self.root / "bootstrap"
        self.bootstrap = Node(
            "bootstrap",
            [
                *(str(BIN / "paris-bootstrap"), "serve", "--data-dir", str(data)),
                *("--host", LOOPBACK, "--port", "0", "--address-file", str(addresses)),
            ],
            data,
            logs / "bootstrap.log",
        ).start()
        address = next(
            line for line in wait_for_file(addresses, self.bootstrap).splitlines() if "/tcp/" in line
        )
        invite = self.root / "invite.txt"
        self.owner = Node(
            "owner",
            [
                str(BIN / "paris-run"),
                "publish",
                str(run_folder),
                "--peer",
                address,
                "--host",
                LOOPBACK,
                "--invite-file",
                str(invite),
            ],
            run_folder / "node",
            logs / "owner.log",
        ).start()
        self.invite = wait_for_file(invite, self.owner)
        for number in range(1, self.peers + 1):
            self.add_volunteer(f"peer-{number}", invite)

    def add_volunteer(
        self, name: str, invite: Path, *more: str, program: tuple[str, ...] = (str(BIN / "paris-peer"),)
    ) -> Node:
        """Starts one more peer; `more` are options of its, `program` is what runs it."""
        data = self.root / name
        command = [
            *program,
            "start",
            f"@{invite}",
            "--yes",
            "--data-dir",
            str(data),
            "--host",
            LOOPBACK,
            "--threads",
            "1",
            *more,
        ]
        self.volunteers.append(Node(name, command, data, self.root / "logs" / f"{name}.log").start())
        return self.volunteers[-1]

    def close(self) -> None:
        nodes = [
            *self.volunteers,
            *(node for node in (getattr(self, "owner", None), getattr(self, "bootstrap", None)) if node),
        ]
        for node in nodes:
            node.stop()

    # watching

    def poll(self) -> None:
        """Asks every node for its status once, and notes leads, hand-over and bytes."""
        for node in [self.owner, *self.volunteers]:
            status = node.status()
            if status is None:
                continue
            self.moved_bytes[node.name] = status["downloaded_bytes"]
            training = status.get("training")
            if training and training["steps"] >= 0 and training.get("device"):
                self._note_training(node, training)
        self._note_tip()

    def _note_training(self, node: Node, training: dict[str, Any]) -> None:
        names = self.leads.setdefault(training["slot"], [])
        if not names or names[-1] != node.name:
            names.append(node.name)
        over = self.hand_over
        stepped = training["slot"] == over.slot and node.name != over.victim and training["loss"] is not None
        if over.killed_at and over.first_step_s is None and stepped:
            over.first_step_s, over.successor = time.monotonic() - over.killed_at, node.name

    def _note_tip(self) -> None:
        over = self.hand_over
        if (
            over.killed_at
            and over.new_tip_s is None
            and self.slot(over.slot).get("tip_epoch", 0) > over.epoch
        ):
            over.new_tip_s = time.monotonic() - over.killed_at

    def slot(self, name: str) -> dict[str, Any]:
        """Returns a slot as the owner's node sees it."""
        return next((slot for slot in self.owner.last_status.get("slots", ()) if slot["slot"] == name), {})

    def slots(self) -> list[dict[str, Any]]:
        return list(self.owner.last_status.get("slots", ()))

    def lead_of(self, slot: str) -> Node | None:
        for node in self.volunteers:
            training = (node.last_status or {}).get("training") if node.running else None
            if training and training["slot"] == slot and training["loss"] is not None:
                return node
        return None

    def kill_lead(self, slot: str) -> None:
        """Sends SIGKILL to the lead's node and deletes its directory, as if the machine had burnt.

        Of a slot that is trained already, the last lead's: its tip must live on with the others.
        """
        victim, seen = self.lead_of(slot), self.slot(slot)
        training = victim.last_status["training"] if victim else {}
        if victim is None and not seen.get("lead") and self.leads.get(slot):
            victim = next(node for node in self.volunteers if node.name == self.leads[slot][-1])
        if victim is None:
            return
        victim.destroy()
        made = training.get("steps", seen["steps"])
        self.hand_over = HandOver(slot, victim.name, time.monotonic(), seen["tip_epoch"], seen["steps"], made)

    def trained(self, slot: str) -> int:
        """Returns the steps of the slot's tip."""
        return int(self.slot(slot).get("steps", 0)) if self.slot(slot).get("tip") else 0

    def finished(self, steps: int) -> bool:
        """Says whether every slot has a tip with its last step."""
        names = [slot["slot"] for slot in self.slots()]
        return bool(names) and all(self.trained(name) >= steps for name in names)

    def tips(self) -> bool:
        """Says whether there is something of every slot to generate with."""
        return bool(self.slots()) and all(slot["tip"] for slot in self.slots())

    def draw(self, title: str) -> RenderableType:
        """Draws the slots, the nodes and the hand-over, within 80 columns."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in DRAWN:
            table.add_column(name, no_wrap=True, justify="left" if name in ("slot", "led by") else "right")
        for slot in self.slots():
            table.add_row(*drawn(slot, self.lead_of(slot["slot"])))
        phases = "  ".join(
            f"{node.name}: {(node.last_status.get('phase') or 'starting') if node.running else 'gone'}"
            for node in [self.owner, *self.volunteers]
        )
        return Group(
            Text(title, style="bold"), table, Text(phases, style="dim"), Text(self._story(), style="yellow")
        )

    def _story(self) -> str:
        over = self.hand_over
        if not over.killed_at:
            return ""
        ago_s = time.monotonic() - over.killed_at
        killed = f"{over.victim} (lead of {over.slot}) was killed and its disk deleted {ago_s:.0f} s ago; "
        if over.first_step_s is not None:
            return killed + f"{over.successor} took its first step after {over.first_step_s:.0f} s"
        return killed + f"its successor goes on from step {over.steps_at_tip:,}"


DRAWN = ("slot", "led by", "step", "loss", "clips/s", "tip", "age", "at step", "gate", "signed")


def drawn(slot: dict[str, Any], lead: Node | None) -> list[str]:
    """Returns a slot's row of the live table."""
    training = lead.last_status["training"] if lead else {}
    loss = training.get("loss")
    return [
        slot["slot"],
        lead.name if lead else "–",
        f"{training['steps']:,}" if training else "–",
        "–" if loss is None else f"{loss:.3f}",
        f"{training['clips_per_s']:.0f}" if training else "–",
        f"e{slot['tip_epoch']}#{slot['tip_seq']}" if slot["tip"] else "none",
        f"{slot['tip_age_s']:.0f} s" if slot["tip"] else "–",
        f"{slot['steps']:,}" if slot["tip"] else "–",
        "–" if slot["loss"] is None else f"{slot['loss']:.4f}",
        str(slot["attestations"]),
    ]


def watch(swarm: Swarm, until: Callable[[], bool], show: Callable[[], None], period_s: float = 3.0) -> None:
    """Polls and shows until `until` says so."""
    while not until():
        started = time.monotonic()
        swarm.poll()
        show()
        time.sleep(max(0.1, period_s - (time.monotonic() - started)))
