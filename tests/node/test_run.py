"""A run on a host: publishing hashes in a thread, and tells nobody of blobs that are not in the store."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from paris_p2p.errors import DiskFullError
from paris_p2p.identity import Identity
from paris_p2p.node.host import Host
from paris_p2p.node.run import NewCheckpoint, opened
from paris_p2p.records import BlobRef
from paris_p2p.spec import PeerSettings
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.fake import FakeNetwork
from tests.peer.world import World


class WatchedStore(BlobStore):
    """Holds `add_file` until the event loop, which must be free, lets it go on; or fails."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.full = False

    def add_file(self, path: Path, *, move: bool = False) -> BlobRef:
        self.entered.set()
        if not self.go_on.wait(20):
            raise TimeoutError("the event loop was blocked by the store")
        if self.full:
            raise DiskFullError("no space left")
        return super().add_file(path, move=move)


def checkpoint(folder: Path) -> NewCheckpoint:
    (folder / "w").write_text("weights")
    (folder / "r").write_text("resume")
    return NewCheckpoint(folder / "w", folder / "r", clips=8, steps=2, train_loss=1.0)


@pytest.mark.parametrize("full", [False, True])
async def test_publishing_leaves_the_event_loop_free_and_no_card_speaks_of_missing_blobs(tmp_path: Path, full: bool) -> None:
    world, identity = World(tmp_path / "world"), Identity.generate()
    store = WatchedStore(tmp_path / "blobs")
    host = Host(PeerSettings(data_dir=tmp_path), identity, store)
    host.swarm = world.network.join(identity, host)
    async with opened(host, world.run) as node:
        store.full = full
        task = asyncio.create_task(node.publish_checkpoint("expert-0", 1, None, checkpoint(tmp_path)))
        assert await asyncio.to_thread(store.entered.wait, 20)
        assert node.ledger.get("own-card/expert-0") is None
        store.go_on.set()
        if full:
            with pytest.raises(DiskFullError):
                await task
            assert node.ledger.get("own-card/expert-0") is None
            assert not node.board.pending("expert-0")
        else:
            card = await task
            assert store.path(card.record.weights.id).read_text() == "weights"
            assert host.read_chunk(card.record.resume.id, 0) == b"resume"
            assert [one.id for one in node.board.pending("expert-0")] == [card.id]


async def test_a_card_signed_before_a_kill_is_told_after_the_restart(tmp_path: Path) -> None:
    world, identity = World(tmp_path / "world"), Identity.generate()
    host = Host(PeerSettings(data_dir=tmp_path), identity, BlobStore(tmp_path / "blobs"))
    host.swarm = FakeNetwork().join(identity, host)  # nobody is there: the card reaches the ledger and nobody else
    async with opened(host, world.run) as node:
        await node.publish_checkpoint("expert-0", 1, None, checkpoint(tmp_path))
    host.swarm = world.network.join(identity, host)
    other = Identity.generate()
    listener = Host(PeerSettings(data_dir=tmp_path / "other"), other, BlobStore(tmp_path / "other-blobs"))
    listener.swarm = world.network.join(other, listener)
    async with opened(host, world.run) as node, opened(listener, world.run) as heard:
        assert not heard.board.pending("expert-0")
        await node.tell_own_cards_again()
        await heard.refresh()
        assert [card.signer for card in heard.board.pending("expert-0")] == [identity.peer_id]
        assert node.serves(heard.board.pending("expert-0")[0].record.resume.id)
