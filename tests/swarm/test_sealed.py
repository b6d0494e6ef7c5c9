"""A private run over real daemons: an outsider's DHT node keeps its records, verified and unread."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest
from pydantic import ByteSize

from examples.studio.needles import Search, hash_needle, text_needle
from paris_p2p.identity import Identity, write_private_file
from paris_p2p.kinds import claims_key, dht_key
from paris_p2p.node.host import Host, open_host
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import ClaimRecord
from paris_p2p.swarm.real import RealSwarm
from tests.node.private_world import MEMBER, PrivateWorld

pytestmark = pytest.mark.swarm
SLOT = "expert-0"


async def test_an_outsider_keeps_a_private_runs_records_and_members_read_them_there(tmp_path: Path) -> None:
    world = PrivateWorld(tmp_path / "world")
    async with AsyncExitStack() as stack:

        async def host(name: str, *known: str, on: AsyncExitStack = stack) -> Host:
            settings = PeerSettings(
                data_dir=tmp_path / name, host="127.0.0.1", max_disk_bytes=ByteSize(1 << 30)
            )
            return await on.enter_async_context(open_host(settings, known, relay_service=name == "outsider"))

        async def member(name: str, *known: str, on: AsyncExitStack = stack) -> RunNode:
            identity = Identity.generate()
            (tmp_path / name).mkdir(mode=0o700)
            write_private_file(tmp_path / name / "identity.key", identity.libp2p_private_key())
            world.admit(tmp_path / name, identity, MEMBER)
            return await on.enter_async_context(opened(await host(name, *known, on=on), world.run))

        outsider = await host("outsider")
        addresses = outsider.swarm.addresses()
        async with AsyncExitStack() as leaving:
            first = await member("first", *addresses, on=leaving)
            now = time.time()
            times = {"issued_at": now, "expires_at": now + 600, "claimed_at": now}
            claim = first.sign(ClaimRecord(run=world.run.id, slot=SLOT, seq=1, epoch=1, **times))
            async with asyncio.timeout(60):
                await first.tell(claim)
                while claim.data not in (held := sealed_bytes(outsider)):
                    await asyncio.sleep(0.1)
        late = await member("late", *addresses)
        found = await late.swarm.read(claims_key(world.run.id, SLOT))
        assert [one.id for one in found] == [claim.id]
        assert dht_key(claim.record).encode() not in held
        needles = [hash_needle("run", "id", bytes.fromhex(world.run.id)), text_needle("slot", SLOT)]
        needles += [text_needle("word", "claimed_at"), hash_needle("id", "claim", bytes.fromhex(claim.id))]
        assert Search(needles).found_in(held) == set()
        assert outsider.swarm.refused.get("DHT entry: malformed", 0) == 0


def sealed_bytes(host: Host) -> bytes:
    """Returns all that a node holds for others."""
    shelves = cast(RealSwarm, host.swarm)._storage._shelves.values()
    return b"".join(held.value for shelf in shelves for held in shelf.entries.values())
