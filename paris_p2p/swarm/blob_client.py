"""The asking side of the stream protocol /paris/blob/1: one request a stream.

Heads are msgpack with a length before them, then come raw bytes:

    request  = u32 length, map {op, and what it needs}
    reply    = u32 length, map {ok, size} or {ok: False, error}; then `size` bytes
    chunks   = after a reply {ok}: for each chunk asked for, u32 index, u32 length, bytes;
               length 0 says that the peer does not have it

Integers are big-endian. Every length is checked against a bound before anything is allocated for it.
"""

from __future__ import annotations

import asyncio
import mmap
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgpack

from paris_p2p.errors import (
    BusyError,
    MissingBlobError,
    OlderPeerError,
    RecordError,
    SwarmError,
    UnreachableError,
)
from paris_p2p.kinds import DEFAULT_MAX_ENVELOPE_BYTES
from paris_p2p.packed import Bounds, unpack
from paris_p2p.records import MAX_MANIFEST_BYTES, RequestKind
from paris_p2p.swarm.blob_requests import CONVERSATIONS
from paris_p2p.swarm.dial_back import ANSWER_S
from paris_p2p.swarm.limits import PIECE_BYTES, Meter, RateLimit
from paris_p2p.swarm.p2pd import Streams, close_stream
from paris_p2p.swarm.pace import ANSWER_LEAST_BYTES_PER_S, Pace
from paris_p2p.swarm.peer_measures import PeerMeasures
from paris_p2p.swarm.seam import MAX_CHUNKS_PER_REQUEST, SILENCE_S
from paris_p2p.swarm.straight import StraightReader
from paris_p2p.veil import MAX_SEALED_SPEC_BYTES

PROTOCOL = "/paris/blob/1"
MAX_HEAD_BYTES = 1 << 14
GIVE_LIMIT_S = 20.0  # for one `take`
MAX_HAVE_BYTES = 1 << 17
MAX_ADDRESSES = 16
MAX_RECORDS = 512
MAX_RECORDS_BYTES = MAX_RECORDS * (DEFAULT_MAX_ENVELOPE_BYTES + 8)
_BOUNDS = Bounds(items=MAX_CHUNKS_PER_REQUEST + 64, depth=4)  # of a head, and of a list of records
CHUNK_HEAD = struct.Struct(">II")
LENGTH = struct.Struct(">I")
OpenStream = Callable[[str, float], Awaitable[Streams]]  # (peer, time limit in seconds); UnreachableError


class BlobClient:
    """Asks peers over the streams that `open_stream` gives."""

    def __init__(
        self,
        open_stream: OpenStream,
        downloads: Meter,
        limit: RateLimit,
        clock: Callable[[], float] = time.time,
    ):
        self._open_stream, self._downloads, self._limit, self._clock = open_stream, downloads, limit, clock
        self.measures = PeerMeasures()

    async def spec(self, peer: str, run_id: str) -> bytes:
        try:
            return await self._body(peer, {"op": "spec", "run": run_id}, MAX_SEALED_SPEC_BYTES)
        except MissingBlobError as error:
            raise UnreachableError(f"peer {peer} does not know run {run_id[:16]}…; ask another") from error

    async def manifest(self, peer: str, blob_id: str) -> bytes:
        return await self._body(peer, {"op": "manifest", "blob": blob_id}, MAX_MANIFEST_BYTES)

    async def have(self, peer: str, blob_id: str) -> bytes:
        return await self._body(peer, {"op": "have", "blob": blob_id}, MAX_HAVE_BYTES)

    def change_limit(self, bytes_per_s: float, *, is_closed: bool) -> None:
        """Changes the download limit from now on; while it is closed, no chunks are fetched."""
        self._limit.bytes_per_s, self._limit.is_closed = bytes_per_s, is_closed

    async def records(self, peer: str, key: str) -> list[bytes]:
        body = await self._body(peer, {"op": "records", "key": key}, MAX_RECORDS_BYTES)
        found = _unpack(body, peer)
        if not isinstance(found, list) or not all(isinstance(data, bytes) for data in found):
            raise _nonsense(peer, "its records are not a list of envelopes")
        return [data for data in found[:MAX_RECORDS] if len(data) <= DEFAULT_MAX_ENVELOPE_BYTES]

    async def ask(self, peer: str, action: RequestKind, run: str, body: bytes) -> bytes:
        request = {"op": action, "run": run, "body": body}
        return await self._body(peer, request, CONVERSATIONS[action])

    async def clock_offset(self, peer: str) -> float:
        async with self._ask(peer, {"op": "clock"}, SILENCE_S) as reader:
            asked_s = self._clock()
            async with asyncio.timeout(SILENCE_S):
                head = await _read_head(reader, peer)
            there, answered_s = head.get("time"), self._clock()
        if not isinstance(there, float | int) or not 0 <= there < 4e9:
            raise _nonsense(peer, "its clock is not a time")
        return float(there) - (asked_s + answered_s) / 2

    async def where(self, peer: str, wanted: str) -> list[str]:
        """Returns the addresses at which `peer` is connected to `wanted`."""
        async with self._ask(peer, {"op": "where", "peer": wanted}, SILENCE_S) as reader:
            async with asyncio.timeout(SILENCE_S):
                found = (await _read_head(reader, peer)).get("addresses")
        return [str(address)[:256] for address in found[:MAX_ADDRESSES]] if isinstance(found, list) else []

    async def dial_back(self, peer: str, run: str, ports: Mapping[str, int]) -> dict[str, bool]:
        """Returns on which of these ports a peer reached this one, that it dialled anew."""
        async with self._ask(peer, {"op": "dial", "run": run, **ports}, SILENCE_S) as reader:
            async with asyncio.timeout(ANSWER_S):
                head = await _read_head(reader, peer)
        return {name: head[name] for name in ports if isinstance(head.get(name), bool)}

    async def give(self, peer: str, run: str, size_bytes: int) -> float:
        """Sends bytes that the peer drops; returns the seconds until it had all of them."""
        request = {"op": "take", "run": run, "size": size_bytes}
        async with self._ask(peer, request, SILENCE_S) as reader, asyncio.timeout(GIVE_LIMIT_S):
            await _read_head(reader, peer)
            began_s = time.monotonic()
            reader.send(bytes(size_bytes))
            await _read_head(reader, peer)
            return time.monotonic() - began_s

    async def chunks(
        self, peer: str, blob_id: str, indexes: Sequence[int], silence_s: float, max_chunk_bytes: int
    ) -> AsyncGenerator[tuple[int, memoryview], None]:
        wanted = list(indexes)[:MAX_CHUNKS_PER_REQUEST]
        if not wanted:
            return
        if self._limit.is_closed:
            raise BusyError("this peer fetches nothing while its download budget is used up")
        # of one chunk, for all of them: memory that is new each time costs more than hashing
        room = memoryview(b"")
        async with self._ask(peer, {"op": "chunks", "blob": blob_id, "indexes": wanted}, silence_s) as reader:
            async with asyncio.timeout(silence_s):
                await _read_head(reader, peer)
            pace, began_s, count_bytes = Pace(silence_s=silence_s), time.monotonic(), 0
            try:
                for expected in wanted:
                    index, length = CHUNK_HEAD.unpack(await reader.readexactly(CHUNK_HEAD.size, pace))
                    if index != expected or length > max_chunk_bytes:
                        due = f"chunk {expected} of at most {max_chunk_bytes} was due"
                        raise _nonsense(peer, f"chunk {index} of {length} bytes where {due}")
                    if length > len(room):
                        # Starts at a page, as writing past the page cache wants it.
                        room = memoryview(mmap.mmap(-1, length))
                    if length:
                        await self._read_body(reader, room[:length], pace)
                        count_bytes += length
                        yield index, room[:length]
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                # So ends a seat that went to another (seats.py).
                raise BusyError(f"peer {peer} ended its answer half-way; it is asked again later") from error
            finally:
                self.measures.brought(peer, count_bytes, time.monotonic() - began_s)

    async def _read_body(self, reader: StraightReader, room: memoryview, pace: Pace) -> None:
        # Reading slowly is what makes the sender slow down; it must not take us for silent meanwhile.
        bytes_per_s = self._limit.bytes_per_s
        piece_bytes = max(1 << 12, min(PIECE_BYTES, int(bytes_per_s / 8))) if bytes_per_s else len(room)
        for start in range(0, len(room), piece_bytes):
            piece = room[start : start + piece_bytes]
            await self._limit.take(len(piece))
            await reader.fill(piece, pace)
            self._downloads.add(len(piece), relayed=reader.relayed)

    async def _body(self, peer: str, request: dict[str, Any], limit_bytes: int) -> bytes:
        async with self._ask(peer, request, SILENCE_S) as reader:
            asked_s = time.monotonic()
            async with asyncio.timeout(SILENCE_S):
                head = await _read_head(reader, peer)
            self.measures.answered(peer, time.monotonic() - asked_s)
            size = head.get("size")
            if not isinstance(size, int) or not 0 <= size <= limit_bytes:
                raise _nonsense(
                    peer, f"a {request['op']} of {str(size)[:20]} bytes where {limit_bytes} are the limit"
                )
            body = bytearray(size)
            if size:
                await self._read_body(reader, memoryview(body), Pace(ANSWER_LEAST_BYTES_PER_S))
            return bytes(body)

    @asynccontextmanager
    async def _ask(
        self, peer: str, request: dict[str, Any], silence_s: float
    ) -> AsyncIterator[StraightReader]:
        _, writer, relayed = await self._open_stream(peer, silence_s)
        try:
            # of a socket, so it reads, too
            reader = StraightReader(cast(asyncio.Transport, writer.transport), relayed=relayed)
            writer.write(pack_head(request))
            yield reader
        except TimeoutError as error:
            raise UnreachableError(
                f"peer {peer} was silent for {silence_s:.0f} s, or too slow to be of use; another is asked"
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise UnreachableError(
                f"peer {peer} ended the conversation about {request['op']}; it may have left"
            ) from error
        finally:
            await close_stream(writer)


def pack_head(head: dict[str, Any]) -> bytes:
    data: bytes = msgpack.packb(head)
    return LENGTH.pack(len(data)) + data


async def read_map(reader: asyncio.StreamReader | StraightReader, peer: str) -> dict[str, Any]:
    """Reads a head, a small msgpack map with names; UnreachableError for anything else."""
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > MAX_HEAD_BYTES:
        raise _nonsense(peer, f"a head of {length} bytes where {MAX_HEAD_BYTES} are the limit")
    head = _unpack(await reader.readexactly(length), peer)
    if not isinstance(head, dict) or not all(isinstance(name, str) for name in head):
        raise _nonsense(peer, "a head that is not a map")
    return head


async def _read_head(reader: StraightReader, peer: str) -> dict[str, Any]:
    head = await read_map(reader, peer)
    if head.get("ok") is True:
        return head
    reason = str(head.get("error"))[:100]
    if reason == "missing":
        raise MissingBlobError(f"peer {peer} does not have it")
    if reason == "busy":
        raise BusyError(f"peer {peer} answered: busy with others; it is asked again later")
    if reason == "bad request":
        raise OlderPeerError(f"peer {peer} knows no such question; it runs an older version of paris-p2p")
    raise UnreachableError(f"peer {peer} answered: {reason}; another is asked")


def _unpack(data: bytes, peer: str) -> Any:
    try:
        return unpack(data, _BOUNDS, use_list=True)
    except RecordError as error:
        raise _nonsense(peer, str(error)) from error


def _nonsense(peer: str, what: str) -> SwarmError:
    return UnreachableError(
        f"peer {peer} does not keep to the protocol {PROTOCOL}: {what}; it is not asked again"
    )
