"""Reading straight into memory: all of it, only when asked, and never after."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from paris_p2p.errors import BusyError
from paris_p2p.swarm.blob_client import CHUNK_HEAD, BlobClient, pack_head
from paris_p2p.swarm.limits import Meter, RateLimit
from paris_p2p.swarm.p2pd import Streams, close_stream
from paris_p2p.swarm.pace import Pace
from paris_p2p.swarm.straight import StraightReader

Ends = tuple[StraightReader, socket.socket, asyncio.StreamWriter]


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """(a reader, the socket it reads from, the writer that shares its transport)."""
    here, there = socket.socketpair()
    there.setblocking(False)
    _, writer = await asyncio.open_unix_connection(sock=here)
    with there:
        yield StraightReader(writer.transport), there, writer
        await close_stream(writer)


async def send(there: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(there, data)


async def test_rooms_are_filled_in_order_whatever_pieces_come(ends: Ends) -> None:
    reader, there, _ = ends
    data = bytes(range(256)) * 8192
    sending = asyncio.create_task(send(there, data))
    head, rest = await reader.readexactly(7), bytearray(len(data) - 7)
    await reader.fill(memoryview(rest), Pace())
    await sending
    assert head + rest == data


async def test_a_room_is_not_touched_once_it_was_full(ends: Ends) -> None:
    reader, there, _ = ends
    room = bytearray(4)
    await send(there, b"aaaabbbb")
    await reader.fill(memoryview(room), Pace())
    await asyncio.sleep(0)
    assert room == b"aaaa"
    assert await reader.readexactly(4) == b"bbbb"


async def test_silence_is_told_from_an_end(ends: Ends) -> None:
    reader, there, _ = ends
    with pytest.raises(TimeoutError):
        await reader.fill(memoryview(bytearray(1)), Pace(silence_s=0.05))
    await send(there, b"ab")
    there.close()
    for _ in range(2):  # an end stays an end
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(3)


async def test_a_slow_line_is_not_silent_but_one_that_stops_is(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, there, _ = ends
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now_s)
    room = memoryview(bytearray(4))
    filling = asyncio.create_task(reader.fill(room, Pace(grace_s=1e9, silence_s=1000.0)))
    for count in range(1, 4):
        await send(there, b"x")
        while bytes(room).count(b"x") < count:
            await asyncio.sleep(0)
        now_s += 900.0
    await asyncio.sleep(0)
    assert not filling.done()
    now_s += 101.0
    with pytest.raises(TimeoutError):
        await filling


async def test_the_writer_of_the_same_stream_still_works(ends: Ends) -> None:
    _, there, writer = ends
    writer.write(b"request")
    await writer.drain()
    assert await asyncio.get_running_loop().sock_recv(there, 7) == b"request"


async def test_one_that_drips_is_too_slow_in_all_and_one_that_keeps_the_least_rate_is_not(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, there, _ = ends
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now_s)
    pace = Pace(least_bytes_per_s=1.0, grace_s=10.0, silence_s=1000.0)
    room = memoryview(bytearray(100))
    filling = asyncio.create_task(reader.fill(room, pace))
    for count in range(1, 41):  # a byte a second, for four times the grace
        await send(there, b"x")
        while bytes(room).count(b"x") < count:
            await asyncio.sleep(0)
        now_s += 1.0
    await asyncio.sleep(0)
    assert not filling.done()
    for count in range(41, 44):  # a byte in five seconds
        await send(there, b"x")
        while bytes(room).count(b"x") < count and not filling.done():
            await asyncio.sleep(0)
        now_s += 5.0
    with pytest.raises(TimeoutError):
        await filling
    assert pace.left_s() <= 0
    with pytest.raises(TimeoutError):  # nor is it given a new grace for the next thing it sends
        await reader.fill(memoryview(bytearray(1)), pace)


async def test_chunks_that_end_half_way_are_a_seat_that_went_to_another_and_no_fault() -> None:
    here, there = socket.socketpair()
    answer = pack_head({"ok": True}) + CHUNK_HEAD.pack(0, 4) + b"good" + CHUNK_HEAD.pack(1, 4) + b"ha"

    async def opened(peer: str, limit_s: float) -> Streams:
        return Streams(*await asyncio.open_unix_connection(sock=here))

    client = BlobClient(opened, Meter(), RateLimit(0))
    with there:
        await asyncio.to_thread(there.sendall, answer)
        there.shutdown(socket.SHUT_WR)
        chunks = client.chunks("a peer", "ab" * 32, [0, 1], 10.0, 1 << 20)
        assert (await anext(chunks))[1] == b"good"
        with pytest.raises(BusyError, match="half-way"):
            await anext(chunks)
