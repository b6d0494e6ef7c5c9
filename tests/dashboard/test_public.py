"""What everybody sees of a bootstrap node: its open runs, and nothing else; and nobody can press anything."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from paris_p2p.bootstrap.operator_status import HeldRun, OperatorStatus
from paris_p2p.bootstrap.public_status import public_page, public_status
from paris_p2p.node.node_figures import PeerStatus
from tests.dashboard.canned import HOSTILE, STEERING, browser, needs_browser, slot, value_at

OPERATED = OperatorStatus(
    at=1.7e9,
    peer_id="12D3KooWNode",
    version="0.2.0",
    addresses=("/ip4/192.0.2.7/tcp/31337/p2p/12D3KooWNode",),
    runs=(
        HeldRun(run="ab" * 32, name="balls " + HOSTILE + STEERING, owner="12D3KooWOwner", named=True, tips=2)
        .model_copy(update={"slots": (slot("expert-0"), slot("router"))}),
        HeldRun(run="cd" * 32, name="brought", owner="12D3KooWOther", named=False, tips=1, paused=True),
    ),
    private_runs=3,
    peers=(PeerStatus(peer_id="12D3KooWSecretPeer", path="direct"),),
    uploaded_bytes=123,
    memory_bytes=987654321,
    disk_bytes=456789,
    refused_by_network={"stale": 7},
)  # fmt: skip
HIDDEN = ("12D3KooWSecretPeer", "987654321", "456789", "private", "stale")


def test_the_public_status_holds_open_runs_and_counts_peers() -> None:
    told = public_status(OPERATED)
    assert [run.name for run in told.runs] == [run.name for run in OPERATED.runs]
    assert told.peer_count == 1
    assert told.peers == ()
    assert told.memory_bytes == 0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serves the page from a thread, so that a browser's own loop may run beside it."""
    said, opened, stop = list[str](), threading.Event(), list[Callable[[], object]]()

    async def status() -> OperatorStatus:
        return OPERATED

    async def life() -> None:
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        async with public_page("127.0.0.1:0", status, said.append):
            opened.set()
            await stopped.wait()

    thread = threading.Thread(target=asyncio.run, args=(life(),))
    thread.start()
    assert opened.wait(60)
    yield re.findall(r"http://\S+", said[0])[0]
    stop[0]()
    thread.join(60)


def first_look(url: str) -> dict[str, Any]:
    with httpx.stream("GET", f"{url}live", timeout=60, trust_env=False) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                look: dict[str, Any] = json.loads(line.removeprefix("data: "))
                return look
    raise AssertionError("no look came")


def test_what_is_sent_holds_nothing_of_the_machine_its_peers_or_private_runs(url: str) -> None:
    sent = json.dumps(first_look(url))
    assert "brought" in sent
    assert not [word for word in HIDDEN if word in sent]


@pytest.mark.parametrize("path", ["pause", "stop", "link", "session", "ask/set"])
def test_nobody_can_tell_the_node_anything(url: str, path: str) -> None:
    assert httpx.post(url + path, json={"code": "x"}, timeout=60, trust_env=False).status_code in (404, 405)


def test_no_address_serves_nothing() -> None:
    async def life() -> list[str]:
        said = list[str]()
        async with public_page("", _never, said.append):
            return said

    assert asyncio.run(life()) == []


async def _never() -> OperatorStatus:
    raise AssertionError("nobody looks")


@needs_browser
@pytest.mark.timeout(240)
def test_a_browser_sees_runs_and_no_button(url: str, tmp_path: Path) -> None:
    with browser() as opened:
        page = opened.new_page()
        page.set_default_timeout(120_000)
        page.goto(url)
        page.wait_for_selector("html[data-at]", state="attached")
        shown = page.evaluate(
            "[...document.querySelectorAll('[data-figure]')].map(e => [e.dataset.figure, e.dataset.value])"
        )
        look = first_look(url)
        assert len(shown) > 20
        for path, value in shown:
            assert value_at(look, path) == json.loads(value), path
        assert page.evaluate("document.body.dataset.run") is None
        assert not page.is_visible("#buttons")
        assert not page.is_visible("#limits")
        assert "paused" in page.inner_text("#runs")
