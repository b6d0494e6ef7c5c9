"""An owner's notices over real daemons: by gossip, by questions, and from the bulletin board."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import ByteSize

from paris_p2p.node.host import open_host
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.owner_records import Extend, Pause, Resume
from paris_p2p.peer_settings import PeerSettings
from tests.peer.world import World
from tests.rules.made_notices import chain_of

pytestmark = pytest.mark.swarm
CHANGES = [Pause(reason="night"), Resume(), Extend(total_steps=9)]


async def test_notices_reach_those_who_are_there_and_one_that_comes_when_the_owner_has_gone(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "world")
    chain = chain_of(world.run.id, CHANGES, world.owner, time.time() - 60)
    async with AsyncExitStack() as stack:

        async def node(name: str, known: Sequence[str] = (), on: AsyncExitStack = stack) -> RunNode:
            settings = PeerSettings(
                data_dir=tmp_path / name, host="127.0.0.1", max_disk_bytes=ByteSize(1 << 30)
            )
            host = await on.enter_async_context(open_host(settings, known))
            return await on.enter_async_context(opened(host, world.run))

        first = await node("first")
        addresses = first.host.swarm.addresses()
        async with AsyncExitStack() as leaving:
            owner = await node("owner", addresses, leaving)
            heard = asyncio.Event()
            first.listeners.append(lambda _: heard.set())
            for notice in chain:
                owner.keep(notice)
                await owner.tell(notice)
            async with asyncio.timeout(60):
                while first.chain.number < len(chain):
                    await heard.wait()
                    heard.clear()
        assert first.spec.training.total_steps == 9
        late = await node("late", addresses)
        assert late.chain.number == len(chain)
        assert [one.id for one in late.chain.notices] == [one.id for one in chain]
        found = [await late.swarm.read(f"paris/1/{late.run}/notices/{number}") for number in (1, 2, 3, 4)]
        assert [len(records) for records in found] == [1, 1, 1, 0]
