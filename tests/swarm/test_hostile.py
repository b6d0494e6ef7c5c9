"""Peers that talk nonsense on the stream protocol, as seeders and as askers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgpack
import pytest

from paris_p2p.errors import BusyError, SwarmError, UnreachableError
from paris_p2p.swarm import seats
from paris_p2p.swarm.blob_client import CHUNK_HEAD, LENGTH, MAX_HAVE_BYTES, PROTOCOL, pack_head
from paris_p2p.swarm.p2pd import close_stream
from tests.swarm.swarms import BLOB, CHUNKS, RUN, OnLoopback, Source

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(60)]

ANSWERS = {
    "an endless head": LENGTH.pack(0xFFFFFFFF) + b"x" * 100,
    "no msgpack": LENGTH.pack(4) + b"\xc1\xc1\xc1\xc1",
    "not a map": LENGTH.pack(1) + b"\x01",
    "nothing": b"",
    "half a head": LENGTH.pack(100) + b"x",
    "no size": pack_head({"ok": True}),
    "a negative size": pack_head({"ok": True, "size": -1}),
    "a size of text": pack_head({"ok": True, "size": "8"}),
    "a size over the bound": pack_head({"ok": True, "size": MAX_HAVE_BYTES + 1}),
    "less than its size": pack_head({"ok": True, "size": 1000}) + b"x",
}
CHUNK_ANSWERS = {
    "another chunk": pack_head({"ok": True}) + CHUNK_HEAD.pack(9, 1) + b"x",
    "4 GiB": pack_head({"ok": True}) + CHUNK_HEAD.pack(0, 0xFFFFFFFF) + b"x",
    "half a chunk": pack_head({"ok": True}) + CHUNK_HEAD.pack(0, 1000) + b"x",
    "no chunk": pack_head({"ok": True}),
}


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Any, Any]]:
    """(a peer that the test makes hostile, an honest one that serves)."""
    async with AsyncExitStack() as stack:
        network = OnLoopback(tmp_path, stack)
        yield await network.join(), await network.join(source=Source())


async def test_answers_that_break_the_protocol_end_the_request_and_nothing_else(
    pair: tuple[Any, Any],
) -> None:
    hostile, honest = pair
    for answer in ANSWERS.values():
        _answer_with(hostile, answer)
        with pytest.raises(UnreachableError):
            await honest.fetch_have(hostile.peer_id, BLOB)
    for answer in CHUNK_ANSWERS.values():
        _answer_with(hostile, answer)
        with pytest.raises(UnreachableError):
            _ = [item async for item in honest.fetch_chunks(hostile.peer_id, BLOB, [0])]


async def test_records_that_are_no_list_of_envelopes_are_refused_and_long_ones_are_dropped(
    pair: tuple[Any, Any],
) -> None:
    hostile, honest = pair
    for body in (msgpack.packb({"a": 1}), msgpack.packb([1, 2]), b"\xc1"):
        _answer_with(hostile, pack_head({"ok": True, "size": len(body)}) + body)
        with pytest.raises(UnreachableError):
            await honest.fetch_records(hostile.peer_id, "key")
    body = msgpack.packb([b"x" * 5000, b"short"])
    _answer_with(hostile, pack_head({"ok": True, "size": len(body)}) + body)
    assert await honest.fetch_records(hostile.peer_id, "key") == [b"short"]


async def test_a_clock_that_is_no_time_is_refused(pair: tuple[Any, Any]) -> None:
    hostile, honest = pair
    for time in (float("nan"), 1e300, "noon", None, -1.0):
        _answer_with(hostile, pack_head({"ok": True, "time": time}))
        with pytest.raises(UnreachableError):
            await honest.measure_clock_offset(hostile.peer_id)


async def test_requests_that_break_the_protocol_are_refused_and_the_next_one_is_answered(
    pair: tuple[Any, Any],
) -> None:
    hostile, honest = pair
    requests = [
        LENGTH.pack(0xFFFFFFFF) + b"x",
        LENGTH.pack(3) + b"\xc1\xc1\xc1",
        pack_head({"op": "format the disk"}),
        pack_head({"op": ["chunks"]}),
        pack_head({"op": "chunks", "blob": BLOB, "indexes": [-1]}),
        pack_head({"op": "chunks", "blob": BLOB, "indexes": [1 << 40]}),
        pack_head({"op": "chunks", "blob": BLOB, "indexes": list(range(5000))}),
        pack_head({"op": "chunks", "blob": BLOB, "indexes": "all"}),
        pack_head({"op": "chunks", "blob": 7, "indexes": []}),
    ]
    for request in requests:
        answer = await _say(hostile, honest.peer_id, request)
        assert b"bad request" in answer
    assert honest.refused["stream: bad request"] == len(requests)
    assert await hostile.fetch_spec(honest.peer_id, RUN) == b"a spec"


GREEDY = pack_head({"op": "chunks", "blob": BLOB, "indexes": [0] * 1000})  # 250 MB, of which it reads nothing


async def test_one_peer_cannot_take_all_seats_and_gives_them_back(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seats, "STUCK_S", 1e9)
    hostile, honest = pair
    held = [await _open(hostile, honest.peer_id, GREEDY) for _ in range(seats.MAX_STREAMS_PER_PEER)]
    try:
        await _until_seated(honest, seats.MAX_STREAMS_PER_PEER)
        with pytest.raises(BusyError):
            await hostile.fetch_spec(honest.peer_id, RUN)
    finally:
        await _close(held)
    await _until_served(hostile, honest.peer_id)


async def test_streams_that_wait_for_nothing_keep_nobody_out_and_the_oldest_of_them_end(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    hostile, honest = pair
    requests = (
        b"",
        LENGTH.pack(100) + b"half a head",
        pack_head({"op": "clock"}),
        pack_head({"op": "spec", "run": RUN}),
    )
    async with AsyncExitStack() as stack:
        network = OnLoopback(tmp_path / "late", stack)
        network.swarms.append(honest)  # whom the newcomer dials
        late: Any = await network.join()
        many = requests * seats.MAX_IDLE_STREAMS_PER_PEER
        held = [await _open(hostile, honest.peer_id, request) for request in many]
        try:
            for _ in range(20):
                assert await late.fetch_spec(honest.peer_id, RUN) == b"a spec"
            idle = [seat for seat in honest._blob_server.seats.idle if seat.peer == hostile.peer_id]
            assert len(idle) <= seats.MAX_IDLE_STREAMS_PER_PEER
            assert not [seat for seat in honest._blob_server.seats.busy if seat.peer == hostile.peer_id]
        finally:
            await _close(held)


async def test_strangers_who_read_nothing_leave_their_seats_to_whoever_comes(
    pair: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile, honest = pair
    monkeypatch.setattr(seats, "MAX_STREAMS", 4)
    honest._blob_server.seats.max_bulk = 4
    async with AsyncExitStack() as stack:
        network = OnLoopback(tmp_path / "late", stack)
        network.swarms.append(honest)  # whom the newcomer dials
        late: Any = await network.join()
        held = [await _open(hostile, honest.peer_id, GREEDY) for _ in range(4)]
        try:
            while len(honest._blob_server.seats.busy) < 4:
                await asyncio.sleep(0)
            for _ in range(20):
                assert await late.fetch_spec(honest.peer_id, RUN) == b"a spec"
                assert [item async for item in late.fetch_chunks(honest.peer_id, BLOB, [0])] == [
                    (0, CHUNKS[0])
                ]
        finally:
            await _close(held)


async def test_no_request_is_answered_that_the_door_was_not_asked_about(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        network, source = OnLoopback(tmp_path, stack), Source(allowed=False)
        asker, closed = await network.join(), await network.join(source=source)
        for op in closed._blob_server._answers:  # type: ignore[attr-defined]
            request = {
                "op": op,
                "run": RUN,
                "key": "a key",
                "blob": BLOB,
                "peer": asker.peer_id,
                "indexes": [0],
            }
            answer = await _say(asker, closed.peer_id, pack_head(request))
            assert msgpack.unpackb(answer[LENGTH.size :]) == {"ok": False, "error": "refused"}
    asked = {(action, thing) for _, action, _, thing in source.doors}
    assert asked == {
        ("clock", ""), ("where", asker.peer_id), ("spec", RUN), ("records", "a key"), ("blobs", BLOB),
        ("join", ""), ("hello", ""), ("key", ""), ("stock", ""), ("history", ""),
        ("take", ""), ("dial", ""),
    }  # fmt: skip
    assert {peer for peer, *_ in source.doors} == {asker.peer_id}
    assert {run for _, action, run, _ in source.doors if action != "clock"} == {RUN}


def _answer_with(swarm: Any, answer: bytes) -> None:
    """From now on this peer answers every stream with these bytes, and ends it."""

    async def converse(peer: str, address: str, reader: asyncio.StreamReader, out: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(out, answer)
        out.shutdown(socket.SHUT_WR)
        await reader.read(1 << 16)
        await reader.read(1)

    swarm._blob_server._converse = converse


async def _say(swarm: Any, peer: str, request: bytes) -> bytes:
    control = await swarm._keeper.control()
    reader, writer, _ = await control.open_stream(peer, PROTOCOL, 10)
    try:
        writer.write(request)
        return await reader.read(1 << 16)
    finally:
        await close_stream(writer)


async def _open(swarm: Any, peer: str, request: bytes) -> asyncio.StreamWriter:
    """A stream that sends this and then neither reads nor ends."""
    writer = (await (await swarm._keeper.control()).open_stream(peer, PROTOCOL, 10)).writer
    writer.transport.pause_reading()
    writer.write(request)
    return writer  # type: ignore[no-any-return]


async def _close(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        await close_stream(writer)


async def _until_seated(swarm: Any, count: int) -> None:
    """p2pd hands streams over a moment after it opened them; questions asked meanwhile would push them out
    as the oldest.
    """
    while len(swarm._blob_server.seats.busy) < count:
        await asyncio.sleep(0.01)


async def _until_served(swarm: Any, peer: str) -> None:
    while True:
        try:
            assert [item async for item in swarm.fetch_chunks(peer, BLOB, [0])] == [(0, CHUNKS[0])]
            return
        except SwarmError:
            continue
