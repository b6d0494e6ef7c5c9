"""The swarm over real sockets: p2pd, DHT, gossip and blobs joined, and mended when the daemon dies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.kinds import dht_key
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import RequestKind
from paris_p2p.swarm.addresses import dialled_ports, is_address, split_peer, stays_near
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks
from paris_p2p.swarm.blob_client import MAX_ADDRESSES, PROTOCOL, BlobClient
from paris_p2p.swarm.blob_server import BlobServer
from paris_p2p.swarm.clocks import check_clock
from paris_p2p.swarm.daemon import Daemon, DaemonOptions, daemon_options
from paris_p2p.swarm.daemon_metrics import read_metrics
from paris_p2p.swarm.dht import BulletinBoard, open_board
from paris_p2p.swarm.entries import OnRecord
from paris_p2p.swarm.gossip import Gossip
from paris_p2p.swarm.limits import EventLimit, Meter, RateLimit
from paris_p2p.swarm.line_aids import LineAids
from paris_p2p.swarm.link import LinkKeeper
from paris_p2p.swarm.p2pd import Streams
from paris_p2p.swarm.peer_measures import PeerMeasure
from paris_p2p.swarm.seam import (
    MAX_CHUNK_BYTES,
    SILENCE_S,
    BlobSource,
    GossipHandler,
    LineLimits,
    PeerInfo,
    Swarm,
    Transfer,
)
from paris_p2p.swarm.storage import RecordStorage, StorageLimits
from paris_p2p.swarm.verified import RecordView

log = logging.getLogger(__name__)
WHERE_LIMIT_S = 3.0
# a list of connections, which p2pd makes anew each time, answers other peers' `where` for so long
CONNECTED_FOR_S = 0.5


@asynccontextmanager
async def open_swarm(
    identity: Identity,
    settings: PeerSettings,
    *,
    bootstrap_peers: Sequence[str] = (),
    source: BlobSource | None = None,
    relay_service: bool = False,
    on_record: OnRecord | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[RealSwarm]:
    """Starts p2pd, dials the bootstrap peers and joins the DHT; everything is ended on leaving.

    `on_record` sees every record that is stored here or read, of any run. Raises PortInUseError,
    DaemonError, UnreachableError when there are bootstrap peers and none answers, ClockError when their
    clocks say that ours is off.
    """
    swarm = RealSwarm(
        identity, daemon_options(identity, settings, relay_service), settings, source, on_record, clock
    )
    try:
        await swarm._start(bootstrap_peers)
        yield swarm
    finally:
        await swarm.close()


class RealSwarm(Swarm):
    """One peer, made by `open_swarm`."""

    def __init__(
        self,
        identity: Identity,
        options: DaemonOptions,
        settings: PeerSettings,
        source: BlobSource | None,
        on_record: OnRecord | None,
        clock: Callable[[], float],
    ):
        self._peer_id, self._on_record = identity.peer_id, on_record
        # behind NAT: a DHT node that others cannot dial only slows them down
        self._client_only = bool(settings.relays)
        self._relays = frozenset(relay.rpartition("/p2p/")[2] for relay in settings.relays)
        self._uploads, self._downloads, self._view, self._gossip = (
            Meter(),
            Meter(),
            RecordView(identity.peer_id),
            Gossip(identity.peer_id),
        )
        self._storage = RecordStorage(StorageLimits(), self._view.refused, self._network_of)  # outlives p2pd
        self._settings = settings
        downloads = RateLimit(settings.download_limit_bytes_per_s)
        self._blob_server = BlobServer(
            source,
            self._where,
            self._uploads,
            RateLimit(settings.upload_limit_bytes_per_s),
            clock,
            LineAids(downloads, self._downloads),
        )
        self._client = BlobClient(self._open_stream, self._downloads, downloads, clock)
        self._client_of_connected = BlobClient(self._open_connected, self._downloads, RateLimit(0), clock)
        self._connected: tuple[float, list[PeerInfo]] = (-1e9, [])  # (when by the monotonic clock, peers)
        self._asked_where = EventLimit(per_s=1 / 30, burst=1)  # per peer that is sought
        self._keeper = LinkKeeper(
            identity.peer_id, options, self._gossip, (PROTOCOL, self._blob_server.handle), self._open_board
        )

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def transfer(self) -> Transfer:
        return Transfer(
            self._uploads.total_bytes,
            self._downloads.total_bytes,
            self._uploads.bytes_per_s(),
            self._downloads.bytes_per_s(),
            self._uploads.filled_s,
            self._uploads.relayed_bytes,
            self._downloads.relayed_bytes,
        )

    @property
    def daemon_restarts(self) -> int:
        return self._keeper.restarts

    @property
    def last_words(self) -> str:
        return self._keeper.last_words

    async def daemon_metrics(self) -> str:
        link = self._keeper.link
        return await read_metrics(link.daemon.metrics_port) if link else ""

    @property
    def refused(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for part in (
            self._view.refused,
            self._gossip.refused,
            self._blob_server.refused,
            self._keeper.refused,
        ):
            total.update(part)
        return dict(total)

    @property
    def daemon_pid(self) -> int:
        """Returns p2pd's process id, 0 while there is none."""
        link = self._keeper.link
        return link.daemon.process.pid if link else 0

    @property
    def mended(self) -> asyncio.Event:
        """Is set after each restart of p2pd; the waiter clears it."""
        return self._keeper.mended

    def addresses(self) -> tuple[str, ...]:
        return self._keeper.addresses

    @property
    def given_peers(self) -> frozenset[str]:
        return frozenset(self._keeper.given) | self._relays

    def limit_line(self, limits: LineLimits) -> None:
        self._blob_server.change_limit(limits.upload_bytes_per_s, is_closed=limits.is_upload_closed)
        self._client.change_limit(limits.download_bytes_per_s, is_closed=limits.is_download_closed)

    def serve(self, source: BlobSource) -> None:
        self._blob_server.source = source

    async def connect(self, addresses: Sequence[str]) -> None:
        where: dict[str, list[str]] = {}
        for address in addresses:
            bare, peer = split_peer(address)
            where.setdefault(peer, []).append(bare)
        for peer, bare_addresses in where.items():
            await self._keeper.dial(peer, bare_addresses)
            self._keeper.given[peer] = bare_addresses
        await (await self._keeper.current()).board.meet(where)

    async def try_at(self, peer: str, addresses: Sequence[str]) -> None:
        control = await self._keeper.control()
        if any(each.peer_id == peer and not each.direct for each in await control.peers()):
            await control.disconnect(peer)  # p2pd dials nobody whom it is connected to
        await self._keeper.dial(peer, addresses)
        await (await self._keeper.current()).board.meet([peer])

    async def peers(self) -> list[PeerInfo]:
        return await self._keeper.ask(lambda link: link.control.peers())

    async def store_record(self, envelope: Envelope[Any]) -> bool:
        self._storage.take_part(envelope.record.run)
        self._view.remember(dht_key(envelope.record), open_envelope(envelope.data, run=envelope.record.run))
        return await self._keeper.ask(lambda link: link.board.store(envelope))

    async def read_records(self, key: str, run: str) -> list[Envelope[Any]]:
        self._storage.take_part(run)  # who reads or writes a run's records does
        opened = await self._keeper.ask(lambda link: link.board.read(key, run, self._view))
        return self._view.take(key, opened, time.time())

    async def publish(self, topic: str, data: bytes) -> None:
        await self._keeper.ask(lambda link: self._gossip.publish(link.control, topic, data))

    async def subscribe(self, topic: str, handler: GossipHandler) -> None:
        self._gossip.subscribe(topic, handler)

    def unsubscribe(self, topic: str, handler: GossipHandler) -> None:
        self._gossip.unsubscribe(topic, handler)

    def leave_run(self, run: str) -> None:
        self._storage.leave(run)

    async def fetch_spec(self, peer: str, run_id: str) -> bytes:
        return await self._client.spec(peer, run_id)

    async def fetch_records(self, peer: str, key: str) -> list[bytes]:
        return await self._client.records(peer, key)

    async def fetch_manifest(self, peer: str, blob_id: str) -> bytes:
        return await self._client.manifest(peer, blob_id)

    async def fetch_have(self, peer: str, blob_id: str) -> bytes:
        return await self._client.have(peer, blob_id)

    def fetch_chunks(
        self,
        peer: str,
        blob_id: str,
        indexes: Sequence[int],
        *,
        silence_s: float = SILENCE_S,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
    ) -> AsyncGenerator[tuple[int, memoryview], None]:
        return self._client.chunks(peer, blob_id, indexes, silence_s, max_chunk_bytes)

    async def measure_clock_offset(self, peer: str) -> float:
        return await self._client.clock_offset(peer)

    async def ask(self, peer: str, action: RequestKind, run: str, body: bytes) -> bytes:
        return await self._client.ask(peer, action, run, body)

    def measured(self, peer: str) -> PeerMeasure:
        return self._client.measures.of(peer)

    async def seen_at(self, peer: str) -> tuple[str, ...]:
        return tuple(filter(is_address, await self._client_of_connected.where(peer, self.peer_id)))

    async def dial_back(self, peer: str, run: str) -> dict[str, bool]:
        ports = dialled_ports(self._settings.announce, self.addresses())
        return await self._client_of_connected.dial_back(peer, run, ports)

    async def give(self, peer: str, run: str, size_bytes: int) -> float:
        return await self._client_of_connected.give(peer, run, size_bytes)

    async def disconnect(self, peer: str) -> None:
        await (await self._keeper.control()).disconnect(peer)

    async def close(self) -> None:
        await self._blob_server.close()
        await self._keeper.close()

    async def _start(self, bootstrap_peers: Sequence[str]) -> None:
        for address in bootstrap_peers:
            bare, peer = split_peer(address)
            if self._settings.lan_only and not stays_near(bare):
                log.info("%s is not dialled: --lan-only, and it is no private address", bare)
            elif peer != self.peer_id:
                self._keeper.given.setdefault(peer, []).append(bare)
        await self._keeper.open()
        is_entry = any(split_peer(address)[1] == self.peer_id for address in bootstrap_peers)
        if bootstrap_peers and not self._keeper.given and not is_entry:
            raise UnreachableError(
                "--lan-only dials private addresses alone, and none was given; ask for an invite made by a "
                "node of this network, or leave --lan-only out"
            )
        if self._keeper.given:
            reached = await self._keeper.rejoin()
            # One that others are told to dial waits for them: they may be where nobody can dial them.
            if not reached and not is_entry:
                tried = ", ".join(bootstrap_peers)
                raise UnreachableError(
                    f"nobody answered at {tried}; check this machine's network and firewall, "
                    "or ask for a newer invite"
                )
            if reached:
                await check_clock(reached, self.measure_clock_offset)
        self._keeper.keep()

    def _network_of(self, peer: str) -> str:
        # a peer is known by its address after the keeper's next look
        return self._keeper.networks.get(peer, "")

    async def _open_board(self, daemon: Daemon) -> BulletinBoard:
        return await open_board(
            daemon.control,
            self.peer_id,
            self._view,
            self._on_record,
            self._storage,
            client_only=self._client_only,
        )

    async def _open_connected(self, peer: str, timeout_s: float) -> Streams:
        return await (await self._keeper.control()).open_stream(peer, PROTOCOL, min(timeout_s, WHERE_LIMIT_S))

    async def _open_stream(self, peer: str, timeout_s: float) -> Streams:
        try:
            return await (await self._keeper.control()).open_stream(peer, PROTOCOL, timeout_s)
        except UnreachableError:
            # p2pd's own look-up knows only public and private ranges, and forgets; those who are connected
            # to the peer know better.
            if not self._asked_where.allow(peer) or not await self._dial_where_others_say(peer):
                raise
        return await (await self._keeper.control()).open_stream(peer, PROTOCOL, timeout_s)

    async def _dial_where_others_say(self, peer: str) -> bool:
        connected = [other.peer_id for other in await self.peers() if other.peer_id != peer]
        known = self._keeper.known
        asked = sorted(connected, key=lambda other: other not in known)[:4]
        questions = {other: partial(self._client_of_connected.where, other, peer) for other in asked}
        answers = await ask_side_by_side(questions, enough=len(asked), limit_s=WHERE_LIMIT_S)
        await end_tasks(answers.late.values())
        addresses = dict.fromkeys(address for found in answers.good.values() for address in found)
        try:
            await self._keeper.dial(peer, list(addresses)[:MAX_ADDRESSES])
        except UnreachableError:
            return False
        return True

    async def _where(self, peer: str) -> list[str]:
        when_s, connected = self._connected
        if time.monotonic() - when_s > CONNECTED_FOR_S:
            connected = await self.peers()
            self._connected = time.monotonic(), connected
        return [
            address for known in connected if known.peer_id == peer for address in known.addresses if address
        ]
