"""The answering side of the stream protocol /paris/blob/1.

It has one door, bounded seats and one upload limit, and reads the disk in threads.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple, cast

import msgpack

from paris_p2p.errors import BlobError, BusyError, DaemonError, StoreError, UnreachableError
from paris_p2p.kinds import DEFAULT_MAX_ENVELOPE_BYTES
from paris_p2p.swarm.addresses import is_relayed
from paris_p2p.swarm.blob_client import CHUNK_HEAD, MAX_ADDRESSES, MAX_RECORDS, pack_head, read_map
from paris_p2p.swarm.blob_requests import CONVERSATIONS, OPERATIONS, Ask, are_indexes, said
from paris_p2p.swarm.limits import Meter, RateLimit, piece_of
from paris_p2p.swarm.line_aids import LineAids
from paris_p2p.swarm.p2pd import close_stream
from paris_p2p.swarm.pace import Pace
from paris_p2p.swarm.seam import MAX_CHUNK_BYTES, BlobSource, Shown
from paris_p2p.swarm.seats import Seat, Seats, bulk_streams, group_of

log = logging.getLogger(__name__)
REQUEST_LIMIT_S = 10.0
STALL_S = 30.0  # an asker that takes nothing for this long is dropped
FAREWELL_S = 120.0  # for what is still on its way to an asker who reads slowly
REFUSAL_S = 5.0  # for a refusal
LONG_ANSWER_BYTES = 1 << 16  # an answer above this needs a seat of those for chunks
READERS = 4  # threads that read for others: they never hold up this node's own disk work
Where = Callable[[str], Awaitable[list[str]]]  # peer id -> addresses it is connected from


class BlobRequest(NamedTuple):
    """One request that is being answered."""

    seat: Seat
    ask: Ask
    request: dict[str, Any]
    out: socket.socket
    pace: Pace
    shown: Shown | None = None  # what the asker may see; None: this node has nothing to show to anybody
    seen_at: str = ""  # the address that the asker is connected from
    body: asyncio.StreamReader | None = None  # of what follows the request


class BlobServer:
    """Answers the streams that p2pd brings."""

    def __init__(
        self,
        source: BlobSource | None,
        where: Where,
        uploads: Meter,
        limit: RateLimit,
        clock: Callable[[], float] = time.time,
        aids: LineAids | None = None,
    ):
        self._aids = aids or LineAids(RateLimit(0), Meter())
        self.source, self.refused = source, Counter[str]()
        self.seats = Seats(bulk_streams(limit.bytes_per_s))
        self._where, self._uploads, self._limit, self._clock = where, uploads, limit, clock
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="serving")
        self._pieces: defaultdict[str, asyncio.Lock] = defaultdict(
            asyncio.Lock
        )  # by peer, while it has a stream
        self._open: dict[asyncio.Task[Any], Seat] = {}
        self._answers: dict[str, Callable[[BlobRequest], Awaitable[None]]] = {
            "clock": self._answer_clock,
            "where": self._answer_where,
            "spec": self._answer_spec,
            "records": self._answer_records,
            "manifest": self._answer_manifest,
            "have": self._answer_have,
            "chunks": self._answer_chunks,
            "dial": self._answer_aid,
            "take": self._answer_aid,
        } | dict.fromkeys(CONVERSATIONS, self._answer_words)

    async def handle(
        self, peer: str, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answers one incoming stream, from its request to its end."""
        task = asyncio.current_task()
        if task is None:
            return
        seat = self._open[task] = Seat(peer, group_of(peer, address), False, task.cancel)
        try:
            seat.relayed = is_relayed(address)
            seat.known = self.source is not None and self.source.knows(peer)
            self.seats.enter(seat, _now_s())
            # Past the writer, which copies what it cannot send at once; nothing else is ever sent on it.
            with writer.get_extra_info("socket").dup() as out:
                await self._converse(peer, address, reader, out)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, DaemonError):
            self.refused["stream broken off"] += 1  # DaemonError: with p2pd, the stream went too
        except asyncio.CancelledError:
            pass  # this peer leaves, or another needs the seat; raising would only make asyncio print it
        except Exception:
            log.exception("answering %s failed", peer)
            self.refused["error while answering"] += 1
        finally:
            self.seats.leave(seat)
            await close_stream(writer)
            del self._open[task]
            if not any(other.peer == peer for other in self._open.values()):
                self._pieces.pop(peer, None)

    def change_limit(self, bytes_per_s: float, *, is_closed: bool) -> None:
        """Changes the upload limit from now on; while it is closed, nobody is given chunks, or other long
        answers.
        """
        self._limit.bytes_per_s, self._limit.is_closed = bytes_per_s, is_closed
        self.seats.max_bulk = bulk_streams(bytes_per_s)

    async def close(self) -> None:
        """Breaks off all streams."""
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _converse(
        self, peer: str, address: str, reader: asyncio.StreamReader, out: socket.socket
    ) -> None:
        seat = self._open[cast(asyncio.Task[Any], asyncio.current_task())]
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                request = await read_map(reader, peer)
        except UnreachableError as error:
            log.debug("%s", error)
            request = {}
        op = request.get("op")
        if not isinstance(op, str) or op not in OPERATIONS:
            await self._refuse(out, "bad request")
            return await _until_closed(reader, REFUSAL_S)
        ask = OPERATIONS[op](request)
        # A node without a source has nothing but the time and its connections to tell.
        shown = self.source.shown_to(peer, ask.action, ask.run, ask.thing) if self.source else None
        if self.source is not None and shown is None:
            await self._refuse(out, "refused")
            return await _until_closed(reader, REFUSAL_S)
        is_closed = self._limit.is_closed and op == "chunks"
        if is_closed or not self.seats.begin(seat, _now_s(), bulk=op in ("chunks", "take")):
            await self._refuse(out, "busy")
            return await _until_closed(reader, REFUSAL_S)
        pace = Pace(silence_s=STALL_S)
        await self._answers[op](BlobRequest(seat, ask, request, out, pace, shown, address, reader))
        self.seats.rest(seat, _now_s())
        await _until_closed(reader, FAREWELL_S)

    async def _refuse(self, out: socket.socket, reason: str) -> None:
        if reason != "missing":
            self.refused[f"stream: {reason}"] += 1
        with suppress(BlockingIOError):  # a head is short; there is room for it, or nobody who would read it
            out.send(pack_head({"ok": False, "error": reason}))
        out.shutdown(socket.SHUT_WR)

    async def _answer_clock(self, stream: BlobRequest) -> None:
        await self._write(stream, pack_head({"ok": True, "time": self._clock()}))

    async def _answer_where(self, stream: BlobRequest) -> None:
        addresses = await self._where(stream.ask.thing)  # also for who gets none of it: as much work
        if stream.shown is not None and not stream.shown.tells_where():
            addresses = []
        await self._write(stream, pack_head({"ok": True, "addresses": addresses[:MAX_ADDRESSES]}))

    async def _answer_aid(self, stream: BlobRequest) -> None:
        """Dials an asker back, or counts what it sends, so that it learns how others reach it."""
        is_open = stream.shown is None or stream.shown.tells_where()
        seat, request, reader = stream.seat, stream.request, stream.body
        try:
            if not is_open or reader is None:
                told = None
            elif stream.ask.action == "dial":
                told = await self._aids.dialling.dial(seat.peer, stream.seen_at, request)
            else:
                told = await self._take(stream, reader)
        except BusyError:
            return await self._refuse(stream.out, "busy")
        if told is None:
            return await self._refuse(stream.out, "missing")
        await self._write(stream, pack_head({"ok": True, **told}))

    async def _take(self, stream: BlobRequest, reader: asyncio.StreamReader) -> dict[str, bool] | None:
        size = self._aids.allowed_bytes(stream.seat, stream.request)
        if size:
            await self._write(stream, pack_head({"ok": True}))
            await self._aids.drop(stream.seat, size, reader)
        return {} if size else None

    async def _answer_spec(self, stream: BlobRequest) -> None:
        await self._answer_body(stream, lambda shown: shown.spec(stream.ask.thing))

    async def _answer_manifest(self, stream: BlobRequest) -> None:
        await self._answer_body(stream, lambda shown: shown.manifest_bytes(stream.ask.thing))

    async def _answer_have(self, stream: BlobRequest) -> None:
        await self._answer_body(stream, lambda shown: shown.have(stream.ask.thing))

    async def _answer_records(self, stream: BlobRequest) -> None:
        def read(shown: Shown) -> bytes:
            records = shown.records(stream.ask.thing)
            known = [data for data in records if len(data) <= DEFAULT_MAX_ENVELOPE_BYTES]
            packed: bytes = msgpack.packb(known[:MAX_RECORDS])
            return packed

        await self._answer_body(stream, read)

    async def _answer_words(self, stream: BlobRequest) -> None:
        words = said(stream.request)
        if words is None:
            return await self._refuse(stream.out, "bad request")
        if stream.shown is None:
            return await self._refuse(stream.out, "missing")
        action = stream.ask.action
        try:
            body = await stream.shown.converse(action, stream.ask.run, words)
        except BusyError:
            return await self._refuse(stream.out, "busy")
        except StoreError as error:
            log.warning("cannot answer the %s of %s: %s", action, stream.seat.peer, error)
            body = None
        if body is not None and len(body) > CONVERSATIONS[action]:
            log.warning("an answer to %s of %d bytes is over its limit", action, len(body))
            body = None
        await self._send_body(stream, body)

    async def _answer_body(self, stream: BlobRequest, read: Callable[[Shown], bytes | None]) -> None:
        if stream.shown is None:
            return await self._refuse(stream.out, "missing")
        try:
            body = await asyncio.get_running_loop().run_in_executor(self._readers, read, stream.shown)
        except (BlobError, StoreError, OSError) as error:
            log.warning("cannot read what %s asks for: %s", stream.seat.peer, error)
            body = None
        await self._send_body(stream, body)

    async def _send_body(self, stream: BlobRequest, body: bytes | None) -> None:
        if body is None:
            return await self._refuse(stream.out, "missing")
        is_long = len(body) > LONG_ANSWER_BYTES
        if is_long and (self._limit.is_closed or not self.seats.begin(stream.seat, _now_s(), bulk=True)):
            return await self._refuse(stream.out, "busy")
        await self._write(stream, pack_head({"ok": True, "size": len(body)}))
        await self._write_limited(stream, body)

    async def _answer_chunks(self, stream: BlobRequest) -> None:
        indexes = stream.request.get("indexes")
        if not are_indexes(indexes):
            return await self._refuse(stream.out, "bad request")
        if stream.shown is None:
            return await self._refuse(stream.out, "missing")
        head = pack_head({"ok": True})
        # a stranger that sips would make the line look slow
        with self._uploads.filling() if stream.seat.known else nullcontext():
            async for index, data in self._read_ahead(stream.shown, stream.ask.thing, indexes):
                await self._write(stream, head + CHUNK_HEAD.pack(index, len(data)))
                head = b""
                await self._write_limited(stream, data)

    async def _read_ahead(
        self, shown: Shown, blob_id: str, indexes: list[int]
    ) -> AsyncIterator[tuple[int, bytes | memoryview]]:
        """Yields chunks in order, the next one read while this one is sent.

        A chunk that is not here is b"".
        """
        rooms = [
            memoryview(mmap.mmap(-1, MAX_CHUNK_BYTES)) for _ in range(2)
        ]  # what is never touched costs nothing
        loop = asyncio.get_running_loop()

        def read(position: int) -> bytes | memoryview:
            try:
                data = shown.read_chunk(blob_id, indexes[position], rooms[position % 2])
            except (BlobError, StoreError, OSError):
                return b""
            return data if len(data) <= MAX_CHUNK_BYTES else b""

        following = loop.run_in_executor(self._readers, read, 0)
        try:
            for position, index in enumerate(indexes):
                data = await following
                if position + 1 < len(indexes):
                    following = loop.run_in_executor(self._readers, read, position + 1)
                yield index, data
        finally:
            following.cancel()

    async def _write_limited(self, stream: BlobRequest, data: bytes | memoryview) -> None:
        view, piece_bytes = memoryview(data), piece_of(self._limit.bytes_per_s)
        for start in range(0, len(data), piece_bytes):
            piece = view[start : start + piece_bytes]
            if self._limit.bytes_per_s:
                async with self._pieces[
                    stream.seat.peer
                ]:  # a peer waits for one piece at a time: all get the same share
                    await self._limit.take(len(piece))
                stream.seat.moved_s = _now_s()  # it was we who waited
            await self._write(stream, piece)
            self._uploads.add(len(piece), relayed=stream.seat.relayed)

    async def _write(self, stream: BlobRequest, data: bytes | memoryview) -> None:
        """Sends all of `data`.

        TimeoutError when the asker takes nothing for STALL_S, or in all less than the least rate.
        """
        view = memoryview(data)
        while view:
            began_s = _now_s()
            async with asyncio.timeout(min(stream.pace.silence_s, stream.pace.left_s())):
                sent = await _send_some(stream.out, view)
            stream.pace.spend(sent, _now_s() - began_s)
            self.seats.note(stream.seat, sent, _now_s())
            view = view[sent:]


async def _send_some(out: socket.socket, view: memoryview) -> int:
    """Sends as much as the socket takes, once it takes something."""
    loop = asyncio.get_running_loop()
    while True:
        with suppress(BlockingIOError, InterruptedError):
            return out.send(view)
        ready = asyncio.Event()
        loop.add_writer(out, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(out)


async def _until_closed(reader: asyncio.StreamReader, limit_s: float) -> None:
    """Waits until the asker has closed.

    Closing before it took the answer, or with its request unread, would throw the answer away.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            for _ in range(16):  # then it sends for the sake of sending
                if not await reader.read(1 << 12):
                    return


def _now_s() -> float:
    return asyncio.get_running_loop().time()
