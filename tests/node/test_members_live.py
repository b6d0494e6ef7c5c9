"""Members over real daemons: let in by token, and hung up on when they show nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from paris_p2p.errors import UnreachableError
from paris_p2p.identity import Identity, write_private_file
from paris_p2p.invite import Invite, make_token
from paris_p2p.keyring import save_keyring
from paris_p2p.node import doorkeeper
from paris_p2p.node.host import Host, open_host
from paris_p2p.node.joining import Newcomer, join_run, newcomer_host
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.peer_settings import PeerSettings
from tests.node.members_world import MACHINE, soon
from tests.node.private_world import PrivateWorld

pytestmark = pytest.mark.swarm


def settings(folder: Path) -> PeerSettings:
    return PeerSettings(data_dir=folder, host="127.0.0.1")


def invite_to(world: PrivateWorld, owner: Host) -> Invite:
    now_s = time.time()
    token = make_token(
        world.owner,
        world.run.id,
        MACHINE,
        uses=2,
        now_s=now_s,
        until_s=now_s + 3600,
        admitters=[world.owner_node.peer_id],
    )
    return Invite(run=world.run.id, peers=owner.swarm.addresses(), join=token.data)


async def owners_node(world: PrivateWorld, folder: Path, stack: AsyncExitStack) -> RunNode:
    """The owner's node of a private run; with the second call it is started again."""
    if not (folder / "identity.key").exists():
        write_private_file(folder / "identity.key", world.owner_node.libp2p_private_key())
        save_keyring(folder / "runs" / world.run.id, world.ring)
    host = await stack.enter_async_context(open_host(settings(folder)))
    return await stack.enter_async_context(opened(host, world.run))


async def test_a_private_run_lets_in_by_token_and_hangs_up_on_the_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "HELLO_S", 1.0)
    monkeypatch.setattr(doorkeeper, "LOOK_EVERY_S", 0.2)
    world = PrivateWorld(tmp_path)
    async with AsyncExitStack() as stack:
        owner = await owners_node(world, tmp_path / "owner", stack)
        invite = invite_to(world, owner.host)
        newcomer = Newcomer(name="office 2", other=Identity.generate(), other_home=tmp_path / "generator")
        host = await stack.enter_async_context(newcomer_host(settings(tmp_path / "a"), invite, newcomer))
        node = await stack.enter_async_context(opened(host, await join_run(host, invite, newcomer)))
        assert node.spec == world.run.record
        assert owner.state.rights(node.peer_id) == set(MACHINE)
        paths = [tmp_path / "a" / "runs" / world.run.id / name for name in ("run.spec", "keys")]
        assert [path.stat().st_mode & 0o777 for path in paths] == [0o600, 0o600]

        stranger = await stack.enter_async_context(open_host(settings(tmp_path / "x"), invite.peers))
        with pytest.raises(UnreachableError):
            await stranger.swarm.fetch_spec(owner.peer_id, world.run.id)
        me = stranger.identity.peer_id

        async def connected() -> set[str]:
            return {peer.peer_id for peer in await owner.host.swarm.peers()}

        async with asyncio.timeout(30):
            while me in await connected():
                await asyncio.sleep(0.1)
        assert node.peer_id in await connected()


async def test_a_newcomer_waits_until_the_owners_node_is_there(tmp_path: Path) -> None:
    world = PrivateWorld(tmp_path)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        owner = await owners_node(world, tmp_path / "owner", first)
        invite, said = invite_to(world, owner.host), list[str]()
        await first.aclose()
        newcomer = Newcomer(say=said.append, again_s=0.2)

        async def join() -> None:
            async with newcomer_host(settings(tmp_path / "a"), invite, newcomer) as host:
                assert (await join_run(host, invite, newcomer)) == world.run

        joining = asyncio.create_task(join())
        await soon(lambda: said or joining.done())
        assert said[0].startswith(f"waiting to be let in by {world.owner_node.peer_id}")
        await owners_node(world, tmp_path / "owner", stack)  # it listens where it did
        await asyncio.wait_for(joining, 60)
