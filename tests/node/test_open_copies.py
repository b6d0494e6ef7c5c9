"""Opened copies: one for all who use a blob, within the cap, and gone with the last of them."""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from paris_p2p.errors import DiskFullError, MissingBlobError, SealError, SwarmError
from paris_p2p.identity import Identity
from paris_p2p.node import open_copies
from paris_p2p.node.host import open_host
from paris_p2p.node.open_copies import OPEN, OpenCopies, sweep_work, work_folder
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import BlobRef
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import add_sealed, open_into
from paris_p2p.swarm.fake import FakeNetwork, FakeSwarm
from tests.store.made import made_bytes
from tests.store.test_sealing import KEY, OTHER

DATA = made_bytes(3 << 20)


class World:
    def __init__(self, folder: Path, max_bytes: int = 0):
        self.store = BlobStore(folder / "blobs", max_bytes)
        self.folder = work_folder(folder, "a" * 64, OPEN)
        self.copies = OpenCopies(self.store, self.folder)
        self.ref = self.sealed(folder, DATA)

    def sealed(self, folder: Path, data: bytes) -> BlobRef:
        (folder / "plain").write_bytes(data)
        return add_sealed(self.store, folder / "plain", KEY, move=True)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_copy_is_what_was_sealed_for_this_user_alone_and_gone_afterwards(world: World) -> None:
    sealed = world.store.used_bytes()
    async with world.copies.of(world.ref.id, KEY) as path:
        assert path.read_bytes() == DATA
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        folders = (path.parent, path.parent.parent)
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
        assert world.store.used_bytes() == sealed + len(DATA)
    assert world.left() == []
    assert world.store.used_bytes() == sealed


async def test_all_who_use_a_blob_at_once_share_a_copy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def count(out: BinaryIO, blob: Path, *rest: Any, **named: Any) -> None:
        opened.append(blob)
        open_into(out, blob, *rest, **named)

    monkeypatch.setattr(open_copies, "open_into", count)
    both = asyncio.Barrier(2)

    async def use() -> Path:
        async with world.copies.of(world.ref.id, KEY) as path:
            await both.wait()
            assert path.read_bytes() == DATA
            return path

    first, second = await asyncio.gather(use(), use())
    assert first == second
    assert len(opened) == 1
    assert world.left() == []


async def test_a_copy_stays_until_the_last_lets_go(world: World) -> None:
    async with world.copies.of(world.ref.id, KEY):
        async with world.copies.of(world.ref.id, KEY) as path:
            pass
        assert path.read_bytes() == DATA
    assert not path.exists()


async def test_a_cap_that_leaves_no_room_for_a_copy_is_named(tmp_path: Path) -> None:
    world = World(tmp_path, max_bytes=5 << 20)
    with pytest.raises(DiskFullError, match="--max-disk"):
        async with world.copies.of(world.ref.id, KEY):
            pytest.fail("there was room")
    assert world.left() == []
    world.store.max_bytes = 7 << 20
    async with world.copies.of(world.ref.id, KEY) as path:
        assert path.stat().st_size == len(DATA)


async def test_a_blob_that_does_not_open_leaves_nothing(world: World) -> None:
    used = world.store.used_bytes()
    with pytest.raises(SealError):
        async with world.copies.of(world.ref.id, OTHER):
            pytest.fail("another key opened it")
    with pytest.raises(MissingBlobError):
        async with world.copies.of("0" * 64, KEY):
            pytest.fail("there is no such blob")
    assert world.left() == []
    assert world.store.used_bytes() == used


@pytest.mark.parametrize("whole", [False, True])
async def test_giving_up_while_a_blob_is_opened_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """Whether the last segment was written by then or not."""
    writing, go_on = threading.Event(), threading.Event()

    def slow(out: BinaryIO, blob: Path, key: Any, *, wanted: Any) -> None:
        if whole:
            open_into(out, blob, key, wanted=wanted)
        writing.set()
        assert go_on.wait(10)
        if not whole:
            open_into(out, blob, key, wanted=wanted)

    monkeypatch.setattr(open_copies, "open_into", slow)
    used = world.store.used_bytes()

    async def use() -> None:
        async with world.copies.of(world.ref.id, KEY):
            pytest.fail("it was opened")

    user = asyncio.create_task(use())
    await asyncio.to_thread(writing.wait, 10)
    (opening,) = [copy.opening for copy in world.copies._copies.values()]
    user.cancel()
    await asyncio.gather(user, return_exceptions=True)
    go_on.set()
    await asyncio.wait([opening])
    await asyncio.sleep(0)  # its callback
    assert world.left() == []
    assert world.store.used_bytes() == used
    monkeypatch.setattr(open_copies, "open_into", open_into)
    async with world.copies.of(world.ref.id, KEY) as path:
        assert path.read_bytes() == DATA


def test_what_a_killed_process_left_in_any_run_is_deleted(tmp_path: Path) -> None:
    for run in ("a" * 64, "b" * 64):
        for name in (OPEN, "expert-0"):
            folder = work_folder(tmp_path, run, name)
            folder.mkdir(parents=True)
            (folder / "resume.safetensors").write_bytes(b"plain")
        (tmp_path / "runs" / run / "ledger").mkdir()
    sweep_work(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("runs/*/*")) == ["ledger", "ledger"]


async def test_a_node_that_starts_deletes_what_a_killed_one_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = work_folder(tmp_path, "a" * 64, OPEN)
    left.mkdir(parents=True)
    (left / "clips").write_bytes(DATA)

    def no_swarm(*_: Any, **__: Any) -> None:
        assert not left.exists()
        raise SwarmError("not in this test")

    monkeypatch.setattr("paris_p2p.node.host.open_swarm", no_swarm)
    with pytest.raises(SwarmError, match="not in this test"):
        async with open_host(PeerSettings(data_dir=tmp_path, port=40000)):
            pytest.fail("it opened")


async def test_a_node_that_stops_leaves_no_work_and_says_nothing_of_it_at_its_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def no_network(*_: Any, **__: Any) -> AsyncIterator[FakeSwarm]:
        yield FakeNetwork().join(Identity.generate())

    monkeypatch.setattr("paris_p2p.node.host.open_swarm", no_network)
    caplog.set_level("INFO")
    settings = PeerSettings(data_dir=tmp_path, port=40000)
    async with open_host(settings):
        folder = work_folder(tmp_path, "a" * 64, "spec")
        folder.mkdir(parents=True)
        (folder / "3.json").write_text("plain")
    assert not list(tmp_path.rglob("3.json"))
    async with open_host(settings):
        assert "killed" not in caplog.text
