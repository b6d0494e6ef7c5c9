"""Storage for a private run: it holds and serves what members name, and its disk tells nothing of it."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.studio.needles import Search
from paris_p2p.bootstrap import keeper as keeper_file
from paris_p2p.bootstrap.keeper import Keeper
from paris_p2p.bootstrap.keeper_joining import KEPT, TICKET_FILE, saved_tickets
from paris_p2p.bootstrap.storage_runs import StorageRuns
from paris_p2p.errors import DaemonError, InviteError, RecordError
from paris_p2p.identity import Identity
from paris_p2p.invite import Invite, make_token
from paris_p2p.keyring import RunKey
from paris_p2p.node.host import Host
from paris_p2p.owner_records import Admit, End, MemberRecord, Revoke, Right
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.store.blobs import BlobStore
from paris_p2p.veil import seal_record
from tests.node.private_world import PrivateWorld
from tests.node.test_private_run import SLOT, a_tip, needles_of
from tests.rules.made_notices import certificate


def invite_for(world: PrivateWorld, *rights: Right) -> Invite:
    now_s = time.time()
    token = make_token(
        world.owner_node,
        world.run.id,
        rights,
        uses=1,
        now_s=now_s,
        until_s=now_s + 3600,
        admitters=(world.owner_node.peer_id,),
    )
    return Invite(run=world.run.id, peers=(), join=token.data)


class Friend:
    """A friend's server."""

    def __init__(self, world: PrivateWorld, home: Path):
        self.world, self.home, self.identity = world, home, Identity.generate()
        self.said: list[str] = []

    @asynccontextmanager
    async def storing(self, *invites: Invite, forget_ended_s: float = 3600.0) -> AsyncIterator[StorageRuns]:
        host = Host(PeerSettings(data_dir=self.home), self.identity, BlobStore(self.home / "blobs", 1 << 30))
        host.swarm = self.world.network.join(self.identity, host)
        runs = StorageRuns(host, invites, self.said.append, forget_ended_s)
        task = asyncio.create_task(runs.run())
        try:
            yield runs
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await host.swarm.close()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_file, "LOOK_EVERY_S", 0.1)


def keeps_all(runs: StorageRuns, world: PrivateWorld) -> bool:
    """Tells whether the run's data and a tip are on the friend's disk."""
    keeper = runs.keepers.get(world.run.id)
    things = {one.thing for one in keeper.held.values()} if keeper else set()
    is_whole = things == {"data", "gate", "weights", "resume"}
    return keeper is not None and is_whole and all(map(runs.host.store.has, keeper.held))


async def test_a_friend_stores_for_members_alone_and_its_disk_tells_nothing(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner, a = await world.add("owner", role="owner"), await world.add("a")
        await a_tip(world, owner, a)
        friend = Friend(world, tmp_path / "friend")
        async with friend.storing(invite_for(world, "store")) as runs:
            await world.until(lambda: keeps_all(runs, world))
            needles = [needle for needle in needles_of(world, a.node) if needle.kind != "run id"]
            for peer in (owner, a):
                await peer.die()
            tip = a.node.board.tip(SLOT)
            assert tip is not None
            keeper = runs.keepers[world.run.id]
            assert keeper.state.is_member(a.node.peer_id)
            refs = [blob.blob for blob in keeper.held.values()]
            shown = keeper.host.shown_to(Identity.generate().peer_id, "blobs", "", "")
            assert all(shown.manifest_bytes(ref.id) is None for ref in refs)

            late = Identity.generate()
            newcomer = await world.add("late", identity=late)
            newcomer.task.cancel()
            await asyncio.gather(newcomer.task, return_exceptions=True)
            await world.until(lambda: keeper.state.is_member(late.peer_id))
            weights = next(one.blob for one in keeper.held.values() if one.thing == "weights")
            paths = await newcomer.node.fetch([weights], tip.card.id)
            assert paths[0].read_bytes() == keeper.host.store.path(weights.id).read_bytes()
        files = [path for path in (tmp_path / "friend").rglob("*") if path.is_file()]
        assert len(files) > 8
        disk = b"\n".join(path.read_bytes() + str(path).encode() for path in files)
        assert Search(needles).found_in(disk) == set()
        ticket = next((tmp_path / "friend" / KEPT).glob(f"*/{TICKET_FILE}"))
        assert stat.S_IMODE(ticket.stat().st_mode) == 0o600
        assert world.run.id not in str(ticket)


async def test_after_a_restart_a_friend_needs_no_invite(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner, a = await world.add("owner", role="owner"), await world.add("a")
        await a_tip(world, owner, a)
        friend, invite = Friend(world, tmp_path / "friend"), invite_for(world, "store")
        async with friend.storing(invite) as runs:
            await world.until(lambda: keeps_all(runs, world))
        used_up = invite_for(world, "store")
        async with friend.storing(used_up) as runs:
            await world.until(lambda: keeps_all(runs, world))
        assert friend.said.count(friend.said[0]) == 2


async def test_a_friend_gets_the_next_door_key_and_hears_who_was_shut_out(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner, leaver = await world.add("owner", role="owner"), Identity.generate()
        await world.add("leaver", identity=leaver, rights=("generate",))
        friend = Friend(world, tmp_path / "friend")
        async with friend.storing(invite_for(world, "store")) as runs:
            await world.until(lambda: world.run.id in runs.keepers)
            keeper = runs.keepers[world.run.id]
            await world.until(lambda: keeper.state.is_member(leaver.peer_id))
            await world.peers[1].die()
            new = RunKey.generate()
            notice = world.notice(Revoke(peer=leaver.peer_id, next_key=new.hash))
            world.ring = world.ring.with_key(new.secret)
            owner.node.keep(notice)
            owner.node.keys.keep(world.ring)
            await owner.node.tell(notice)
            await world.until(lambda: len(keeper.ticket.doors) == 2)
            assert keeper.ticket.doors[1][0] == new.door.secret
            assert not keeper.state.is_member(leaver.peer_id)
            assert len(saved_tickets(tmp_path / "friend")[0].doors) == 2


@pytest.mark.parametrize("how", ["ended", "revoked"])
async def test_a_run_that_is_over_is_forgotten(tmp_path: Path, how: str) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        friend = Friend(world, tmp_path / "friend")
        async with friend.storing(invite_for(world, "store"), forget_ended_s=0.0) as runs:
            await world.until(lambda: world.run.id in runs.keepers and runs.keepers[world.run.id].held)
            keeper = runs.keepers[world.run.id]
            await world.until(lambda: all(map(runs.host.store.has, keeper.held)))
            held = list(keeper.held)
            if how == "ended":
                notice = world.notice(End(reason="done"))
            else:
                notice = world.notice(Revoke(peer=friend.identity.peer_id, next_key=RunKey.generate().hash))
            owner.node.keep(notice)
            await owner.node.tell(notice)
            await world.until(lambda: not runs.keepers and "not storing" in friend.said[-1])
            assert not any(map(runs.host.store.has, held))
            assert saved_tickets(tmp_path / "friend") == []


async def test_an_invite_that_lets_nobody_store_says_so(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        await world.add("owner", role="owner")
        friend = Friend(world, tmp_path / "friend")
        host = Host(PeerSettings(data_dir=friend.home), friend.identity, BlobStore(friend.home / "blobs"))
        host.swarm = world.network.join(friend.identity, host)
        for invite, words in (
            (invite_for(world, "train", "generate"), "allows more than to store"),
            (Invite(run=world.run.id, peers=()), "no join token"),
        ):
            with pytest.raises(InviteError, match=words):
                await StorageRuns(host, (invite,), friend.said.append, 0.0).run()


async def test_a_member_that_shows_what_is_not_its_own_stops_no_friend_from_storing(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner, a = await world.add("owner", role="owner"), await world.add("a")
        await a_tip(world, owner, a)
        # anybody with an old door key can write this, and go on with it after it was revoked
        for number, junk in enumerate((b"", b"no certificate"), 1):
            head = {"run": world.run.id, "slot": "", "seq": number, "issued_at": time.time()}
            said = MemberRecord(**head, expires_at=time.time() + 3600, certificate=junk)
            await a.node.swarm.store(seal_record(Identity.generate(), said, world.ring, number))
        friend = Friend(world, tmp_path / "friend")
        async with friend.storing(invite_for(world, "store")) as runs:
            await world.until(lambda: keeps_all(runs, world))
            assert runs.keepers[world.run.id].refused["member record"]


async def test_a_friend_knows_the_members_that_a_delegate_let_in(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner, delegate, late = (
            await world.add("owner", role="owner"),
            Identity.generate(),
            Identity.generate(),
        )
        friend = Friend(world, tmp_path / "friend")
        async with friend.storing(invite_for(world, "store")) as runs:
            await world.until(lambda: world.run.id in runs.keepers)
            keeper = runs.keepers[world.run.id]
            notice = world.notice(Admit(peer=delegate.peer_id, rights=("admit",)))
            owner.node.keep(notice)
            await owner.node.tell(notice)
            given = certificate(delegate, world.run.id, late.peer_id, ("train",), time.time() + 1)
            head = {"run": world.run.id, "slot": "", "seq": 1, "issued_at": time.time()}
            said = MemberRecord(**head, expires_at=time.time() + 3600, certificate=given.data)
            await owner.node.tell(seal_record(late, said, world.ring, 1))
            await world.until(lambda: keeper.state.rights(late.peer_id) == {"train"})
        async with friend.storing() as runs:  # also after a restart
            await world.until(lambda: world.run.id in runs.keepers)
            assert runs.keepers[world.run.id].state.rights(late.peer_id) == {"train"}


async def test_an_end_that_is_dated_back_deletes_nothing_before_its_time(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        owner = await world.add("owner", role="owner")
        friend = Friend(world, tmp_path / "friend")
        async with friend.storing(invite_for(world, "store")) as runs:
            await world.until(lambda: world.run.id in runs.keepers and runs.keepers[world.run.id].held)
            keeper = runs.keepers[world.run.id]
            dates = {"issued_at": time.time() - 30 * 86400.0, "expires_at": time.time() + 86400.0}
            record = world.notice(End()).record.model_copy(update=dates)
            notice = seal_record(world.owner, record, world.ring, 1)
            owner.node.keep(notice)
            await owner.node.tell(notice)
            await world.until(lambda: keeper.state.ended is not None)
            assert keeper.over_because() == ""
            keeper.forget_ended_s = 0.0
            assert keeper.over_because() == "its owner ended it"


def test_a_damaged_ticket_is_named(tmp_path: Path) -> None:
    folder = tmp_path / KEPT / ("ab" * 32)
    folder.mkdir(parents=True)
    (folder / TICKET_FILE).write_bytes(b"damaged")
    with pytest.raises(RecordError, match=r"door is damaged.*join again with a new invite"):
        saved_tickets(tmp_path)


async def test_a_keeper_that_could_not_say_that_it_is_here_says_it_at_its_next_look() -> None:
    told = list[str]()

    async def tell(record: str) -> None:
        told.append(record)
        if len(told) == 1:
            raise DaemonError("p2pd is being restarted")

    async def nothing() -> None: ...

    head = {"run": "a" * 64, "slot": "", "seq": 1, "issued_at": 1.0, "expires_at": 2.0}
    keeper: Any = SimpleNamespace(
        refresh=nothing, _ask_keys=nothing, _take_stock=nothing, _fetch=nothing, _told_s=-1e9,
        header=lambda *_: head, sign=lambda record: record.role, tell=tell, _door=SimpleNamespace(newest=0),
    )  # fmt: skip
    with pytest.raises(DaemonError):
        await Keeper.look(keeper)
    for _ in range(3):
        await Keeper.look(keeper)
    assert told == ["bootstrap", "bootstrap"]
