"""Nodes of private runs alone hang up on those that show no membership; others never do."""

from __future__ import annotations

from pathlib import Path

from paris_p2p.identity import Identity
from paris_p2p.node.doorkeeper import HELLO_S, Doorkeeper
from paris_p2p.owner_records import Admit
from tests.node.members_world import MembersWorld
from tests.node.private_world import PrivateWorld


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_silent_stranger_is_hung_up_on_and_a_member_is_not(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        node = (await world.add("owner", role="owner")).node
        member = (await world.add("member")).node
        stranger, friend, asker = (world.network.join(Identity.generate()) for _ in range(3))
        swarm = world.network.swarms[node.peer_id]
        swarm.given.add(friend.peer_id)
        node.admitter.asking[asker.peer_id] = object()  # type: ignore[assignment]
        clock = Clock()
        keeper = Doorkeeper(node.host, clock)
        assert await keeper.look() == []
        clock.now_s = HELLO_S - 0.1
        assert await keeper.look() == []
        clock.now_s = HELLO_S
        assert await keeper.look() == [stranger.peer_id]
        assert member.state.is_member(node.peer_id)
        assert stranger.peer_id not in {peer.peer_id for peer in await swarm.peers()}
        # Dialled again it has as long again.
        await stranger.connect(swarm.addresses())
        assert await keeper.look() == []


async def test_a_peer_that_was_admitted_meanwhile_stays(tmp_path: Path) -> None:
    async with PrivateWorld(tmp_path) as world:
        node = (await world.add("owner", role="owner")).node
        newcomer, clock = world.network.join(Identity.generate()), Clock()
        keeper = Doorkeeper(node.host, clock)
        await keeper.look()
        node.keep(world.notice(Admit(peer=newcomer.peer_id, rights=("train",))))
        clock.now_s = HELLO_S + 1
        assert await keeper.look() == []


async def test_a_node_with_a_run_that_is_not_private_hangs_up_on_nobody(tmp_path: Path) -> None:
    async with MembersWorld(tmp_path) as world:
        node, clock = await world.owners_node(), Clock()
        world.network.join(Identity.generate())
        keeper = Doorkeeper(node.host, clock)
        await keeper.look()
        clock.now_s = 10 * HELLO_S
        assert await keeper.look() == []
