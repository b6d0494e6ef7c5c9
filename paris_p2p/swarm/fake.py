"""A swarm in memory: the seam's contract without sockets, daemons or hivemind, for tests of what is above."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import MissingBlobError, RecordError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.kinds import dht_key
from paris_p2p.records import MAX_MANIFEST_BYTES, RequestKind
from paris_p2p.swarm.blob_requests import CONVERSATIONS, MAX_SAID_BYTES
from paris_p2p.swarm.peer_measures import PeerMeasure
from paris_p2p.swarm.seam import (
    MAX_CHUNK_BYTES,
    MAX_CHUNKS_PER_REQUEST,
    MAX_GOSSIP_BYTES,
    SILENCE_S,
    BlobSource,
    GossipHandler,
    LineLimits,
    PeerInfo,
    Shown,
    Swarm,
    Transfer,
)
from paris_p2p.swarm.verified import RecordView, subkey_of

Expiring = tuple[float, bytes]  # expiry, value
FAKE_BYTES_PER_S = 10e6  # of what one gives another to drop


@dataclass
class FakeNetwork:
    """Holds all the peers there are, one bulletin board, and a clock that a test may move."""

    clock: Callable[[], float] = time.time
    swarms: dict[str, FakeSwarm] = field(default_factory=dict)
    board: dict[str, dict[str, Expiring]] = field(default_factory=lambda: defaultdict(dict))
    lies: dict[str, list[tuple[str, float, bytes]]] = field(default_factory=lambda: defaultdict(list))
    apart: set[frozenset[str]] = field(default_factory=set)  # pairs of peers of which one hung up

    def join(
        self, identity: Identity, source: BlobSource | None = None, *, clock_offset_s: float = 0.0
    ) -> FakeSwarm:
        swarm = FakeSwarm(self, identity.peer_id, source, clock_offset_s)
        self.swarms[identity.peer_id] = swarm
        return swarm

    def put_raw(self, key: str, subkey: str, expires_at: float, data: bytes) -> None:
        """Adds what a DHT node that checks nothing would hand out, beside what the honest ones hold."""
        self.lies[key].append((subkey, expires_at, data))


class FakeSwarm(Swarm):
    """One peer of a FakeNetwork; `offline = True` cuts it off."""

    def __init__(self, network: FakeNetwork, peer_id: str, source: BlobSource | None, clock_offset_s: float):
        self.network, self._peer_id, self.source, self.clock_offset_s = (
            network,
            peer_id,
            source,
            clock_offset_s,
        )
        self.offline, self.limits = False, LineLimits()
        self.behind_nat = False  # it dials others, and nobody it did not dial reaches it
        self.given: set[str] = set()
        self.view = RecordView()
        self._handlers: dict[str, list[GossipHandler]] = defaultdict(list)
        self._uploaded_bytes = self._downloaded_bytes = 0
        self._deliveries: set[asyncio.Task[None]] = set()

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def transfer(self) -> Transfer:
        return Transfer(self._uploaded_bytes, self._downloaded_bytes)

    @property
    def daemon_restarts(self) -> int:
        return 0

    @property
    def last_words(self) -> str:
        return ""

    async def daemon_metrics(self) -> str:
        return ""

    @property
    def refused(self) -> dict[str, int]:
        return dict(self.view.refused)

    def addresses(self) -> tuple[str, ...]:
        return (f"/ip4/127.0.0.1/tcp/1/p2p/{self.peer_id}",)

    @property
    def given_peers(self) -> frozenset[str]:
        return frozenset(self.given)

    def limit_line(self, limits: LineLimits) -> None:
        self.limits = limits

    def serve(self, source: BlobSource) -> None:
        self.source = source

    async def connect(self, addresses: Sequence[str]) -> None:
        for address in addresses:
            self.network.apart.discard(frozenset((self.peer_id, address.rsplit("/p2p/", 1)[-1])))
        if not any(self._reachable(address.rsplit("/p2p/", 1)[-1]) for address in addresses):
            raise UnreachableError(
                f"nobody answered at {', '.join(addresses)}; check the address and that the peer is running"
            )

    async def try_at(self, peer: str, addresses: Sequence[str]) -> None:
        await self.connect([f"{address}/p2p/{peer}" for address in addresses])

    async def peers(self) -> list[PeerInfo]:
        others = [
            swarm
            for swarm in self.network.swarms.values()
            if swarm is not self and self._reachable(swarm.peer_id)
        ]
        return [PeerInfo(swarm.peer_id, swarm.addresses(), direct=True) for swarm in others]

    async def store_record(self, envelope: Envelope[Any]) -> bool:
        key, subkey, expires_at = dht_key(envelope.record), subkey_of(envelope), envelope.record.expires_at
        self.view.remember(key, open_envelope(envelope.data, run=envelope.record.run))
        if self.offline or expires_at < self.network.clock():
            return False
        held = self.network.board[key].get(subkey)
        if held is not None and held[0] >= expires_at:  # as hivemind: only a later expiry replaces an entry
            return False
        self.network.board[key][subkey] = (expires_at, envelope.data)
        return True

    async def read_records(self, key: str, run: str) -> list[Envelope[Any]]:
        now = self.network.clock()
        if self.offline:
            return self.view.known(key, now)
        held = [
            (subkey, expires_at, data)
            for subkey, (expires_at, data) in self.network.board.get(key, {}).items()
        ]
        entries = [entry for entry in held + self.network.lies.get(key, []) if entry[1] > now]
        return self.view.merge(key, run, entries, now)

    async def publish(self, topic: str, data: bytes) -> None:
        if len(data) > MAX_GOSSIP_BYTES:
            raise RecordError(
                f"a gossip message of {len(data)} bytes is over the limit of {MAX_GOSSIP_BYTES}"
            )
        for swarm in list(self.network.swarms.values()):
            if swarm is self or not self._reachable(swarm.peer_id):
                continue
            for handler in swarm._handlers[topic]:
                task = asyncio.ensure_future(handler(self.peer_id, data))
                self._deliveries.add(task)
                task.add_done_callback(self._deliveries.discard)

    async def subscribe(self, topic: str, handler: GossipHandler) -> None:
        self._handlers[topic].append(handler)

    def unsubscribe(self, topic: str, handler: GossipHandler) -> None:
        self._handlers[topic] = [other for other in self._handlers[topic] if other != handler]

    def leave_run(self, run: str) -> None:
        """Changes nothing: there is one board for all here."""

    async def fetch_spec(self, peer: str, run_id: str) -> bytes:
        found = self._ask(peer, "spec", run_id, run_id).spec(run_id)
        if found is None:
            raise UnreachableError(f"peer {peer} does not know run {run_id[:16]}…; ask another")
        return found

    async def fetch_records(self, peer: str, key: str) -> list[bytes]:
        return list(self._ask(peer, "records", "", key).records(key))

    async def fetch_manifest(self, peer: str, blob_id: str) -> bytes:
        found = self._ask(peer, "blobs", "", blob_id).manifest_bytes(blob_id)
        if found is None:
            raise MissingBlobError(f"peer {peer} has no blob {blob_id[:16]}…")
        if len(found) > MAX_MANIFEST_BYTES:
            raise UnreachableError(f"peer {peer} offers a manifest of {len(found)} bytes")
        return found

    async def fetch_have(self, peer: str, blob_id: str) -> bytes:
        return self._ask(peer, "blobs", "", blob_id).have(blob_id)

    async def fetch_chunks(
        self,
        peer: str,
        blob_id: str,
        indexes: Sequence[int],
        *,
        silence_s: float = SILENCE_S,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
    ) -> AsyncGenerator[tuple[int, bytes | memoryview], None]:
        for index in indexes[:MAX_CHUNKS_PER_REQUEST]:
            source = self._ask(peer, "blobs", "", blob_id)
            try:
                data = await asyncio.wait_for(asyncio.to_thread(source.read_chunk, blob_id, index), silence_s)
            except MissingBlobError:
                continue
            except TimeoutError as error:
                raise UnreachableError(
                    f"peer {peer} was silent for {silence_s:.0f} s; another is asked"
                ) from error
            if len(data) > max_chunk_bytes:
                raise UnreachableError(
                    f"peer {peer} sent a chunk of {len(data)} bytes where {max_chunk_bytes} are the limit"
                )
            self._downloaded_bytes += len(data)
            self.network.swarms[peer]._uploaded_bytes += len(data)
            yield index, data

    async def measure_clock_offset(self, peer: str) -> float:
        if not self._reachable(peer):
            raise UnreachableError(f"peer {peer} cannot be reached")
        source = self.network.swarms[peer].source
        if source is not None and source.shown_to(self.peer_id, "clock", "", "") is None:
            raise UnreachableError(f"peer {peer} refused: this peer may not ask it for its clock")
        return self.network.swarms[peer].clock_offset_s - self.clock_offset_s

    async def ask(self, peer: str, action: RequestKind, run: str, body: bytes) -> bytes:
        shown = self._ask(peer, action, run, "")
        answer = await shown.converse(action, run, body) if len(body) <= MAX_SAID_BYTES else None
        if answer is None or len(answer) > CONVERSATIONS[action]:
            raise MissingBlobError(f"peer {peer} does not have it")
        return answer

    def measured(self, peer: str) -> PeerMeasure:
        return PeerMeasure()  # nothing is far away in one memory

    async def seen_at(self, peer: str) -> tuple[str, ...]:
        shown = self._ask(peer, "where", "", self.peer_id)
        return (self.addresses()[0].rpartition("/p2p/")[0],) if shown.tells_where() else ()

    async def dial_back(self, peer: str, run: str) -> dict[str, bool]:
        self._check_line_is_told(peer, "dial", run)
        return {"tcp": not self.behind_nat}

    async def give(self, peer: str, run: str, size_bytes: int) -> float:
        self._check_line_is_told(peer, "take", run)
        self._uploaded_bytes += size_bytes
        self.network.swarms[peer]._downloaded_bytes += size_bytes
        return size_bytes / FAKE_BYTES_PER_S

    def _check_line_is_told(self, peer: str, action: RequestKind, run: str) -> None:
        if not self._ask(peer, action, run, "").tells_where():
            raise MissingBlobError(f"peer {peer} does not have it")

    async def disconnect(self, peer: str) -> None:
        """Cuts the two off from each other, until one of them dials."""
        self.network.apart.add(frozenset((self.peer_id, peer)))

    async def close(self) -> None:
        self.network.swarms.pop(self.peer_id, None)
        for task in list(self._deliveries):
            task.cancel()
        await asyncio.gather(*self._deliveries, return_exceptions=True)

    def _reachable(self, peer: str) -> bool:
        other = self.network.swarms.get(peer)
        apart = frozenset((self.peer_id, peer)) in self.network.apart
        return other is not None and not other.offline and not self.offline and not apart

    def _ask(self, peer: str, action: RequestKind, run: str, thing: str) -> Shown:
        if not self._reachable(peer):
            raise UnreachableError(f"peer {peer} cannot be reached; it may have left")
        source = self.network.swarms[peer].source
        shown = source.shown_to(self.peer_id, action, run, thing) if source is not None else None
        if shown is None:
            raise UnreachableError(f"peer {peer} refused: this peer may not ask it for {action}")
        return shown
