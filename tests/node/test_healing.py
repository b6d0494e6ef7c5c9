"""A damaged data directory is found out and mended from peers, while its peer runs or not."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.errors import StoreError, UsageError
from paris_p2p.node import healing
from paris_p2p.node.healing import (
    Damage,
    HealRequest,
    clear_left_over,
    heal_blobs,
    heal_home,
    heal_questions,
)
from paris_p2p.node.home_check import HomeReport, check_home, homes_in
from paris_p2p.node.host import Host
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.data_dir import DataDirLock
from paris_p2p.store.ledger import Ledger
from tests.node.private_world import PrivateWorld
from tests.peer.world import Peer, World
from tests.store.made import CHUNK, add_bytes, made_bytes, manifest_of


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.unlink()  # the world's stores share files by links
    path.write_bytes(data)


async def two(world: World) -> tuple[Peer, Peer]:
    """Returns a peer that trains and one that holds the slot's tip too."""
    await world.add("a", role="owner")
    b = await world.add("b", slot="expert-0")
    a = world.peers[0]
    await world.until(
        lambda: (tip := a.node.board.tip("expert-0")) and a.node.rounds.is_whole(tip.card.record)
    )
    await b.volunteer.pause()
    return a, b


def home_of(peer: Peer) -> Path:
    return peer.node.host.settings.data_dir


async def test_a_running_peer_mends_its_blobs_and_the_directory_is_whole_again(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        _, b = await two(world)
        shard = world.run.record.train_shards[0].blob.id
        tip = b.node.board.tip("expert-0")
        assert tip is not None
        assert check_home(home_of(b)).is_whole
        broken = [shard, tip.card.record.weights.id]
        for blob in broken:
            damage(b.node.host.store.path(blob))
        found = check_home(home_of(b))
        assert {one.blob_id for one in found.blobs} == set(broken)
        whole = tip.card.record.resume.id
        body = HealRequest(blobs=(*broken, whole)).model_dump_json().encode()
        answer: Any = await heal_questions(b.node)["heal"](body)
        assert answer.outcomes == dict.fromkeys(broken, "healed") | {whole: "right"}
        assert check_home(home_of(b)).is_whole
        with pytest.raises(UsageError, match="no list of blobs"):
            await heal_questions(b.node)["heal"](b'{"blobs": ["../../etc/passwd"]}')


async def test_what_nobody_has_is_said_and_what_nobody_needs_is_dropped(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        a, b = await two(world)
        shard = world.run.record.train_shards[0].blob.id
        old = add_bytes(b.node.host.store, made_bytes(5000))
        damage(b.node.host.store.path(shard))
        a.swarm.offline = True
        path = b.node.host.store.path(old.id)
        path.write_bytes(b"x" * 5000)
        answer = await heal_blobs([b.node], [shard, old.id])
        assert answer.outcomes == {shard: "missing", old.id: "dropped"}
        assert "nobody" in answer.words[shard] or "missing" in answer.words[shard]
        assert not b.node.host.store.has(old.id)


async def test_a_blob_that_cannot_be_read_for_a_while_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        _, b = await two(world)
        store, shard = b.node.host.store, world.run.record.train_shards[0].blob.id

        def verify(blob: str) -> list[int]:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(store, "verify", verify)
        answer = await heal_blobs([b.node], [shard])
        assert answer.outcomes == {shard: "missing"}
        assert "Too many open files" in answer.words[shard]
        assert store.has(shard)


async def test_a_directory_without_its_peer_is_mended_by_joining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path) as world:
        a, b = await two(world)
        home, identity = home_of(b), b.node.host.identity
        shard = world.run.record.gate_shards[0].blob.id
        await b.die()
        await b.stack.aclose()
        world.peers.remove(b)
        damage(home / "blobs" / shard[:2] / f"{shard}.data")
        spec = home / "runs" / world.run.id / "run.spec"
        spec.write_bytes(spec.read_bytes()[:-3])
        report = check_home(home)
        assert str(spec) in report.specs
        assert [one.blob_id for one in report.blobs] == [shard]

        @contextlib.asynccontextmanager
        async def open_fake(settings: PeerSettings, peers: Any) -> AsyncIterator[Host]:
            host = Host(settings=settings, identity=identity, store=BlobStore(settings.data_dir / "blobs"))
            with DataDirLock(settings.data_dir):
                host.swarm = world.network.join(identity, host)
                yield host

        monkeypatch.setattr(healing, "open_host", open_fake)
        said: list[str] = []
        address = f"/ip4/127.0.0.1/tcp/1/p2p/{a.node.peer_id}"
        healed = await heal_home(
            PeerSettings(data_dir=home), [address], Damage((shard,), (world.run.id,)), said.append
        )
        assert healed.outcomes == {shard: "healed"}, said
        assert check_home(home).is_whole


def test_left_over_files_are_cleared_but_somebodys_own_stay(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    ref = add_bytes(store, made_bytes(3000))
    folder = store.path(ref.id).parent
    lone = folder / f"{ref.id[:2]}{'0' * 62}.part"
    for name in (lone, folder / ".y.1-2-abcdef.tmp"):
        name.write_bytes(b"left")
    (folder / f"{'1' * 64}.d").mkdir()
    elsewhere = tmp_path / "blobs" / "zz" / f"{ref.id}.part"
    elsewhere.parent.mkdir()
    theirs = [folder / name for name in ("notes.txt", f"{ref.id}.jpg", f"{ref.id}.tar", "mine.tmp")]
    for name in (*theirs, elsewhere):
        name.write_bytes(b"somebody's")
    report = check_home(tmp_path)
    assert report.is_whole
    assert {one.path for one in report.foreign} == {*theirs, elsewhere, folder / f"{'1' * 64}.d"}
    with DataDirLock(tmp_path), pytest.raises(StoreError, match="already runs"):
        clear_left_over(tmp_path, report.left_over)
    assert clear_left_over(tmp_path, report.left_over) == 2
    assert not lone.exists()
    assert all(path.read_bytes() == b"somebody's" for path in (*theirs, elsewhere))
    assert check_home(tmp_path).states["right"] == 1


def test_a_download_that_was_taken_up_again_since_the_look_is_not_left_over(tmp_path: Path) -> None:
    store, data = BlobStore(tmp_path / "blobs"), made_bytes(3 * CHUNK)
    manifest = manifest_of(data)
    part = tmp_path / "blobs" / manifest.blob_id[:2] / f"{manifest.blob_id}.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    report = check_home(tmp_path)
    assert [one.path for one in report.left_over] == [part]
    store.begin(manifest.blob_id, manifest.to_bytes(), len(data))
    assert clear_left_over(tmp_path, report.left_over) == 0
    assert part.exists()


async def test_what_another_run_on_the_same_disk_may_need_is_left_as_it_is(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        _, b = await two(world)
        store = b.node.host.store
        others = add_bytes(store, made_bytes(5000))
        store.path(others.id).write_bytes(made_bytes(4000) + b"x" * 1000)
        (home_of(b) / "runs" / ("ee" * 32)).mkdir(parents=True)
        answer = await heal_blobs([b.node], [others.id])
        assert answer.outcomes == {others.id: "left"}
        assert "run eeeeeeeeeeeeeeee… may" in answer.words[others.id]
        assert store.path(others.id).read_bytes()[:4000] == made_bytes(4000)


async def test_a_ledgers_damage_is_named_with_whose_memory_it_was(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        _, b = await two(world)
        folder = home_of(b) / "runs" / world.run.id / "ledger"
        whole = check_home(home_of(b))
        assert whole.is_whole
        assert whole.records > 5
        ledger = Ledger(folder)
        (tip,) = [data for key, data in ledger.items("tip/expert-0")]
        ledger.put("tip/router", tip)  # right signatures under a wrong name
        ledger.put("own-card/expert-0", (ledger.get("own-card/expert-0") or b"")[:-1] + b"?")
        ledger.put("seq/claim/expert-0", b"yesterday")
        report: HomeReport = check_home(home_of(b))
        assert {one.key: one.is_ours for one in report.ledger} == {
            "tip/router": False,
            "own-card/expert-0": True,
            "seq/claim/expert-0": True,
        }


async def test_sealed_blobs_are_opened_with_the_keys_that_are_here(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        await world.add("owner", role="owner", identity=world.owner_node)
        member = await world.add("member")
        report = check_home(home_of(member))
        assert report.is_whole
        assert report.sealed == report.opened == 2
        home = tmp_path / "stranger"
        store = BlobStore(home / "blobs")
        for shard in world.run.record.train_shards:
            store.add_file(world.shards.path(shard.blob.id))
        found = check_home(home)
        assert (found.sealed, found.opened) == (1, 0)  # whole to somebody without keys


def test_a_directory_names_its_stores(tmp_path: Path) -> None:
    assert homes_in(tmp_path) == []
    for inside in ("blobs", "generator/blobs"):
        (tmp_path / inside).mkdir(parents=True)
    assert homes_in(tmp_path) == [tmp_path, tmp_path / "generator"]
