"""Peers that answer a byte at a time: a newcomer starts, a refresh ends and a run is joined beside them. Real daemons."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.identity import Identity
from paris_p2p.node.host import Host, join_run, open_host
from paris_p2p.node.run import opened
from paris_p2p.spec import Invite, PeerSettings
from paris_p2p.swarm.blobs import pack_head, read_map
from paris_p2p.swarm.real import open_swarm
from tests.peer.world import World

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(120)]


class Dripper:
    """Answers every question with the size of a long body, and then with one byte now and then, without end."""

    def __init__(self, swarm: Any, tells_time: bool = True):
        self.asked: list[str] = []
        self.held: set[str] = set()  # what it is dripping now
        self._tells_time = tells_time
        swarm._blob_server._converse = self._converse

    async def _converse(self, peer: str, reader: asyncio.StreamReader, out: socket.socket) -> None:
        op = str((await read_map(reader, peer)).get("op"))
        self.asked.append(op)
        loop, name = asyncio.get_running_loop(), f"{op} {len(self.asked)}"
        self.held.add(name)
        try:
            await loop.sock_sendall(out, pack_head({"ok": True, "size": 100_000}))
            while True:
                await loop.sock_sendall(out, b"\x90")
                await asyncio.sleep(0.2)
        finally:
            self.held.discard(name)


async def host_at(stack: AsyncExitStack, folder: Path, bootstrap: tuple[str, ...] = ()) -> Host:
    settings = PeerSettings(data_dir=folder, host="127.0.0.1")
    return await stack.enter_async_context(open_host(settings, bootstrap))


async def test_who_drips_holds_up_no_newcomers_start_and_no_refresh(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    async with AsyncExitStack() as stack:
        owner = await host_at(stack, tmp_path / "owner")
        await stack.enter_async_context(opened(owner, world.run))
        where = owner.swarm.addresses()
        settings = PeerSettings(data_dir=tmp_path / "bad", host="127.0.0.1")
        bad = await stack.enter_async_context(open_swarm(Identity.generate(), settings, bootstrap_peers=where))
        dripper = Dripper(bad)
        newcomer = await host_at(stack, tmp_path / "newcomer", where)
        await newcomer.swarm.connect(bad.addresses())
        invite = Invite(run=world.run.id, peers=(bad.addresses()[0], where[0]))
        assert (await join_run(newcomer, invite)).id == world.run.id
        assert "spec" in dripper.asked
        node = await stack.enter_async_context(opened(newcomer, world.run))
        assert any(name.startswith("records") for name in dripper.held)  # still at it, and nobody waits
        before = len(dripper.asked)
        for _ in range(3):
            await node.ask_connected()
            await node.refresh()
        assert len(dripper.asked) == before  # it is not asked anew while it owes an answer
        await node.stop_asking()
        assert not node._asked
