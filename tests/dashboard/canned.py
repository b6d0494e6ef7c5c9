"""A node that says what a test wants it to say, and a browser that looks at its page."""

from __future__ import annotations

import asyncio
import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from paris_p2p.dashboard.codes import LoginCodes
from paris_p2p.dashboard.feed import Feed
from paris_p2p.dashboard.links import page_link
from paris_p2p.dashboard.pages import pages
from paris_p2p.errors import StoreError, UsageError
from paris_p2p.node.care_status import BudgetStatus, CareStatus, SensorStatus, SettingStatus
from paris_p2p.node.control import serve_control
from paris_p2p.node.governance import Governance, NoticeStatus
from paris_p2p.node.node_figures import PeerStatus
from paris_p2p.node.status import SlotStatus, Status, TrainingStatus
from paris_p2p.peer.changing import SetQuestion
from paris_p2p.peer.kept_changes import SetAnswer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")
HOSTILE = (
    "<script>document.body.dataset.run='1'</script><img src=x onerror=\"document.body.dataset.run='1'\">"
)
STEERING = "\x1b]0;owned\x07\x1b[31mred\u202e gnp.exe"
LEAD = "12D3KooWLead" + "a" * 40
ABOUT: dict[str, Any] = {
    "kind": "peer",
    "version": "0.2.0",
    "run": "cd" * 32,
    "name": "balls",
    "owner": "12D3KooWOwner",
    "purpose": HOSTILE,
    "data_licence": "CC-BY-4.0",
    "weights_licence": "Apache-2.0",
    "created_at": 1.7e9,
    "experts": 2,
    "expert": "tiny",
    "router": "tiny",
    "frames": 8,
    "height": 64,
    "width": 64,
    "fps": 8.0,
    "total_steps": 4000,
    "checkpoint_s": 60.0,
    "private": False,
    "data_dir": "/srv/paris",
}


def slot(name: str, **more: Any) -> SlotStatus:
    """Returns a slot with a tip."""
    fields: dict[str, Any] = {
        "lead": LEAD,
        "epoch": 3,
        "tip": "ab" * 32,
        "tip_epoch": 3,
        "tip_seq": 12,
        "tip_age_s": 61.5,
        "clips": 1234567,
        "steps": 1200,
        "loss": 0.45671,
        "attestations": 2,
        "pending": 1,
    }
    return SlotStatus(slot=name, **{**fields, **more})


STATUS = Status(
    at=1.7e9,
    run="cd" * 32,
    name="balls " + HOSTILE + STEERING,
    owner="12D3KooWOwner",
    peer_id="12D3KooWMe" + "b" * 40,
    role="peer",
    phase="training",
    why="expert-0 had no lead " + STEERING,
    slots=(slot("expert-0"), slot("expert-1", lead="", tip="", loss=None, news=HOSTILE), slot("router")),
    peers=tuple(
        PeerStatus(
            peer_id=f"12D3KooWPeer{place:040d}",
            path="relayed" if place else "direct",
            role="peer",
            version="0.2.0" if place else "",
            distance_s=0.0123 * place or None,
            bytes_per_s=1.5e6 * place or None,
        )
        for place in range(4)
    ),
    training=TrainingStatus(
        slot="expert-0", epoch=3, steps=1234, clips=9876, loss=0.4512, clips_per_s=31.25, device="cpu"
    ),
    refused_cards={HOSTILE: 3, "its loss is too high": 1},
    attested=41,
    uploaded_bytes=123_456_789,
    downloaded_bytes=23_456_789,
    upload_bytes_per_s=1.2e6,
    disk_bytes=7 * 10**9,
    disk_limit_bytes=20 * 10**9,
    memory_bytes=1_200_000_000,
    daemon_restarts=1,
    care=CareStatus(
        hours=("Mon-Fri 22:00-07:00",),
        time_zone="Europe/Berlin",
        upload=BudgetStatus(
            budget="100GB/month", size_bytes=10**11, used_bytes=4 * 10**9, renewed_at_s=1.8e9
        ),
        sensors=SensorStatus(
            gpu="NVIDIA " + HOSTILE,
            gpu_memory_bytes=8 * 10**9,
            gpu_free_bytes=3 * 10**9,
            gpu_temperature_c=63.0,
            gpu_power_w=210.5,
            gpu_power_limit_w=350.0,
            gpu_utilisation=0.97,
        ),
        settings=(
            SettingStatus(key="upload_limit", value="5MB/s", source="flag"),
            SettingStatus(key="hours", value="Mon-Fri 22:00-07:00", source="paris-peer set"),
        ),
    ),
    governance=Governance(
        notices=1,
        last=(NoticeStatus(number=1, act="pause", at_s=1.7e9, words="notice 1: " + HOSTILE),),
        names={LEAD: HOSTILE},
    ),
)


PAST: dict[str, Any] = {
    "history": {"expert-0": [{"steps": 100.0 * n, "loss": 1.0 / n} for n in range(1, 9)]},
    "receipts": [
        {"peer": STATUS.peer_id, "slot": "expert-0", "clips": 12345, "steps": 678, "cards": 9, "updates": 0}
    ],
    "previews": [
        {"prompt": "a ball " + HOSTILE, "newest": "set-2/0.png", "steps": {"expert-0": 1200}}
        | {"before": "set-1/0.png", "before_steps": {"expert-0": 100, "router": 200}}
    ],
}
PREVIEWS = ("set-1/0.png", "set-2/0.png")


def red_picture() -> bytes:
    """Returns a PNG of four pixels."""
    file = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(file, "PNG")
    return file.getvalue()


class CannedNode:
    """Says `status` until a test changes it, and notes what it was told to do."""

    def __init__(self, folder: Path):
        self.folder, self.status, self.told = folder, STATUS, list[str]()
        self.is_down = False
        self.url = ""
        self.codes = LoginCodes()

    def link(self) -> str:
        return page_link(self.url, self.codes.give(time.monotonic()))

    async def say(self) -> Status:
        if self.is_down:
            raise StoreError("p2pd is being started again")
        return self.status

    async def pause(self) -> str:
        self.told.append("pause")
        self.status = self.status.model_copy(update={"phase": "paused", "training": None})
        return "paused: the slot is left to others"

    async def resume(self) -> str:
        self.told.append("resume")
        self.status = STATUS
        return "resumed"

    async def stop(self) -> str:
        self.told.append("stop")
        return "stopping"

    async def change(self, body: bytes) -> SetAnswer:
        asked = SetQuestion.model_validate_json(body)
        if "never" in asked.words.values():
            raise UsageError("upload_limit never: is not a size")
        self.told.append(f"set {dict(asked.words)}")
        return SetAnswer(settings=(), said=("upload_limit is 2MB/s from now on",))

    async def serve(self, opened: threading.Event, stopped: asyncio.Event) -> None:
        async def past() -> dict[str, Any]:
            return PAST

        async def preview(name: str) -> tuple[bytes, str]:
            if name not in PREVIEWS:
                raise KeyError(name)
            return red_picture(), "image/png"

        actions = {"pause": self.pause, "resume": self.resume, "stop": self.stop}
        async with Feed(self.say, past).open() as feed:
            shown = pages(feed, lambda: ABOUT, preview, self.codes)
            async with serve_control(
                self.folder, self.say, actions, {"set": self.change}, [shown]
            ) as self.url:
                opened.set()
                await stopped.wait()
                feed.end()


@contextmanager
def canned_node(folder: Path) -> Iterator[CannedNode]:
    """Serves a CannedNode from a thread, so that a browser's own loop may run beside it."""
    node, opened, stop = CannedNode(folder), threading.Event(), list[Callable[[], None]]()

    async def life() -> None:
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        await node.serve(opened, stopped)

    thread = threading.Thread(target=asyncio.run, args=(life(),))
    thread.start()
    try:
        assert opened.wait(60)
        yield node
    finally:
        stop[0]()
        thread.join(60)


@contextmanager
def browser() -> Iterator[Any]:
    """Yields a headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


def wait_until(page: Any, expression: str, wait_s: float = 120.0) -> None:
    """Waits until an expression is true in the page; its own policy forbids waiting inside it."""
    deadline = time.monotonic() + wait_s
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(100)


def value_at(look: dict[str, Any], path: str) -> Any:
    """Returns what stands at a path like `status.slots.0.steps`; names with dots stand last."""
    here: Any = look
    parts = path.split(".")
    for place, part in enumerate(parts):
        if isinstance(here, dict) and (rest := ".".join(parts[place:])) in here:
            return here[rest]
        here = here[int(part)] if isinstance(here, list) else here.get(part)
    return here
