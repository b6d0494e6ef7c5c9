"""A RunSpec on a node's own disk that is damaged is named, deleted and fetched again; a good one never is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from paris_p2p.errors import StoreError, VersionError
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite
from paris_p2p.node.host import Host, load_spec, spec_path
from paris_p2p.node.joining import join_run
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import READER
from paris_p2p.spec import sign_run
from paris_p2p.store.blobs import BlobStore
from tests.peer.world import World


def kept(folder: Path, run_id: str, data: bytes) -> Path:
    path = spec_path(folder, run_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def newcomer(world: World, folder: Path) -> Host:
    identity = Identity.generate()
    host = Host(PeerSettings(data_dir=folder), identity, BlobStore(folder / "blobs"))
    host.swarm = world.network.join(identity, host)
    return host


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"\0" + data[1:], lambda data: b""])
async def test_a_peer_with_a_damaged_run_spec_says_so_and_fetches_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage
) -> None:
    caplog.set_level(logging.WARNING)
    async with World(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        path = kept(tmp_path / "new", world.run.id, damage(world.run.data))
        address = f"/ip4/127.0.0.1/tcp/1/p2p/{owner.node.peer_id}"
        invite = Invite(run=world.run.id, peers=(address,))
        assert await join_run(newcomer(world, tmp_path / "new"), invite) == world.run
        assert path.read_bytes() == world.run.data
    assert f"the RunSpec {path} is damaged" in caplog.text
    assert "it is deleted, and fetched again" in caplog.text


async def test_a_good_run_spec_is_read_without_asking_anybody(tmp_path: Path) -> None:
    world = World(tmp_path)
    kept(tmp_path / "new", world.run.id, world.run.data)
    invite = Invite(run=world.run.id, peers=())
    assert await join_run(newcomer(world, tmp_path / "new"), invite) == world.run


def test_a_run_of_a_later_version_is_kept(tmp_path: Path) -> None:
    spec = World(tmp_path).run.record.model_copy(update={"oldest_reader": READER + 1})
    newer = sign_run(Identity.generate(), spec)
    path = kept(tmp_path / "new", newer.id, newer.data)
    with pytest.raises(VersionError, match="update paris-p2p"):
        load_spec(tmp_path / "new", newer.id)
    assert path.read_bytes() == newer.data


def test_what_this_disk_does_not_give_is_not_deleted(tmp_path: Path) -> None:
    path = spec_path(tmp_path, "ab" * 32)
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match=f"cannot read the RunSpec {path}"):
        load_spec(tmp_path, "ab" * 32)
    assert path.exists()
