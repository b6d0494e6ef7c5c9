"""Volunteers at home, each behind a NAT of its own: nobody can dial them, and the swarm trains, attests and
seeds all the same.

Real processes in network namespaces. Only the owner's node attests here, so whatever became a tip was fetched
by the owner from its maker. Each test brings the swarm into the state it needs; the last one uses it up.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from examples.demo.processes import BIN, wait_for_file
from examples.little_internet import Home, LittleInternet, Machine, NodeAt, little_internet, why_not
from paris_p2p.node.board import Board
from paris_p2p.preparation.create import load_run
from paris_p2p.records import CardRecord
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.ledger import Ledger
from tests.made.made_prepared import TIMING, make_run

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(400)]
PATIENCE_S = 150.0  # guards against hanging; a machine of two busy cores takes half a minute to load torch
OUTAGE_S = TIMING.claim_s + 2 * TIMING.margin_s  # the claim runs out meanwhile
PORT = 31337
SLOTS = ("expert-0", "router")
T = TypeVar("T")


@dataclass
class Homes:
    """Bootstrap node and owner in public, and two homes whose volunteers lead a slot each."""

    net: LittleInternet
    root: Path
    nodes: list[NodeAt] = field(default_factory=list)

    def open(self) -> None:
        self.public, self.office = self.net.add_machine("public"), self.net.add_machine("office")
        self.homes = [self.net.add_home("home-a"), self.net.add_home("home-b")]
        self.invite, addresses = self.root / "invite", self.root / "addresses"
        make_run(self.root / "run", members_attest=False)
        serve = ("paris-bootstrap", "serve", "--port", str(PORT), "--address-file", str(addresses))
        self.bootstrap = self.start(self.public, "bootstrap", *serve)
        address = next(
            line for line in wait_for_file(addresses, self.bootstrap).splitlines() if "/tcp/" in line
        )
        publish = (
            "paris-run",
            "publish",
            str(self.root / "run"),
            "--peer",
            address,
            "--invite-file",
            str(self.invite),
        )
        self.owner = self.start(self.office, "owner", *publish, data_dir=self.root / "run" / "node")
        wait_for_file(self.invite, self.owner)
        join = (
            "paris-peer",
            "start",
            f"@{self.invite}",
            "--yes",
            "--threads",
            "1",
            "--port",
            str(PORT),
            "--relay",
            address,
        )
        self.volunteers = [
            self.start(home, f"volunteer-of-{slot}", *join, "--slot", slot)
            for home, slot in zip(self.homes, SLOTS, strict=True)
        ]

    def start(self, machine: Machine, name: str, *command: str, data_dir: Path | None = None) -> NodeAt:
        self.nodes.append(NodeAt.started(machine, name, self.root, *command, data_dir=data_dir))
        return self.nodes[-1]

    def slot(self, name: str) -> dict[str, Any]:
        """As the owner's node sees it."""
        status = self.owner.status() or {}
        return next((slot for slot in status.get("slots", ()) if slot["slot"] == name), {})

    def tips(self) -> list[CardRecord]:
        """From the owner's disk, so that a node that was killed can be asked too."""
        run = load_run(self.root / "run")
        board = Board(run.id, run.record, Ledger(self.owner.data_dir / "runs" / run.id / "ledger"))
        return [tip.card.record for slot in SLOTS if (tip := board.tip(slot)) is not None]

    def until(self, what: str, look: Callable[[], T]) -> T:
        """The first true answer; the nodes' own words when there is none."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := look()):
            if time.monotonic() > deadline:
                words = "\n\n".join(f"{node.name}:\n{node.last_lines()}" for node in self.nodes)
                pytest.fail(f"waited {PATIENCE_S:.0f} s for {what}\n{words}")
            time.sleep(0.5)  # the nodes are other processes: there is nothing to await
        return found


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homes]:
    if reason := why_not():
        pytest.skip(reason)
    with little_internet() as net:
        homes = Homes(net, tmp_path_factory.mktemp("homes"))
        try:
            homes.open()
            homes.until("a tip of every slot", lambda: all(homes.slot(slot).get("tip") for slot in SLOTS))
            yield homes
        finally:
            for node in homes.nodes:
                node.kill()


def can_dial(machine: Machine, address: str) -> bool:
    connect = ["timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{PORT}"]
    return subprocess.run([*machine.prefix, *connect], capture_output=True, check=False).returncode == 0


def peer_id(node: NodeAt) -> str:
    return str((node.status() or node.last_status)["peer_id"])


def paths(node: NodeAt) -> dict[str, str]:
    return {peer["peer_id"]: peer["path"] for peer in (node.status() or {}).get("peers", ())}


def test_cards_made_behind_two_nats_are_attested_by_an_owner_who_can_dial_neither(homes: Homes) -> None:
    assert can_dial(homes.office, homes.public.address)
    assert not any(can_dial(homes.office, home.address) for home in homes.homes)
    makers = [
        homes.until(f"the lead of {slot}", lambda slot=slot: homes.slot(slot)["lead"]) for slot in SLOTS
    ]
    assert makers == [peer_id(volunteer) for volunteer in homes.volunteers]
    status = homes.owner.status() or {}
    assert status["attested"] >= len(SLOTS)
    assert all(slot["attestations"] == 1 for slot in status["slots"])


def test_status_tells_a_direct_path_from_a_relayed_one(homes: Homes) -> None:
    """What was dialled is direct from both ends; from home to home there is only the way through the
    relay.
    """
    here, there = homes.volunteers
    owner = peer_id(homes.owner)
    homes.until("a path from home to home", lambda: peer_id(there) in paths(here))
    assert paths(here)[owner] == "direct"
    assert paths(homes.owner)[peer_id(here)] == "direct"
    assert paths(here)[peer_id(there)] == "relayed"


def test_a_home_whose_cable_was_pulled_comes_back_by_itself(homes: Homes) -> None:
    home, volunteer = homes.homes[0], homes.volunteers[0]
    homes.until("training", lambda: (volunteer.status() or {}).get("phase") == "training")
    pulled_at = time.time()
    home.plug("down")
    try:
        time.sleep(OUTAGE_S)
        assert volunteer.running
    finally:
        home.plug("up")
    homes.until("its claim", lambda: homes.slot("expert-0")["lead"] == peer_id(volunteer))
    # a card from before may still have waited for its attestation: the first tip to come need not be a new
    # one
    homes.until(
        "a tip made since",
        lambda: time.time() - homes.slot("expert-0").get("tip_age_s", math.inf) > pulled_at,
    )
    assert "training expert-0 on cpu from step 0" in volunteer.log.read_text()
    assert volunteer.log.read_text().count("training expert-0") == 1  # it never stopped


def test_a_newcomer_at_home_gets_a_checkpoint_whose_maker_nobody_can_reach(homes: Homes) -> None:
    """The owner is gone too: what was made behind one NAT reaches the other by the bootstrap node's copies
    alone.
    """
    for volunteer in homes.volunteers:
        volunteer.ask("pause")
    mirror = BlobStore(homes.bootstrap.data_dir / "blobs")

    def copied() -> bool:
        tips = homes.tips()
        return len(tips) == len(SLOTS) and all(
            mirror.has(tip.weights.id) and mirror.has(tip.resume.id) for tip in tips
        )

    homes.until("copies of the tips at the bootstrap node", copied)
    homes.homes[0].plug("down")
    for node in (homes.owner, homes.volunteers[1]):
        node.kill()
    home: Home = homes.homes[1]
    fetch = (str(BIN / "paris-peer"), "fetch", f"@{homes.invite}", "--data-dir", str(homes.root / "newcomer"))
    done = subprocess.run(
        [*home.prefix, *fetch], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr
    fetched = BlobStore(homes.root / "newcomer" / "generator" / "blobs")
    assert all(fetched.has(tip.weights.id) for tip in homes.tips())
