"""What strangers send to a DHT node, and answer to one, is bounded and verified before hivemind sees it."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2PContext
from hivemind.p2p.p2p_daemon_bindings.datastructures import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PHandlerError
from hivemind.proto import dht_pb2 as pb
from hivemind.utils import MSGPackSerializer

from paris_p2p import envelope as envelopes
from paris_p2p.errors import DaemonError, RecordError
from paris_p2p.identity import Identity, peer_id_to_bytes
from paris_p2p.kinds import claims_key
from paris_p2p.swarm import door
from paris_p2p.swarm.door import MAX_KEYS, Door, Raw
from paris_p2p.swarm.entries import MAX_BAD_ENTRIES, BoardEntry, pack_dictionary, read_dictionary
from paris_p2p.swarm.limits import Allowance, Budgets
from paris_p2p.swarm.parcels import keep_own_nearest, name_of, node_id_of
from paris_p2p.swarm.storage import RecordStorage, StorageLimits
from paris_p2p.swarm.verified import RecordView, subkey_of
from paris_p2p.swarm.waiting import MAX_WAITING, MAX_WAITING_OF_ONE
from tests.swarm.swarms import RUN, OnLoopback, claim, stray

KEY = claims_key(RUN, "expert-0")
KEY_ID = DHTID.generate(source=KEY).to_bytes()
swarm = pytest.mark.swarm
limit = pytest.mark.timeout(60)


def bomb(depth: int, inner: bytes = b"\x90") -> bytes:
    """An extension that hivemind's serializer decodes by itself, `depth` times in itself."""
    for _ in range(depth):
        inner = b"\x91\xc9" + struct.pack(">I", len(inner)) + b"\x40" + inner
    return inner


BOMBS = {
    "in a tuple": bomb(250),
    "in a dictionary": msgpack.packb(msgpack.ExtType(0x50, bomb(250))),
    "in an entry": msgpack.packb(msgpack.ExtType(0x50, msgpack.packb([1.0, 1.0, [["a", bomb(250), 1.0]]]))),
    "in a subkey": msgpack.packb(
        msgpack.ExtType(0x50, b"\x93\xc0\xc0\x91\x93" + bomb(250) + b"\xc4\x00\xc0")
    ),
    "dictionaries": msgpack.packb(msgpack.ExtType(0x50, msgpack.packb(msgpack.ExtType(0x50, b"\x90")))),
    "lists": b"\x91" * 1_000_000,
}


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Any, Any]]:
    """(a stranger, an honest node)."""
    async with AsyncExitStack() as stack:
        network = OnLoopback(tmp_path, stack)
        honest = await network.join()
        yield await network.join(), honest


def stub_of(stranger: Any, victim: Any) -> Any:
    """To send the victim what no honest node would."""
    stub: Any = DHTProtocol._stub_type  # past the stranger's own door
    return stub(stranger._keeper.link.board._p2p, PeerID(peer_id_to_bytes(victim.peer_id)), None)


def node_of(swarm: Any) -> Any:
    return swarm._keeper.link.board._node


def store_request(records: list[Any], *, in_cache: bool = False) -> Any:
    return pb.StoreRequest(
        keys=[KEY_ID] * len(records),
        subkeys=[MSGPackSerializer.dumps(subkey_of(record)) for record in records],
        values=[MSGPackSerializer.dumps(record.data) for record in records],
        expiration_time=[float(record.record.expires_at) for record in records],
        in_cache=[in_cache] * len(records),
    )


def dictionary_request(packed: bytes) -> Any:
    return pb.StoreRequest(
        keys=[KEY_ID],
        subkeys=[DHTProtocol.IS_DICTIONARY],
        values=[packed],
        expiration_time=[time.time() + 100],
        in_cache=[False],
    )


@swarm
@limit
async def test_a_store_of_nested_extensions_is_refused_and_the_next_one_answered(
    pair: tuple[Any, Any],
) -> None:
    stranger, honest = pair
    stub = stub_of(stranger, honest)
    for packed in BOMBS.values():
        with pytest.raises(P2PHandlerError, match="malformed"):
            await stub.rpc_store(dictionary_request(packed), timeout=20)
    for packed in BOMBS.values():  # as the value, and as the subkey, of an entry
        for subkey, value in ((b"\xa1a", packed), (packed, b"\xc4\x00")):
            request = pb.StoreRequest(
                keys=[KEY_ID], subkeys=[subkey], values=[value], expiration_time=[9e9], in_cache=[False]
            )
            assert list((await stub.rpc_store(request, timeout=20)).store_ok) == [False]
    good = claim(Identity.generate(), 1)
    assert list((await stub.rpc_store(store_request([good]), timeout=20)).store_ok) == [True]


@swarm
@limit
async def test_an_answer_of_nested_extensions_is_no_answer_to_a_reader(pair: tuple[Any, Any]) -> None:
    stranger, honest = pair
    p2p, name, answers = stranger._keeper.link.board._p2p, "DHTProtocol.rpc_find", list(BOMBS.values())
    asked: list[bytes] = []

    async def find(request: Any, context: Any) -> Any:
        asked.append(answers[len(asked) % len(answers)])
        kind = pb.FOUND_REGULAR if len(asked) > len(answers) else pb.FOUND_DICTIONARY
        results = [pb.FindResult(type=kind, value=asked[-1], expiration_time=9e9) for _ in request.keys]
        return pb.FindResponse(results=results, peer=node_of(stranger).protocol.node_info)

    await p2p.remove_protobuf_handler(name)
    await p2p.add_protobuf_handler(name, find, pb.FindRequest)
    await honest.store_record(claim(me := Identity.generate(), 1))
    while len(asked) < 2 * len(answers):
        node_of(honest).blacklist.register_success(PeerID(peer_id_to_bytes(stranger.peer_id)))
        node_of(honest).protocol.routing_table.add_or_update_node(
            node_of(stranger).node_id, node_of(stranger).peer_id
        )
        assert [record.signer for record in await honest.read_records(KEY, RUN)] == [me.peer_id]


@swarm
@limit
async def test_one_fat_key_asked_for_often_is_answered_once_and_then_refused(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, honest = pair
    stub = stub_of(stranger, honest)
    records = [claim(Identity.generate(), 1) for _ in range(64)]
    assert all((await stub.rpc_store(store_request(records), timeout=20)).store_ok)
    key_bytes = honest._storage.answer_bytes(DHTID.from_bytes(KEY_ID))
    for keys in (
        [KEY_ID] * 2,
        [os.urandom(20) for _ in range(MAX_KEYS + 1)],
        [KEY_ID] * 2000,
        [],
        [b"short"],
        [bytes(21)],
    ):
        with pytest.raises(P2PHandlerError, match=r"malformed|too large"):
            await stub.rpc_find(pb.FindRequest(keys=keys), timeout=20)
    small = Allowance(size_bytes=3.5 * key_bytes, keys=1e9, cpu_s=60.0)
    honest._keeper.link.board._door._asked = Budgets(small, clock=lambda: 0.0)
    sizes = [
        len((await stub.rpc_find(pb.FindRequest(keys=[KEY_ID]), timeout=20)).results[0].value)
        for _ in range(3)
    ]
    assert all(0.8 * key_bytes < size < 1.2 * key_bytes for size in sizes)
    with pytest.raises(P2PHandlerError, match="budget"):
        await stub.rpc_find(pb.FindRequest(keys=[KEY_ID]), timeout=20)
    assert honest.refused["DHT: request over the peer's budget"] == 1


@swarm
@limit
async def test_of_a_store_full_of_wrong_signatures_only_the_first_few_are_looked_at(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, honest = pair
    good = claim(Identity.generate(), 1)
    forged = [claim(Identity.generate(), 1) for _ in range(500)]
    entries = [
        BoardEntry(KEY_ID, subkey_of(e), e.data[:-1] + bytes([e.data[-1] ^ 1]), e.record.expires_at)
        for e in forged
    ]
    packed, _ = pack_dictionary(
        [BoardEntry(KEY_ID, subkey_of(good), good.data, good.record.expires_at), *entries]
    )
    checked: list[str] = []
    verify = envelopes.verify

    def counted(peer: str, message: bytes, signature: bytes) -> None:
        checked.append(peer)
        verify(peer, message, signature)

    monkeypatch.setattr(envelopes, "verify", counted)
    assert list(
        (await stub_of(stranger, honest).rpc_store(dictionary_request(packed), timeout=20)).store_ok
    ) == [False]
    assert len(checked) == 1 + MAX_BAD_ENTRIES
    assert [e.signer for e in await honest.read_records(KEY, RUN)] == [good.signer]


@swarm
@limit
async def test_a_peer_is_one_node_at_the_place_of_its_own_id(pair: tuple[Any, Any]) -> None:
    stranger, honest = pair
    stub, table = stub_of(stranger, honest), node_of(honest).protocol.routing_table
    before = dict(table.uid_to_peer_id)
    for node_id in (os.urandom(20), bytes(20), b"\xff" * 21, b"\xff" * 100):
        ping = pb.PingRequest(peer=pb.NodeInfo(node_id=node_id))
        assert not (await stub.rpc_ping(ping, timeout=20)).available
        await stub.rpc_find(pb.FindRequest(keys=[KEY_ID], peer=ping.peer), timeout=20)
    assert dict(table.uid_to_peer_id) == before


@swarm
@limit
async def test_a_node_that_is_met_by_its_question_is_handed_what_it_should_hold(
    pair: tuple[Any, Any],
) -> None:
    newcomer, honest = node_of(pair[0]).protocol, node_of(pair[1]).protocol
    held = claim(Identity.generate(), 1)
    value = MSGPackSerializer.dumps(held.data)
    key, subkey, expires_at = DHTID.from_bytes(KEY_ID), subkey_of(held), held.record.expires_at
    assert honest.storage.store_subkey(key, subkey, value, expires_at)
    del honest.routing_table[newcomer.node_id]  # as if it had never been seen
    assert await newcomer.call_find(honest.p2p.peer_id, [key]) is not None
    while newcomer.storage.get(key) is None:
        await asyncio.sleep(0.01)


@swarm
@limit
async def test_nothing_is_cached_on_request_and_requests_that_are_not_aligned_are_refused(
    pair: tuple[Any, Any],
) -> None:
    stranger, honest = pair
    stub, records = stub_of(stranger, honest), [claim(Identity.generate(), 1) for _ in range(3)]
    assert (
        list((await stub.rpc_store(store_request(records, in_cache=True), timeout=20)).store_ok)
        == [False] * 3
    )
    bad = store_request(records)
    del bad.values[-1]
    for request in (bad, pb.StoreRequest(), pb.StoreRequest(keys=[b"x"])):
        with pytest.raises(P2PHandlerError, match="malformed"):
            await stub.rpc_store(request, timeout=20)
    moved = store_request([stray(), records[0]])
    assert list((await stub.rpc_store(moved, timeout=20)).store_ok) == [False, True]


@swarm
@limit
async def test_requests_and_answers_over_their_size_are_refused(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, honest = pair
    with pytest.raises(P2PHandlerError, match="too large"):
        await stub_of(stranger, honest).rpc_store(dictionary_request(bytes(door.MAX_STORE_BYTES)), timeout=20)
    protocol = node_of(stranger).protocol
    monkeypatch.setitem(door._MAX_RESPONSE_BYTES, "DHTProtocol.rpc_find", 10)
    assert await protocol.call_find(node_of(honest).peer_id, [DHTID.from_bytes(KEY_ID)]) is None
    assert stranger.refused["DHT: answer too large, or over the peer's budget"] == 1


def test_a_dictionary_comes_back_as_it_was_packed() -> None:
    records = [
        claim(Identity.generate(), 1, lifetime_s=-5.0 if number == 3 else 100.0) for number in range(300)
    ][:3]
    entries = [BoardEntry(KEY_ID, subkey_of(e), e.data, e.record.expires_at) for e in records]
    packed, latest = pack_dictionary(entries)
    assert read_dictionary(KEY_ID, packed) == entries
    assert latest == max(e.record.expires_at for e in records)
    unpacked: Any = MSGPackSerializer.loads(packed)
    assert {subkey for subkey, _ in unpacked.items()} == {subkey_of(e) for e in records}


def test_a_budget_is_refilled_by_the_minute_and_never_above_its_size() -> None:
    now = [0.0]
    budgets = Budgets(Allowance(size_bytes=600, keys=60, cpu_s=6.0), clock=lambda: now[0])
    assert budgets.spend("a", size_bytes=600)
    assert not budgets.spend("a", size_bytes=1)
    assert budgets.spend("b", size_bytes=600, keys=60)
    now[0] = 30.0
    assert budgets.spend("a", size_bytes=300)
    assert not budgets.spend("a", size_bytes=1)
    now[0] = 10_000.0
    assert not budgets.spend("a", size_bytes=601)
    assert budgets.spend("a", size_bytes=600)


def test_the_records_of_a_large_run_are_within_what_one_peer_may_answer_in_a_minute() -> None:
    budgets = Budgets(door.TOLD, clock=lambda: 0.0)
    for _ in range(4 * 9):
        assert budgets.spend("a", size_bytes=1024 * 600, keys=1024)


def test_processor_time_that_was_used_is_paid_back_before_more_is_given() -> None:
    now = [0.0]
    budgets = Budgets(Allowance(size_bytes=1e9, keys=1e9, cpu_s=6.0), clock=lambda: now[0])
    budgets.charge("a", 12.0)
    assert not budgets.spend("a")
    now[0] = 59.0
    assert not budgets.spend("a")
    now[0] = 61.0
    assert budgets.spend("a")
    for number in range(5000):  # those heard longest ago are forgotten
        budgets.spend(str(number))
    assert len(budgets._left) == 4096


def test_a_node_has_the_place_that_follows_from_its_peer_id() -> None:
    raw = Identity.generate().peer_id_bytes
    result = pb.FindResult(
        nearest_node_ids=[node_id_of(raw).to_bytes(), os.urandom(20), b"x"], nearest_peer_ids=[raw, raw]
    )
    keep_own_nearest(result)
    assert (list(result.nearest_peer_ids), len(result.nearest_node_ids)) == ([raw], 1)


async def test_what_is_being_checked_when_p2pd_ends_is_checked_and_what_comes_later_says_why_not() -> None:
    class Ended:
        peer_id = PeerID(Identity.generate().peer_id_bytes)

    view = RecordView()
    closing = Door(Ended(), view, RecordStorage(StorageLimits(), view.refused), None)  # type: ignore[arg-type]
    go_on = threading.Event()
    checking = [asyncio.create_task(closing.run(go_on.wait, 20)) for _ in range(3)]
    await asyncio.sleep(0)  # they are in the thread, or wait for it
    closing.close()
    go_on.set()
    assert await asyncio.gather(*checking) == [True] * 3
    with pytest.raises(DaemonError, match="restarted"):
        await closing.run(go_on.wait, 20)


class Blocked:
    """A door on no network, behind which nothing is worked on until it is opened; peers 0 to 7 share an
    address.
    """

    def __init__(self) -> None:
        self.peer_id = PeerID(Identity.generate().peer_id_bytes)
        self.peers = [PeerID(Identity.generate().peer_id_bytes) for _ in range(MAX_WAITING + 1)]
        crowd = {str(peer) for peer in self.peers[:8]}
        view, self.opened, self.answers = RecordView(), asyncio.Event(), {}
        storage = RecordStorage(
            StorageLimits(), view.refused, lambda peer: "9.9.9.9" if peer in crowd else ""
        )
        self.door = Door(self, view, storage, None)  # type: ignore[arg-type]

    async def add_protobuf_handler(self, name: str, answer: Any, *_: Any) -> None:
        self.answers[name] = answer

    async def ready(self) -> Blocked:
        await self.door.add_protobuf_handler("DHTProtocol.rpc_ping", self._pong, pb.PingRequest)
        return self

    async def _pong(self, request: Any, context: Any) -> Any:
        await self.opened.wait()
        return pb.PingResponse(available=True)

    def ask(self, number: int) -> asyncio.Task[Any]:
        context = P2PContext(handle_name="", local_id=self.peer_id, remote_id=self.peers[number])
        return asyncio.create_task(self.answers["DHTProtocol.rpc_ping"](Raw(b""), context))


def refused_of(tasks: list[asyncio.Task[Any]]) -> list[int]:
    return [
        number
        for number, task in enumerate(tasks)
        if task.done() and isinstance(task.exception(), RecordError)
    ]


async def test_a_full_waiting_room_has_a_place_for_who_holds_less_and_the_fullests_newest_request_goes() -> (
    None
):
    blocked = await Blocked().ready()
    crowd = [blocked.ask(number // MAX_WAITING_OF_ONE) for number in range(MAX_WAITING)]
    await settled()
    honest = blocked.ask(8)
    await settled()
    assert len(refused_of(crowd)) == 1
    assert refused_of(crowd)[0] % MAX_WAITING_OF_ONE == MAX_WAITING_OF_ONE - 1
    one_more = blocked.ask(0)
    await settled()
    assert isinstance(one_more.exception(), RecordError)  # its own address holds most
    blocked.opened.set()
    answers = await asyncio.gather(honest, *crowd, return_exceptions=True)
    assert sum(isinstance(answer, Raw) for answer in answers) == MAX_WAITING
    assert isinstance(answers[0], Raw)
    assert isinstance(await blocked.ask(0), Raw)  # every place is free again
    blocked.door.close()


async def test_a_full_waiting_room_is_shared_evenly_between_the_peers_of_one_address() -> None:
    blocked = await Blocked().ready()
    crowd = [blocked.ask(9 + number // MAX_WAITING_OF_ONE) for number in range(MAX_WAITING)]
    await settled()
    others = [blocked.ask(30 + number) for number in range(8)]
    await settled()
    assert refused_of(others) == []
    assert {number // MAX_WAITING_OF_ONE for number in refused_of(crowd)} == set(range(8))  # one of each
    for task in [*crowd, *others]:
        task.cancel()  # as p2pd does when the asker is gone
    await asyncio.gather(*crowd, *others, return_exceptions=True)
    assert sum(task.cancelled() for task in [*crowd, *others]) == MAX_WAITING
    blocked.opened.set()
    assert isinstance(await blocked.ask(9), Raw)
    blocked.door.close()


async def test_a_store_waits_behind_one_of_each_address_and_not_behind_all_of_a_crowds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocked, opened, checked = Blocked(), threading.Event(), list[str]()
    first, second, honest = (name_of(blocked.peers[number]) for number in (0, 1, 8))

    def read(request: Any) -> list[Any]:
        assert opened.wait(20)
        checked.append(request.keys[0].decode())
        return []

    async def pong(request: Any, context: Any) -> Any:
        return pb.StoreResponse(store_ok=[True] * len(request.keys))

    def store(peer: str) -> asyncio.Task[Any]:
        one = [peer.encode().ljust(20)[-20:]]
        request = pb.StoreRequest(keys=one, subkeys=one, values=one, expiration_time=[1.0], in_cache=[False])
        context = P2PContext(handle_name="", local_id=blocked.peer_id, remote_id=blocked.peers[0])
        return asyncio.create_task(blocked.door._answer_store(peer, pong, request, context))

    monkeypatch.setattr(door, "read_store", read)
    tasks = [store(peer) for peer in [first] * 3 + [second] * 3 + [honest]]
    await settled()
    opened.set()
    await asyncio.gather(*tasks)
    ends = [peer[-20:] for peer in (first, honest, second)]
    assert checked[:3] == ends
    assert checked[3:] == [ends[0], ends[2], ends[0], ends[2]]
    blocked.door.close()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
