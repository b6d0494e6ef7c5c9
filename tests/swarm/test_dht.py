"""What is particular to hivemind's DHT: plain values, and other runs' records."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity
from paris_p2p.kinds import claims_key
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm.real import open_swarm
from tests.swarm.swarms import RUN, OnLoopback, claim

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(60)]
KEY = claims_key(RUN, "expert-0")


async def test_a_value_without_subkey_does_not_replace_the_records_of_a_key(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        network, me = OnLoopback(tmp_path, stack), Identity.generate()
        writer, reader = await network.join(me), await network.join()
        await writer.store_record(claim(me, 1))
        await network.plant("paris/1/elsewhere", "x", time.time() + 9, b"x")
        await network._liar.store(KEY, claim(Identity.generate(), 1).data, time.time() + 1000)
        assert [envelope.signer for envelope in await reader.read_records(KEY, RUN)] == [me.peer_id]
        assert [envelope.signer for envelope in await writer.read_records(KEY, RUN)] == [me.peer_id]


async def test_a_node_that_knows_no_run_holds_and_sees_the_records_of_all(tmp_path: Path) -> None:
    seen: list[Envelope[Any]] = []
    me = Identity.generate()
    settings = [PeerSettings(data_dir=tmp_path / name, host="127.0.0.1") for name in "ab"]
    async with open_swarm(Identity.generate(), settings[0], on_record=seen.append) as bootstrap:
        async with open_swarm(me, settings[1], bootstrap_peers=bootstrap.addresses()) as peer:
            stored = claim(me, 1)
            await peer.store_record(stored)
        assert [envelope.id for envelope in await bootstrap.read_records(KEY, RUN)] == [stored.id]
        assert {envelope.id for envelope in seen} == {stored.id}
