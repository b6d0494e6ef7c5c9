"""The stream protocol /paris/blob/1, answering side: bounded streams, one upload limit, and the disk read in threads."""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgpack

from paris_p2p.errors import BlobError, StoreError, UnreachableError
from paris_p2p.records import DEFAULT_MAX_ENVELOPE_BYTES
from paris_p2p.swarm.blobs import CHUNK_HEAD, MAX_ADDRESSES, MAX_RECORDS, pack_head, read_map
from paris_p2p.swarm.control import close_stream
from paris_p2p.swarm.limits import PIECE_BYTES, Meter, RateLimit
from paris_p2p.swarm.seam import MAX_CHUNK_BYTES, MAX_CHUNKS_PER_REQUEST, Action, BlobSource

log = logging.getLogger(__name__)
MAX_STREAMS = 64
MAX_STREAMS_PER_PEER = 8
REQUEST_LIMIT_S = 10.0
STALL_S = 30.0  # an asker that takes nothing for this long is dropped
FAREWELL_S = 120.0  # for what is still on its way to an asker who reads slowly
REFUSAL_S = 5.0  # for a refusal
_SEND_BYTES = 1 << 20  # at once
Where = Callable[[str], Awaitable[list[str]]]  # peer id -> addresses it is connected from


class BlobServer:
    """Answers the streams that p2pd brings."""

    def __init__(self, source: BlobSource | None, where: Where, uploads: Meter, limit: RateLimit, clock: Callable[[], float] = time.time):
        self.source, self.refused = source, Counter[str]()
        self._where, self._uploads, self._limit, self._clock = where, uploads, limit, clock
        self._streams: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answers: dict[str, Callable[[str, dict[str, Any], socket.socket], Awaitable[None]]] = {
            "clock": self._answer_clock,
            "where": self._answer_where,
            "spec": self._answer_spec,
            "records": self._answer_records,
            "manifest": self._answer_manifest,
            "have": self._answer_have,
            "chunks": self._answer_chunks,
        }

    async def handle(self, peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One incoming stream, from its request to its end."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        self._streams[peer] += 1
        try:
            # Past the writer, which copies what it cannot send at once; nothing else is ever sent on it.
            with writer.get_extra_info("socket").dup() as out:
                await self._converse(peer, reader, out)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            self.refused["stream broken off"] += 1
        except asyncio.CancelledError:
            pass  # this peer is leaving; raising would only make asyncio print the stream's end
        except Exception:
            log.exception("answering %s failed", peer)
            self.refused["error while answering"] += 1
        finally:
            self._streams[peer] -= 1
            self._streams += Counter()  # forgets peers at zero
            await close_stream(writer)
            if task is not None:
                self._tasks.discard(task)

    async def close(self) -> None:
        """Break off all streams."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _converse(self, peer: str, reader: asyncio.StreamReader, out: socket.socket) -> None:
        if self._streams.total() > MAX_STREAMS or self._streams[peer] > MAX_STREAMS_PER_PEER:
            await self._refuse(out, "busy")
            if self._streams.total() <= 2 * MAX_STREAMS and self._streams[peer] <= 2 * MAX_STREAMS_PER_PEER:
                await _until_closed(reader, REFUSAL_S)
            return
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                request = await read_map(reader, peer)
        except UnreachableError as error:
            log.debug("%s", error)
            request = {}
        answer = self._answers.get(str(request.get("op")))
        if answer is None:
            await self._refuse(out, "bad request")
            return await _until_closed(reader, REFUSAL_S)
        await answer(peer, request, out)
        await _until_closed(reader, FAREWELL_S)

    async def _refuse(self, out: socket.socket, reason: str) -> None:
        if reason != "missing":
            self.refused[f"stream: {reason}"] += 1
        await self._write(out, pack_head({"ok": False, "error": reason}))
        out.shutdown(socket.SHUT_WR)

    async def _answer_clock(self, peer: str, request: dict[str, Any], out: socket.socket) -> None:
        await self._write(out, pack_head({"ok": True, "time": self._clock()}))

    async def _answer_where(self, peer: str, request: dict[str, Any], out: socket.socket) -> None:
        addresses = await self._where(_text(request, "peer"))
        await self._write(out, pack_head({"ok": True, "addresses": addresses[:MAX_ADDRESSES]}))

    async def _answer_spec(self, peer: str, request: dict[str, Any], out: socket.socket) -> None:
        await self._answer_body(peer, "spec", lambda source: source.spec(_text(request, "run")), out)

    async def _answer_manifest(self, peer: str, request: dict[str, Any], out: socket.socket) -> None:
        await self._answer_body(peer, "blobs", lambda source: source.manifest_bytes(_text(request, "blob")), out)

    async def _answer_have(self, peer: str, request: dict[str, Any], out: socket.socket) -> None:
        await self._answer_body(peer, "blobs", lambda source: source.have(_text(request, "blob")), out)

    async def _answer_records(self, peer: str, request: dict[str, Any], out: socket.socket) -> None:
        def read(source: BlobSource) -> bytes:
            known = [data for data in source.records(_text(request, "key")) if len(data) <= DEFAULT_MAX_ENVELOPE_BYTES]
            packed: bytes = msgpack.packb(known[:MAX_RECORDS])
            return packed

        await self._answer_body(peer, "records", read, out)

    async def _answer_body(self, peer: str, action: Action, read: Callable[[BlobSource], bytes | None], out: socket.socket) -> None:
        source = self.source
        if source is None:
            return await self._refuse(out, "missing")
        if not source.may(peer, action):
            return await self._refuse(out, "refused")
        try:
            body = await asyncio.to_thread(read, source)
        except (BlobError, StoreError, OSError) as error:
            log.warning("cannot read what %s asks for: %s", peer, error)
            body = None
        if body is None:
            return await self._refuse(out, "missing")
        await self._write(out, pack_head({"ok": True, "size": len(body)}))
        await self._write_limited(out, body)

    async def _answer_chunks(self, peer: str, request: dict[str, Any], out: socket.socket) -> None:
        indexes = request.get("indexes")
        if not isinstance(indexes, list) or not 0 < len(indexes) <= MAX_CHUNKS_PER_REQUEST or not all(map(_is_index, indexes)):
            return await self._refuse(out, "bad request")
        if self.source is None:
            return await self._refuse(out, "missing")
        if not self.source.may(peer, "blobs"):
            return await self._refuse(out, "refused")
        head = pack_head({"ok": True})
        async for index, data in self._read_ahead(self.source, _text(request, "blob"), indexes):
            await self._write(out, head + CHUNK_HEAD.pack(index, len(data)))
            head = b""
            await self._write_limited(out, data)

    async def _read_ahead(self, source: BlobSource, blob_id: str, indexes: list[int]) -> AsyncIterator[tuple[int, bytes | memoryview]]:
        """Chunks in order, the next one read while this one is sent; b"" for one that is not here."""
        rooms = [memoryview(mmap.mmap(-1, MAX_CHUNK_BYTES)) for _ in range(2)]  # what is never touched costs nothing

        def read(position: int) -> bytes | memoryview:
            try:
                data = source.read_chunk(blob_id, indexes[position], rooms[position % 2])
            except (BlobError, StoreError, OSError):
                return b""
            return data if len(data) <= MAX_CHUNK_BYTES else b""

        following = asyncio.ensure_future(asyncio.to_thread(read, 0))
        try:
            for position, index in enumerate(indexes):
                data = await following
                if position + 1 < len(indexes):
                    following = asyncio.ensure_future(asyncio.to_thread(read, position + 1))
                yield index, data
        finally:
            following.cancel()

    async def _write_limited(self, out: socket.socket, data: bytes | memoryview) -> None:
        view, piece_bytes = memoryview(data), PIECE_BYTES if self._limit.bps else _SEND_BYTES
        for start in range(0, len(data), piece_bytes):
            piece = view[start : start + piece_bytes]
            await self._limit.take(len(piece))
            await self._write(out, piece)
            self._uploads.add(len(piece))

    async def _write(self, out: socket.socket, data: bytes | memoryview) -> None:
        async with asyncio.timeout(STALL_S):
            await asyncio.get_running_loop().sock_sendall(out, data)


async def _until_closed(reader: asyncio.StreamReader, limit_s: float) -> None:
    """The asker closes first: closing before it took the answer, or with its request unread, would throw the answer away."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            for _ in range(16):  # then it sends for the sake of sending
                if not await reader.read(1 << 12):
                    return


def _text(request: dict[str, Any], name: str) -> str:
    return str(request.get(name, ""))[:256]


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32
