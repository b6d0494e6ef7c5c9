"""The seam's contract, kept by the fake and by real daemons alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from paris_p2p.errors import MissingBlobError, RecordError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.kinds import MAX_ENVELOPE_BYTES, claims_key, dht_key, tips_key
from paris_p2p.swarm.seam import MAX_GOSSIP_BYTES
from paris_p2p.swarm.verified import subkey_of
from tests.swarm.swarms import (
    BLOB,
    CHUNKS,
    RUN,
    InMemory,
    Network,
    OnLoopback,
    Source,
    attestation,
    card,
    claim,
)

pytestmark = pytest.mark.timeout(60)
KEY = claims_key(RUN, "expert-0")


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.swarm)])
async def network(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        yield InMemory() if request.param == "fake" else OnLoopback(tmp_path, stack)


async def test_a_record_stored_on_one_peer_is_read_on_another(network: Network) -> None:
    me = Identity.generate()
    writer, reader = await network.join(me), await network.join()
    stored = claim(me, 1)
    assert await writer.store_record(stored)
    for swarm in (writer, reader):
        assert [envelope.data for envelope in await swarm.read_records(KEY, RUN)] == [stored.data]
    assert await reader.read_records(claims_key(RUN, "expert-1"), RUN) == []


async def test_a_card_and_an_attestation_of_one_peer_stand_side_by_side(network: Network) -> None:
    me = Identity.generate()
    writer, reader = await network.join(me), await network.join()
    mine = card(me, 1)
    assert await writer.store_record(mine)
    assert await writer.store_record(attestation(me, mine))
    kinds = {envelope.record.kind for envelope in await reader.read_records(tips_key(RUN, "expert-0"), RUN)}
    assert kinds == {"card", "attestation"}


async def test_a_renewal_replaces_a_claim(network: Network) -> None:
    me = Identity.generate()
    writer, reader = await network.join(me), await network.join()
    assert await writer.store_record(claim(me, 1, lifetime_s=50))
    assert await writer.store_record(claim(me, 2, lifetime_s=60))
    assert [envelope.record.seq for envelope in await reader.read_records(KEY, RUN)] == [2]


async def test_an_older_record_does_not_win_over_one_that_was_seen(network: Network) -> None:
    me = Identity.generate()
    writer, reader = await network.join(me), await network.join()
    await writer.store_record(claim(me, 2, lifetime_s=50))
    assert [envelope.record.seq for envelope in await reader.read_records(KEY, RUN)] == [2]
    older = claim(me, 1, lifetime_s=500)  # lives longer, so that the DHT prefers it
    await network.plant(KEY, subkey_of(older), older.record.expires_at, older.data)
    assert [envelope.record.seq for envelope in await reader.read_records(KEY, RUN)] == [2]


@pytest.mark.parametrize("fault", ["forged", "moved", "foreign subkey", "other expiry", "not a record"])
async def test_a_false_entry_of_a_lying_node_is_refused_and_honest_ones_are_read(
    network: Network, fault: str
) -> None:
    honest, victim = Identity.generate(), Identity.generate()
    writer, reader = await network.join(honest), await network.join()
    await writer.store_record(claim(honest, 1))
    good, elsewhere = claim(victim, 1), claim(victim, 1, slot="expert-1")
    forged = good.data[:-1] + bytes([good.data[-1] ^ 1])
    subkey, expires_at, data = {
        "forged": (subkey_of(good), good.record.expires_at, forged),
        "moved": (subkey_of(elsewhere), elsewhere.record.expires_at, elsewhere.data),
        "foreign subkey": (f"{honest.peer_id}:claim", good.record.expires_at, good.data),
        "other expiry": (subkey_of(good), good.record.expires_at + 50, good.data),
        "not a record": ("x", good.record.expires_at, b"\x93" * 40),
    }[fault]
    await network.plant(KEY, subkey, expires_at, data)
    assert [envelope.signer for envelope in await reader.read_records(KEY, RUN)] == [honest.peer_id]
    assert sum(reader.refused.values()) > 0


async def test_gossip_reaches_the_other_subscribers_and_not_the_sender(network: Network) -> None:
    one, other = await network.join(), await network.join()
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    echoes: list[bytes] = []

    async def hear(sender: str, data: bytes) -> None:
        heard.put_nowait((sender, data))

    async def hear_myself(sender: str, data: bytes) -> None:
        echoes.append(data)

    await other.subscribe("topic", hear)
    await one.subscribe("topic", hear_myself)
    for _ in range(40):
        # gossip is a hint: a message sent before the subscription is known to the sender is lost
        await one.publish("topic", b"hint")
        try:
            async with asyncio.timeout(0.25):
                assert await heard.get() == (one.peer_id, b"hint")
            break
        except TimeoutError:
            continue
    else:
        pytest.fail("no message came")
    assert echoes == []


async def test_gossip_over_the_bound_is_refused(network: Network) -> None:
    one = await network.join()
    with pytest.raises(RecordError, match="over the limit"):
        await one.publish("topic", bytes(MAX_GOSSIP_BYTES + 1))


async def test_specs_manifests_and_records_are_fetched(network: Network) -> None:
    known = claim(Identity.generate(), 1).data
    seeder, asker = await network.join(source=Source(records=(known,))), await network.join()
    assert await asker.fetch_spec(seeder.peer_id, RUN) == b"a spec"
    assert await asker.fetch_manifest(seeder.peer_id, BLOB) == b"a manifest"
    assert await asker.fetch_have(seeder.peer_id, BLOB) == b"\x37"
    assert await asker.fetch_have(seeder.peer_id, "00" * 32) == b""
    assert await asker.fetch_records(seeder.peer_id, KEY) == [known]


async def test_what_a_peer_has_not_is_said_so(network: Network) -> None:
    seeder, asker = await network.join(source=Source()), await network.join()
    with pytest.raises(MissingBlobError):
        await asker.fetch_manifest(seeder.peer_id, "00" * 32)
    with pytest.raises(UnreachableError):
        await asker.fetch_spec(seeder.peer_id, "00" * 32)


async def test_chunks_come_in_order_without_those_that_are_missing_and_are_counted(network: Network) -> None:
    seeder, asker = await network.join(source=Source()), await network.join()
    got = [
        (index, bytes(data)) async for index, data in asker.fetch_chunks(seeder.peer_id, BLOB, [5, 0, 3, 4])
    ]
    assert got == [(5, CHUNKS[5]), (0, CHUNKS[0]), (4, CHUNKS[4])]
    moved = sum(len(data) for _, data in got)
    assert asker.transfer.downloaded_bytes == seeder.transfer.uploaded_bytes == moved


async def test_leaving_a_download_early_leaves_the_seeder_able_to_serve(network: Network) -> None:
    seeder, asker = await network.join(source=Source()), await network.join()
    for _ in range(12):  # more often than one peer may have streams at once
        async with aclosing(asker.fetch_chunks(seeder.peer_id, BLOB, [0, 1, 2])) as chunks:
            assert await anext(chunks) == (0, CHUNKS[0])
    assert [index async for index, _ in asker.fetch_chunks(seeder.peer_id, BLOB, [1])] == [1]


async def test_a_silent_seeder_is_given_up(network: Network) -> None:
    source = Source()
    seeder, asker = await network.join(source=source), await network.join()
    try:
        with pytest.raises(UnreachableError, match="silent"):
            async for _ in asker.fetch_chunks(seeder.peer_id, BLOB, [0, 100], silence_s=0.3):
                pass
    finally:
        source.stalled.set()


async def test_a_chunk_over_the_bound_is_not_taken(network: Network) -> None:
    seeder, asker = await network.join(source=Source()), await network.join()
    with pytest.raises(UnreachableError, match="1000"):
        async for _ in asker.fetch_chunks(seeder.peer_id, BLOB, [0], max_chunk_bytes=1000):
            pass


async def test_a_peer_that_may_not_is_refused(network: Network) -> None:
    seeder, asker = await network.join(source=Source(allowed=False)), await network.join()
    with pytest.raises(UnreachableError, match="refused"):
        await asker.fetch_manifest(seeder.peer_id, BLOB)
    with pytest.raises(UnreachableError, match="refused"):
        await asker.fetch_spec(seeder.peer_id, RUN)


async def test_a_peer_that_is_not_there_is_unreachable(network: Network) -> None:
    asker = await network.join()
    stranger = Identity.generate().peer_id
    with pytest.raises(UnreachableError):
        await asker.fetch_spec(stranger, RUN)
    with pytest.raises(UnreachableError):
        await asker.connect([f"/ip4/127.0.0.1/tcp/1/p2p/{stranger}"])


async def test_two_clocks_on_one_machine_agree(network: Network) -> None:
    one, other = await network.join(), await network.join()
    assert abs(await other.measure_clock_offset(one.peer_id)) < 1


async def test_connected_peers_are_listed_as_direct(network: Network) -> None:
    one, other = await network.join(), await network.join()
    assert {peer.peer_id: peer.direct for peer in await other.peers()} == {one.peer_id: True}


async def test_records_of_every_kind_stand_under_their_own_key_with_their_signer() -> None:
    me = Identity.generate()
    mine = card(me, 1)
    assert dht_key(mine.record) == tips_key(RUN, "expert-0")
    assert subkey_of(mine) == f"{me.peer_id}:card"
    assert len(mine.data) <= MAX_ENVELOPE_BYTES.get("card", 2048)
