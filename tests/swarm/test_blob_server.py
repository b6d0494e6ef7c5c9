"""The answering side by itself: an upload limit shared by peers and not by streams, and askers who take too
little."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import Any, cast

import pytest

from paris_p2p.errors import DaemonError
from paris_p2p.swarm.blob_client import pack_head
from paris_p2p.swarm.blob_requests import Ask
from paris_p2p.swarm.blob_server import BlobRequest, BlobServer
from paris_p2p.swarm.limits import Meter, RateLimit
from paris_p2p.swarm.pace import Pace
from paris_p2p.swarm.seats import Seat


class Gate(RateLimit):
    """A limit that lets nobody on until it is told to, and knows who waits."""

    def __init__(self) -> None:
        super().__init__(1e6)
        self.waiting: list[asyncio.Event] = []
        self.asked = asyncio.Event()

    async def take(self, count_bytes: int) -> None:
        turn = asyncio.Event()
        self.waiting.append(turn)
        self.asked.set()
        await turn.wait()


async def nowhere(peer: str) -> list[str]:
    return []


def stream_to(peer: str, out: socket.socket, pace: Pace | None = None) -> BlobRequest:
    out.setblocking(False)
    return BlobRequest(Seat(peer, peer, False, lambda: None), Ask("blobs", "", ""), {}, out, pace or Pace())


async def test_a_peer_with_many_streams_gets_no_more_of_the_upload_limit_than_one_with_one() -> None:
    limit, meter, sent = Gate(), Meter(), Counter[str]()
    server = BlobServer(None, nowhere, meter, limit)
    pairs = [socket.socketpair() for _ in range(9)]
    names = ["greedy"] * 8 + ["modest"]

    async def send(name: str, out: socket.socket) -> None:
        stream = stream_to(name, out)
        for _ in range(4):
            await server._write_limited(stream, b"piece")
            sent[name] += 1

    tasks = [asyncio.create_task(send(name, out)) for name, (out, _) in zip(names, pairs, strict=True)]
    for _ in range(8):  # pieces that the limit lets out
        while not limit.waiting:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(limit.waiting) <= 2  # one of each, in the order of asking
        limit.waiting.pop(0).set()
        for _ in range(20):
            await asyncio.sleep(0)
    assert sent == {"greedy": 4, "modest": 4}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for pair in pairs:
        for end in pair:
            end.close()
    await server.close()


async def test_an_answer_that_needs_p2pd_just_when_it_died_is_no_fault_of_this_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def dead(peer: str) -> list[str]:
        raise DaemonError("p2pd is being restarted")

    server = BlobServer(None, dead, Meter(), RateLimit(0))
    ours, other = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    other.sendall(pack_head({"op": "where", "peer": "somebody"}))
    await server.handle("asker", "/ip4/127.0.0.1/tcp/1", reader, writer)
    assert server.refused == {"stream broken off": 1}
    assert not caplog.records
    other.close()
    await server.close()


class OneChunk:
    """Shows one blob of one chunk."""

    def read_chunk(self, blob_id: str, index: int, room: memoryview | None = None, /) -> bytes:
        return b"chunk"


@pytest.mark.parametrize(("known", "filled_s"), [(False, 0.0), (True, 5.0)])
async def test_chunks_on_their_way_to_a_stranger_say_nothing_about_the_line(
    known: bool, filled_s: float
) -> None:
    limit, now = Gate(), 0.0
    meter = Meter(lambda: now)
    server = BlobServer(None, nowhere, meter, limit)
    out, there = socket.socketpair()
    stream = stream_to("asker", out)
    stream.seat.known = known
    stream = stream._replace(request={"indexes": [0]}, shown=cast(Any, OneChunk()))
    answer = asyncio.create_task(server._answer_chunks(stream))
    await limit.asked.wait()
    now += 5
    limit.waiting.pop(0).set()
    await answer
    assert meter.filled_s == filled_s
    out.close()
    there.close()
    await server.close()


async def test_an_asker_that_takes_less_than_the_least_rate_is_dropped_though_it_is_never_silent() -> None:
    server = BlobServer(None, nowhere, Meter(), RateLimit(0))
    out, there = socket.socketpair()
    loop = asyncio.get_running_loop()
    there.setblocking(False)
    over = asyncio.Event()

    async def drips() -> None:
        while not over.is_set():
            await loop.sock_recv(there, 1)
            await asyncio.sleep(0.001)

    reading = asyncio.create_task(drips())
    stream = stream_to("slow", out, Pace(least_bytes_per_s=1e12, grace_s=0.2, silence_s=3600.0))
    with pytest.raises(TimeoutError):
        await server._write(stream, bytes(64 << 20))
    over.set()
    await reading
    assert stream.seat.moved_s > 0
    out.close()
    there.close()
    await server.close()


@pytest.mark.parametrize(("is_closed", "error"), [(False, None), (True, "busy")])
async def test_who_asks_for_long_answers_spends_nothing_of_a_budget_that_is_used_up(
    is_closed: bool, error: str | None
) -> None:
    meter = Meter()
    server = BlobServer(None, nowhere, meter, RateLimit(0))
    server.change_limit(0.0, is_closed=is_closed)
    for body, said in ((b"x" * 1000, None), (b"x" * 70_000, error)):
        out, there = socket.socketpair()
        before = meter.total_bytes
        await server._send_body(stream_to("asker", out), body)
        out.close()
        head = there.recv(1 << 12)
        assert (b"busy" in head) == (said == "busy")
        assert meter.total_bytes - before == (0 if said else len(body))
        there.close()
    await server.close()
