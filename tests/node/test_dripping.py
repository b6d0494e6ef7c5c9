"""Peers that answer a byte at a time: a newcomer starts, a refresh ends and a run is joined beside them. Real
daemons."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.identity import Identity
from paris_p2p.invite import Invite
from paris_p2p.node.blob_sources import SourceLedger
from paris_p2p.node.fetch import Fetcher
from paris_p2p.node.host import Host, open_host
from paris_p2p.node.joining import join_run
from paris_p2p.node.run_node import opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import CHUNK_BYTES
from paris_p2p.rules.run_state import run_state
from paris_p2p.swarm.blob_client import CHUNK_HEAD, pack_head, read_map
from paris_p2p.swarm.real import open_swarm
from tests.peer.world import World
from tests.store.made import add_bytes
from tests.test_spec import spec

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(120)]


class Dripper:
    """Answers every question with the size of a long body, and then with one byte now and then, without
    end."""

    def __init__(self, swarm: Any):
        self.peer_id, self.addresses = swarm.peer_id, swarm.addresses()
        self.taken: list[int] = []
        self.sat = asyncio.Event()  # it was asked for chunks
        self.asked: list[str] = []
        self.held: set[str] = set()  # what it is dripping now
        swarm._blob_server._converse = self._converse

    async def _converse(
        self, peer: str, address: str, reader: asyncio.StreamReader, out: socket.socket
    ) -> None:
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
        assert owner.store.max_bytes > 0  # nobody said how much: half of the disk stays free
        where = owner.swarm.addresses()
        settings = PeerSettings(data_dir=tmp_path / "bad", host="127.0.0.1")
        bad = await stack.enter_async_context(
            open_swarm(Identity.generate(), settings, bootstrap_peers=where)
        )
        dripper = Dripper(bad)
        newcomer = await host_at(stack, tmp_path / "newcomer", where)
        await newcomer.swarm.connect(bad.addresses())
        invite = Invite(run=world.run.id, peers=(bad.addresses()[0], where[0]))
        assert (await join_run(newcomer, invite)).id == world.run.id
        node = await stack.enter_async_context(opened(newcomer, world.run))
        while not any(name.startswith("records") for name in dripper.held):  # it may be asked a moment later
            await asyncio.sleep(0.01)
        assert list(node.reading._asked) == [bad.peer_id]  # still at it, and nobody waits
        before = len(dripper.asked)
        for _ in range(3):
            await node.ask_connected()
            await node.refresh()
        assert len(dripper.asked) == before  # it is not asked anew while it owes an answer
        await node.reading.close()
        assert not node.reading._asked


class Colluder(Dripper):
    """Says that it has everything, or what its partner was asked for, and sends a byte of it now and then."""

    partner: Colluder | None = None

    async def _converse(
        self, peer: str, address: str, reader: asyncio.StreamReader, out: socket.socket
    ) -> None:
        request, loop = await read_map(reader, peer), asyncio.get_running_loop()
        if request["op"] == "have":
            if self.partner is not None:
                await self.partner.sat.wait()
            taken = range(64) if self.partner is None else self.partner.taken
            body = sum(1 << index for index in taken).to_bytes(8, "little")
            await loop.sock_sendall(out, pack_head({"ok": True, "size": 8}) + body)
            await reader.read(1)
        elif request["op"] == "chunks":
            self.taken += request["indexes"]
            self.sat.set()
            await loop.sock_sendall(
                out, pack_head({"ok": True}) + CHUNK_HEAD.pack(request["indexes"][0], CHUNK_BYTES)
            )
            while True:
                await loop.sock_sendall(out, b"x")
                await asyncio.sleep(0.2)
        else:
            await super()._converse(peer, address, reader, out)


async def test_two_that_drip_the_same_chunks_do_not_stall_a_download(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(12 * CHUNK_BYTES)
    async with AsyncExitStack() as stack:
        seeder = await host_at(stack, tmp_path / "seeder")
        ref = add_bytes(seeder.store, data)
        where = seeder.swarm.addresses()
        first, second = [
            Colluder(
                await stack.enter_async_context(
                    open_swarm(Identity.generate(), settings, bootstrap_peers=where)
                )
            )
            for settings in (
                PeerSettings(data_dir=tmp_path / name, host="127.0.0.1") for name in ("one", "other")
            )
        ]
        second.partner = first
        asker = await host_at(stack, tmp_path / "asker", where)
        for bad in (first, second):
            await asker.swarm.connect(bad.addresses)
        honest = seeder.identity.peer_id

        async def serves(blob_id: str) -> bytes:
            await second.sat.wait()  # the honest one comes when both sit
            return await fetch_have(honest, blob_id)

        fetch_have = asker.swarm.fetch_have

        async def have(peer: str, blob_id: str) -> bytes:
            return await (serves(blob_id) if peer == honest else fetch_have(peer, blob_id))

        asker.swarm.fetch_have = have  # type: ignore[method-assign]
        seeder.members["run"] = Everything()  # type: ignore[assignment]

        async def sources() -> list[str]:
            return [first.peer_id, second.peer_id, honest]

        path = await Fetcher(asker.swarm, asker.store, SourceLedger(), 3600.0).one(ref, sources)
        assert path.read_bytes() == data
        assert set(second.taken) <= set(first.taken)


class Everything:
    """A run whose data is all there is."""

    run, state = "run", run_state("ab" * 32, spec(), [], 0.0)

    def serves(self, blob_id: str) -> bool:
        return True

    def things(self, blob_id: str) -> set[str]:
        return {"data"}

    def knows(self, peer: str) -> bool:
        return False
