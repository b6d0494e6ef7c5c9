"""The door between hivemind's DHT and other peers, on both sides of every exchange.

It stands in for hivemind's P2P. A message is taken as bytes; its size, then its shape, then its signatures
are checked, the last in a thread, and each peer has a budget for all of it. What hivemind gets, and decodes
with a serializer that trusts its input, was built here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2P, P2PContext
from hivemind.p2p.p2p_daemon_bindings.datastructures import PeerID
from hivemind.proto import dht_pb2 as pb

from paris_p2p.envelope import Envelope
from paris_p2p.errors import DaemonGoneError, RecordError
from paris_p2p.swarm.entries import (
    MAX_ENTRIES,
    BoardEntry,
    OnRecord,
    open_entries,
    pack_dictionary,
    pack_values,
)
from paris_p2p.swarm.limits import Allowance, Budgets
from paris_p2p.swarm.parcels import (
    keep_own_id,
    keep_own_nearest,
    name_of,
    read_found,
    read_store,
    store_request,
)
from paris_p2p.swarm.storage import RecordStorage
from paris_p2p.swarm.verified import RecordView
from paris_p2p.swarm.waiting import WaitingRoom

log = logging.getLogger(__name__)
MAX_KEYS = 16  # in one question; this project's nodes ask for one
MAX_STORE_BYTES = 3 << 19  # a node hands over 1 MiB of records to one it met
MAX_ANSWER_BYTES = 2 << 20
MAX_SMALL_BYTES = 1 << 16  # of everything else
# What a peer may ask for in a minute, answers included; what it may answer; what it is given to store. A run
# of nine slots that a thousand peers attested has 9,000 entries, and is read four times a minute.
ASKED = Allowance(size_bytes=64 << 20, keys=6000, cpu_s=6.0)
TOLD = Allowance(size_bytes=64 << 20, keys=60000, cpu_s=12.0)
HANDED_OVER = Allowance(size_bytes=8 << 20, keys=6000, cpu_s=60.0)
_ID_BYTES = DHTID.HASH_NBYTES
_SLICE = 128  # entries that hivemind stores between two turns of the event loop
_STORE, _FIND, _PING = (f"{DHTProtocol.__name__}.rpc_{name}" for name in ("store", "find", "ping"))
_MAX_REQUEST_BYTES = {_STORE: MAX_STORE_BYTES, _FIND: 1024, _PING: 256}
_MAX_RESPONSE_BYTES = {_FIND: MAX_ANSWER_BYTES, _STORE: MAX_SMALL_BYTES, _PING: 1024}
Handler = Callable[[Any, P2PContext], Awaitable[Any]]


@dataclass(frozen=True)
class Raw:
    """A message that nobody has parsed, in the shape of a protobuf class."""

    data: bytes

    @classmethod
    def FromString(cls, data: bytes) -> Raw:
        return cls(data)

    def SerializeToString(self) -> bytes:
        return self.data


class Door:
    """Offers what DHTNode uses of a P2P; `close` it when the node is no longer used."""

    def __init__(self, p2p: P2P, view: RecordView, storage: RecordStorage, on_record: OnRecord | None):
        self.peer_id = p2p.peer_id
        self._p2p, self._view, self._storage, self._on_record = p2p, view, storage, on_record
        self._asked, self._told, self._given = Budgets(ASKED), Budgets(TOLD), Budgets(HANDED_OVER)
        self._turn = asyncio.Lock()  # one request at a time does its work on the event loop
        self._waiting = WaitingRoom(storage.address_of)
        self._closed = False
        # Two, so that what strangers ask does not keep what this peer asked for waiting.
        self._threads = {name: ThreadPoolExecutor(1, f"records-{name}") for name in ("asked", "told")}

    def close(self) -> None:
        self._closed = True
        for thread in self._threads.values():
            # what was begun is ended: a cancelled future would cancel its waiter
            thread.shutdown(wait=False)

    async def add_protobuf_handler(
        self, name: str, handler: Handler, input_protobuf_type: Any, **options: Any
    ) -> None:
        async def answer(raw: Raw, context: P2PContext) -> Raw:
            return await self._answer(name, handler, raw.data, context)

        await self._p2p.add_protobuf_handler(name, answer, Raw, **options)

    async def remove_protobuf_handler(self, name: str, **options: Any) -> None:
        await self._p2p.remove_protobuf_handler(name, **options)

    async def call_protobuf_handler(
        self, peer_id: PeerID, name: str, input: Any, output_protobuf_type: Any
    ) -> Any:
        """Calls a peer; hivemind takes any error for a peer that did not answer."""
        peer, request = name_of(peer_id), input.SerializeToString()
        if name == _STORE and not self._given.spend(peer, size_bytes=len(request)):
            raise self._refusal("handed over enough for this minute")
        if not self._told.spend(peer):
            raise self._refusal("answers over the peer's budget")
        raw = await self._p2p.call_protobuf_handler(peer_id, name, Raw(request), Raw)
        if len(raw.data) > _MAX_RESPONSE_BYTES.get(name, 0) or not self._told.spend(
            peer, size_bytes=len(raw.data)
        ):
            raise self._refusal("answer too large, or over the peer's budget")
        response = self._parse(output_protobuf_type, raw.data)
        keep_own_id(response, peer_id)
        if name == _FIND:
            await self._check_found(peer, input.keys, response)
        elif name == _STORE and len(response.store_ok) != len(input.keys):
            raise self._refusal("answer malformed")
        return response

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Checks signatures of what this peer asked for, off the event loop; DaemonGoneError once closed."""
        return await self._in_thread("told", function, *arguments)

    async def _in_thread(self, thread: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._closed:
            raise DaemonGoneError("p2pd ended while records were checked; it is being restarted")
        return await asyncio.get_running_loop().run_in_executor(self._threads[thread], function, *arguments)

    async def _answer(self, name: str, handler: Handler, data: bytes, context: P2PContext) -> Raw:
        peer = name_of(context.remote_id)
        if len(data) > _MAX_REQUEST_BYTES.get(name, 0):
            raise self._refusal("request too large")
        if not self._asked.spend(peer, size_bytes=len(data), keys=1):
            raise self._refusal("request over the peer's budget")
        if (place := self._waiting.enter(peer)) is None:
            raise self._refusal("too many requests at once")
        try:
            return await self._answered(name, handler, data, context)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not place.put_out or task is None or task.uncancel():
                # p2pd's own word that nobody waits any more
                raise
            raise self._refusal("too many requests at once") from error
        finally:
            self._waiting.leave(place)

    async def _answered(self, name: str, handler: Handler, data: bytes, context: P2PContext) -> Raw:
        peer = name_of(context.remote_id)
        if name == _STORE:
            return await self._answer_store(peer, handler, self._parse(pb.StoreRequest, data), context)
        if name == _FIND:
            return await self._answer_find(peer, handler, self._parse(pb.FindRequest, data), context)
        request = self._parse(pb.PingRequest, data)
        keep_own_id(request, context.remote_id)
        request.validate = False  # it would have this node call back
        return Raw((await self._work(peer, handler, request, context)).SerializeToString())

    async def _answer_find(self, peer: str, handler: Handler, request: Any, context: P2PContext) -> Raw:
        keys = list(request.keys)
        if (
            not 0 < len(keys) <= MAX_KEYS
            or len(set(keys)) != len(keys)
            or any(len(key) != _ID_BYTES for key in keys)
        ):
            raise self._refusal("request malformed")
        answer_bytes = sum(self._storage.answer_bytes(DHTID.from_bytes(key)) for key in keys)
        if answer_bytes > MAX_ANSWER_BYTES // 2 + MAX_ANSWER_BYTES // 4:
            raise self._refusal("answer too large, ask for fewer keys")
        if not self._asked.spend(peer, size_bytes=answer_bytes, keys=len(keys) - 1):
            raise self._refusal("request over the peer's budget")
        keep_own_id(request, context.remote_id)
        token = self._storage.answering.set(True)
        try:
            response = await self._work(peer, handler, request, context)
        finally:
            self._storage.answering.reset(token)
        for key, result in zip(keys, response.results, strict=True):
            if values := self._storage.values(DHTID.from_bytes(key)):
                result.type = pb.FOUND_DICTIONARY
                result.value, result.expiration_time = pack_values(values)
        return Raw(response.SerializeToString())

    async def _answer_store(self, peer: str, handler: Handler, request: Any, context: P2PContext) -> Raw:
        count = len(request.keys)
        aligned = (
            count
            == len(request.subkeys)
            == len(request.values)
            == len(request.expiration_time)
            == len(request.in_cache)
        )
        if not aligned or not 0 < count <= MAX_ENTRIES or any(len(key) != _ID_BYTES for key in request.keys):
            raise self._refusal("request malformed")
        async with self._waiting.turn(peer):
            entries = await self._checked(self._asked, "asked", peer, read_store, request)
        keep_own_id(request, context.remote_id)
        stored = [not in_cache for in_cache in request.in_cache]  # of each key that was sent
        kept = [
            (number, entry) for number, entry, envelope in entries if envelope is not None and stored[number]
        ]
        refused = {number for number, _, envelope in entries if envelope is None}
        named = {number for number, _, _ in entries}
        stored = [here and number in named and number not in refused for number, here in enumerate(stored)]
        told = pb.StoreResponse()
        token = self._storage.bringing.set(peer)
        try:
            for start in range(0, max(1, len(kept)), _SLICE):
                some = kept[start : start + _SLICE]
                part = store_request([entry for _, entry in some])
                if not start:
                    part.peer.CopyFrom(request.peer)
                told = await self._work(peer, handler, part, context)
                for (number, _), ok in zip(some, told.store_ok, strict=True):
                    stored[number] = stored[number] and ok
        finally:
            self._storage.bringing.reset(token)
        return Raw(pb.StoreResponse(store_ok=stored, peer=told.peer).SerializeToString())

    async def _work(self, peer: str, handler: Handler, request: Any, context: P2PContext) -> Any:
        """Runs hivemind's own handler after the others' turn.

        It runs on the event loop without a pause.
        """
        async with self._turn:
            await asyncio.sleep(0)
            began_s = time.perf_counter()
            response = await handler(request, context)
            self._asked.charge(peer, time.perf_counter() - began_s)
        return response

    async def _check_found(self, peer: str, keys: Sequence[bytes], response: Any) -> None:
        if len(response.results) != len(keys):
            raise self._refusal("answer malformed")
        for key, result in zip(keys, response.results, strict=True):
            keep_own_nearest(result)
            if result.type != pb.FOUND_DICTIONARY:  # a value without subkey is no record
                result.type, result.value = pb.NOT_FOUND, b""
                continue
            checked = await self._checked(self._told, "told", peer, read_found, key, result.value)
            kept = [entry for _, entry, envelope in checked if envelope is not None]
            if kept:
                result.value, result.expiration_time = await self.run(pack_dictionary, kept)
            else:
                result.type, result.value = pb.NOT_FOUND, b""

    async def _checked(
        self, budgets: Budgets, thread: str, peer: str, read: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Checks what `read` takes apart, within the peer's budget.

        Returns (number of the key, entry, record or None) for each.
        """

        def work() -> list[tuple[int, BoardEntry, Envelope[Any] | None]]:
            began_s = time.thread_time()
            try:
                numbered = read(*arguments)
                if not budgets.spend(peer, keys=len(numbered)):
                    raise RecordError("over the peer's budget")
                opened = open_entries(self._view, [entry for _, entry in numbered])
                return [
                    (number, entry, envelope)
                    for (number, entry), envelope in zip(numbered, opened, strict=True)
                ]
            finally:
                budgets.charge(peer, time.thread_time() - began_s)

        try:
            checked = await self._in_thread(thread, work)
        except RecordError as error:
            log.debug("records of %s were refused: %s", peer, error)
            raise self._refusal("records malformed, or over the peer's budget") from error
        if self._on_record is not None:
            for _, _, envelope in checked:
                if envelope is not None:
                    self._on_record(envelope)
        return checked

    def _parse(self, kind: Any, data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            raise self._refusal("no protobuf") from error

    def _refusal(self, reason: str) -> RecordError:
        self._view.count(f"DHT: {reason}")
        return RecordError(reason)
