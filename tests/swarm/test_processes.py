"""One small swarm of real processes on loopback, shared by all tests here: what is killed, paused or told to
leave does so well.

Each test brings the swarm into the state it needs, so that each may be run alone too. The last ones use nodes
up.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from examples.demo.processes import BIN, Node
from examples.demo.swarm import Swarm
from tests.dashboard.canned import browser, needs_browser, value_at, wait_until
from tests.made.made_prepared import make_run

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(400)]
PATIENCE_S = 180.0  # guards against hanging; a machine of two busy cores takes half a minute to load torch
SLOTS = ("expert-0", "router")
TRAINER = "paris_p2p.training.trainer"
T = TypeVar("T")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Bootstrap node, owner and two volunteers, one for each slot, until every slot has a tip."""
    root = tmp_path_factory.mktemp("swarm")
    make_run(root / "run", compact=True)  # as `paris-run create` makes them
    swarm = Swarm(root, peers=2)
    try:
        swarm.open(root / "run")
        until("a tip of every slot", lambda: all(tip(swarm, slot) > (0, 0) for slot in SLOTS), swarm)
        yield swarm
    finally:
        for node in nodes(swarm):
            node.kill()


def nodes(swarm: Swarm) -> list[Node]:
    fixed = [
        node
        for node in (getattr(swarm, "bootstrap", None), getattr(swarm, "owner", None))
        if node is not None
    ]
    return [*fixed, *swarm.volunteers]


def until(what: str, look: Callable[[], T], swarm: Swarm) -> T:
    """The first true answer; the nodes' own words when there is none."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        if time.monotonic() > deadline:
            words = "\n\n".join(f"{node.name}:\n{node.last_lines()}" for node in nodes(swarm))
            pytest.fail(f"waited {PATIENCE_S:.0f} s for {what}\n{words}")
        time.sleep(0.2)  # the nodes are other processes: there is nothing to await
    return found


def seen(swarm: Swarm, slot: str) -> dict[str, Any]:
    """A slot as the owner's node sees it."""
    swarm.owner.status()
    return swarm.slot(slot)


def tip(swarm: Swarm, slot: str) -> tuple[int, int]:
    found = seen(swarm, slot)
    return found.get("tip_epoch", 0), found.get("tip_seq", 0)


def child(node: Node, word: str) -> psutil.Process | None:
    """The live process below a node whose command line has `word`."""
    assert node.process is not None
    for process in psutil.Process(node.process.pid).children(recursive=True):
        try:
            if word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def lead(swarm: Swarm, slot: str) -> Node:
    """The volunteer that has made steps in a slot; peers that pause are resumed first."""

    def look() -> Node | None:
        for node in swarm.volunteers:
            status = node.status() or {}
            if status.get("phase") == "paused":
                node.ask("resume")
            training = status.get("training")
            if training and training["slot"] == slot and training["loss"] is not None:
                return node
        return None

    return until(f"a lead of {slot}", look, swarm)


def started_from(node: Node) -> list[int]:
    """The steps from which the node's trainers went on, in order."""
    return [int(step) for step in re.findall(r"training \S+ on cpu from step (\d+)", node.log.read_text())]


def command(*arguments: str) -> str:
    done = subprocess.run(
        [str(BIN / arguments[0]), *arguments[1:]],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killing_the_trainer_alone_costs_only_steps_since_the_last_checkpoint(swarm: Swarm) -> None:
    node = lead(swarm, "expert-0")
    trainer, before, steps = child(node, TRAINER), started_from(node), seen(swarm, "expert-0")["steps"]
    assert trainer is not None
    trainer.kill()
    went_on = until("another trainer", lambda: started_from(node)[len(before) :], swarm)
    assert went_on[0] >= steps > 0
    assert node.running


def test_killing_p2pd_alone_is_mended_and_the_peer_serves_again(swarm: Swarm) -> None:
    node = lead(swarm, "router")
    daemon, restarts = child(node, "p2pd"), (node.status() or {})["daemon_restarts"]
    assert daemon is not None
    daemon.kill()
    until("another p2pd", lambda: (node.status() or {}).get("daemon_restarts") == restarts + 1, swarm)
    before = seen(swarm, "router")["steps"]
    mended_at = time.time()

    def newer() -> bool:
        """A checkpoint made after the mending was fetched from this node and found good."""
        slot = seen(swarm, "router")
        made_at = swarm.owner.last_status["at"] - (slot["tip_age_s"] or 0.0)
        return slot["steps"] > before and made_at > mended_at

    until("an attested checkpoint of the mended node", newer, swarm)


@needs_browser
def test_the_page_of_a_live_peer_says_what_the_peer_says_and_pauses_it(swarm: Swarm) -> None:
    node = lead(swarm, "expert-0")
    said = command("paris-peer", "dashboard", "--no-browser", "--data-dir", str(node.data_dir))
    with browser() as opened:
        page = opened.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.goto(re.search(r"http://127\.0\.0\.1:\d+/#\S+", said)[0])  # type: ignore[index]
        page.wait_for_selector("html[data-at]", state="attached")
        page.click("#pause")
        page.wait_for_selector("#phase[data-value='\"paused\"']")
        assert (node.status() or {})["phase"] == "paused"
        until("the page's figures to be the peer's own", lambda: _same_figures(page, node), swarm)
        page.click("#resume")
        wait_until(page, "document.getElementById('phase').dataset.value !== '\"paused\"'")


def _same_figures(page: Any, node: Node) -> bool:
    """Tells whether all that the page says of the slots, and of this peer, is what the peer says."""
    shown = page.evaluate(
        "[...document.querySelectorAll('[data-figure]')].map(e => [e.dataset.figure, e.dataset.value])"
    )
    look = {"status": node.status() or {}}
    moving = ("tip_age_s", "bytes", "bytes_per_s")
    steady = [pair for pair in shown if pair[0].startswith("status.") and not pair[0].endswith(moving)]
    return len(steady) > 30 and all(value_at(look, path) == json.loads(value) for path, value in steady)


def test_pause_releases_the_claim_and_frees_the_memory(swarm: Swarm) -> None:
    node = lead(swarm, "expert-0")
    trainer = child(node, TRAINER)
    assert trainer is not None
    used = (node.status() or {})["memory_bytes"]
    command("paris-peer", "pause", "--data-dir", str(node.data_dir))
    assert not trainer.is_running()
    status = node.status() or {}
    assert status["training"] is None
    assert status["memory_bytes"] < used
    until("the claim's release", lambda: seen(swarm, "expert-0")["lead"] == "", swarm)


def test_a_newcomer_fetches_and_generates_offline(swarm: Swarm, tmp_path: Path) -> None:
    """While every volunteer pauses: they seed, and leave the processors to the newcomer."""
    for node in swarm.volunteers:
        node.ask("pause")
    invite, data = f"@{swarm.root / 'invite.txt'}", ("--data-dir", str(tmp_path / "newcomer"))
    fetched = command("paris-peer", "fetch", invite, *data)
    assert "expert-0" in fetched
    assert "router" in fetched
    clip = tmp_path / "clip.mp4"
    used = command(
        "paris-peer",
        "generate",
        "a red ball",
        invite,
        "--offline",
        "--steps",
        "2",
        "--out",
        str(clip),
        "--threads",
        "1",
        *data,
    )
    assert b"ftyp" in clip.read_bytes()[:16]
    assert "expert" in used


def test_resume_goes_on_from_the_checkpoint_of_the_pause(swarm: Swarm) -> None:
    node = swarm.volunteers[0]
    if (node.status() or {})["phase"] != "paused":
        node.ask("pause")
    before = started_from(node)
    command("paris-peer", "resume", "--data-dir", str(node.data_dir))
    went_on = until("training after the pause", lambda: started_from(node)[len(before) :], swarm)
    assert went_on[0] > 0


def test_a_closed_terminal_publishes_releases_and_leaves_as_ctrl_c_does(swarm: Swarm) -> None:
    node = lead(swarm, "expert-0")
    assert node.process is not None
    steps = (node.status() or {})["training"]["steps"]
    node.process.send_signal(signal.SIGHUP)
    node.process.send_signal(signal.SIGHUP)  # from the shell, and from the kernel
    assert node.process.wait(PATIENCE_S) == 0, node.last_lines()
    after = until("the release", lambda: (slot := seen(swarm, "expert-0"))["lead"] == "" and slot, swarm)
    assert after["steps"] >= steps
    assert "Traceback" not in node.log.read_text()


def test_killing_the_node_alone_takes_its_trainer_and_p2pd_with_it(swarm: Swarm) -> None:
    node = lead(swarm, "router")
    assert node.process is not None
    below = psutil.Process(node.process.pid).children(recursive=True)
    words = " ".join(word for process in below for word in process.cmdline())
    assert TRAINER in words
    assert "p2pd" in words
    node.kill()
    _, alive = psutil.wait_procs(below, timeout=5.0)
    assert alive == []


def test_stop_ends_the_owner_and_sigterm_the_bootstrap_node(swarm: Swarm) -> None:
    assert swarm.owner.process is not None
    assert swarm.bootstrap.process is not None
    command("paris-peer", "stop", "--data-dir", str(swarm.owner.data_dir))
    assert swarm.owner.process.wait(PATIENCE_S) == 0
    swarm.bootstrap.process.send_signal(signal.SIGTERM)
    assert swarm.bootstrap.process.wait(PATIENCE_S) == 0
    for node in (swarm.owner, swarm.bootstrap):
        assert "Traceback" not in node.log.read_text()
