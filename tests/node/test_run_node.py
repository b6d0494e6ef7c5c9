"""A run on a host: publishing hashes in a thread, and tells nobody of blobs that are not in the store."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from paris_p2p.envelope import Envelope, open_envelope, seal
from paris_p2p.errors import DiskFullError
from paris_p2p.identity import Identity
from paris_p2p.kinds import SIGNED_LIFETIME_S, tips_key
from paris_p2p.node import record_reading
from paris_p2p.node.host import Host
from paris_p2p.node.publish import sign_again, sign_checkpoint, tell_card
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.peer.own_cards import OwnCards
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import AttestationRecord, BlobRef, CardRecord, ClaimRecord
from paris_p2p.rules.next_card import NewCheckpoint
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
async def test_publishing_leaves_the_event_loop_free_and_no_card_speaks_of_missing_blobs(
    tmp_path: Path, full: bool
) -> None:
    world, identity = World(tmp_path / "world"), Identity.generate()
    store = WatchedStore(tmp_path / "blobs")
    host = Host(PeerSettings(data_dir=tmp_path), identity, store)
    host.swarm = world.network.join(identity, host)
    async with opened(host, world.run) as node:
        store.full = full
        task = asyncio.create_task(published(node, "expert-0", 1, checkpoint(tmp_path)))
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
            assert host.shown_to("", "blobs", "", "").read_chunk(card.record.resume.id, 0) == b"resume"
            assert [one.id for one in node.board.pending("expert-0")] == [card.id]


async def test_a_card_signed_before_a_kill_is_told_after_the_restart(tmp_path: Path) -> None:
    world, identity = World(tmp_path / "world"), Identity.generate()
    host = Host(PeerSettings(data_dir=tmp_path), identity, BlobStore(tmp_path / "blobs"))
    # nobody is there: the card reaches the ledger and nobody else
    host.swarm = FakeNetwork().join(identity, host)
    async with opened(host, world.run) as node:
        await published(node, "expert-0", 1, checkpoint(tmp_path))
    host.swarm = world.network.join(identity, host)
    other = Identity.generate()
    listener = Host(PeerSettings(data_dir=tmp_path / "other"), other, BlobStore(tmp_path / "other-blobs"))
    listener.swarm = world.network.join(other, listener)
    async with opened(host, world.run) as node, opened(listener, world.run) as heard:
        assert not heard.board.pending("expert-0")
        await OwnCards(node, lambda slot: False, print).look()
        await heard.refresh()
        assert [card.signer for card in heard.board.pending("expert-0")] == [identity.peer_id]
        assert node.serves(heard.board.pending("expert-0")[0].record.resume.id)


async def published(node: RunNode, slot: str, epoch: int, new: NewCheckpoint) -> Envelope[CardRecord]:
    card = await sign_checkpoint(node, slot, epoch, new)
    await tell_card(node, card)
    return card


def attestation(node: RunNode, card: CardRecord, card_id: str) -> AttestationRecord:
    head = node.header("attestation", card.slot) | {"seq": card.seq}
    measured = {"loss": 1.0, "reference_loss": 1.0, "gate_clips": 4}
    return AttestationRecord(**head, epoch=card.epoch, card=card_id, best=card_id, **measured)


def member(world: World, folder: Path) -> Host:
    identity = Identity.generate()
    host = Host(PeerSettings(data_dir=folder), identity, BlobStore(folder / "blobs"))
    host.swarm = world.network.join(identity, host)
    return host


async def test_a_tip_that_its_maker_hid_on_the_bulletin_board_is_asked_for(tmp_path: Path) -> None:
    """The board keeps one card of a maker; a peer that missed the attested one asks a peer that has it."""
    world = World(tmp_path / "world")
    hosts = [member(world, tmp_path / name) for name in ("maker", "attestor", "listener")]
    async with (
        opened(hosts[0], world.run) as maker,
        opened(hosts[1], world.run) as attestor,
        opened(hosts[2], world.run) as listener,
    ):
        world.network.swarms[listener.peer_id].offline = True
        first = await published(maker, "expert-0", 1, checkpoint(tmp_path))
        second = sign_again(maker, first.record.model_copy(update={"steps": 3, "clips": 12}))
        await tell_card(maker, second)
        assert second.record.seq == first.record.seq  # its first waits for attestation still
        await attestor.refresh(["expert-0"])
        await asyncio.sleep(0)  # gossip
        await attestor.say(attestation(attestor, first.record, first.id))
        world.network.swarms[listener.peer_id].offline = False
        await listener.refresh(["expert-0"])
        tip = listener.board.tip("expert-0")
        assert tip is not None
        assert tip.card.id == first.id
        assert not listener.board.attestors_of_unknown("expert-0")


async def test_a_finished_run_can_be_had_after_its_records_left_the_bulletin_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIGNED_LIFETIME_S, "card", 0.5)
    monkeypatch.setitem(SIGNED_LIFETIME_S, "attestation", 0.5)
    world = World(tmp_path / "world")
    maker, signer, newcomer = [member(world, tmp_path / name) for name in ("maker", "attestor", "newcomer")]
    async with opened(signer, world.run) as attestor:
        async with opened(maker, world.run) as node:
            last = await published(node, "expert-0", 1, checkpoint(tmp_path))
            await attestor.say(attestation(attestor, last.record, last.id))
            await attestor.refresh(["expert-0"])
            assert attestor.board.tip("expert-0") is not None
        await maker.swarm.close()
        await asyncio.sleep(max(0.0, last.record.expires_at - time.time()) + 0.5)
        assert not await attestor.host.swarm.read_records(tips_key(world.run.id, "expert-0"), world.run.id)
        async with opened(newcomer, world.run) as late:
            tip = late.board.tip("expert-0")
            assert tip is not None
            assert tip.card.id == last.id
        monkeypatch.undo()
        told = [
            open_envelope(data, run=world.run.id)
            for data in attestor.records_under(tips_key(world.run.id, "expert-0"))
        ]
        assert [one.record.kind for one in told] == ["card", "attestation"]


async def test_a_card_published_again_follows_the_tip(tmp_path: Path) -> None:
    world, identity = World(tmp_path / "world"), Identity.generate()
    host = Host(PeerSettings(data_dir=tmp_path), identity, BlobStore(tmp_path / "blobs"))
    host.swarm = world.network.join(identity, host)
    other = Identity.generate()
    attestor = Host(PeerSettings(data_dir=tmp_path / "other"), other, BlobStore(tmp_path / "other-blobs"))
    attestor.swarm = world.network.join(other, attestor)
    async with opened(host, world.run) as node, opened(attestor, world.run) as signer:
        first = await published(node, "expert-0", 1, checkpoint(tmp_path))
        await signer.say(attestation(signer, first.record, first.id))
        await node.refresh(["expert-0"])
        again = sign_again(node, first.record)
        await tell_card(node, again)
        assert (again.record.parent, again.record.seq) == (first.id, 2)
        assert again.record.weights == first.record.weights
        assert [card.id for card in node.board.pending("expert-0")] == [again.id]


async def test_forged_records_are_counted_under_a_few_names_whatever_they_say(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        node = (await world.add("a", role="owner")).node
        for number in range(300):  # any 32 bytes are an Ed25519 key, so each has a signer of its own
            signer = b"\x00\x24\x08\x01\x12\x20" + os.urandom(32)
            for kind in ("claim", f"kind {number}"):
                data = msgpack.packb((msgpack.packb({"kind": kind}), signer, os.urandom(64)))
                node.reading.receive(data)
            node.reading.receive(os.urandom(40))
        assert node.refused == {"record: wrong signature": 300, "record: malformed": 600}


async def test_what_a_peer_tells_is_verified_in_a_thread_and_left_after_a_few_bad_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def noted(data: bytes, kinds: tuple[str, ...]) -> Any:
        threads.append(threading.current_thread())
        return open_envelope(data, run=world.run.id, kinds=kinds)

    async with World(tmp_path) as world:
        node = (await world.add("a", role="owner")).node
        now = time.time()
        times = {"issued_at": now, "expires_at": now + 100, "claimed_at": now}
        claim = ClaimRecord(run=world.run.id, slot="expert-0", seq=1, epoch=1, **times)
        good, forged = seal(Identity.generate(), claim), [os.urandom(200) for _ in range(100)]
        monkeypatch.setattr(node.word, "open", noted)
        await node.reading._receive_all([good.data, *forged])
        assert len(threads) == 1 + 1 + record_reading._MAX_BAD_TOLD
        assert threading.main_thread() not in threads
        assert good.id in {envelope.id for envelope in node.board.claims("expert-0")}
        assert node.refused["records: not looked at after too many bad ones"] == 1


async def test_many_records_of_one_answer_leave_others_their_turns_while_they_are_kept(
    tmp_path: Path,
) -> None:
    world, identity = World(tmp_path / "world"), Identity.generate()
    host = Host(PeerSettings(data_dir=tmp_path), identity, BlobStore(tmp_path / "blobs"))
    host.swarm = world.network.join(identity, host)
    now = time.time()
    claims = [
        seal(
            Identity.generate(),
            ClaimRecord(
                run=world.run.id,
                slot="expert-0",
                seq=1,
                issued_at=now,
                expires_at=now + 5.0,
                epoch=1,
                claimed_at=now,
            ),
        )
        for _ in range(100)
    ]
    async with opened(host, world.run) as node:
        kept_at_turn: list[int] = []

        async def others() -> None:
            while len(node.board.claims("expert-0")) < len(claims):
                kept_at_turn.append(len(node.board.claims("expert-0")))
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        await node.reading._receive_all([claim.data for claim in claims])
        await beside
        assert len(set(kept_at_turn)) >= len(claims) // record_reading._KEPT_AT_ONCE
