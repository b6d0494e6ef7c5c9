"""The swarm over real sockets: p2pd, DHT, gossip and blobs joined, and mended when the daemon dies."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import ClockError, DaemonError, SwarmError, UnreachableError, UsageError
from paris_p2p.identity import Identity, load_peer_key, write_private_file
from paris_p2p.records import dht_key
from paris_p2p.spec import PeerSettings
from paris_p2p.swarm.addresses import is_relayed, is_tcp, split_peer
from paris_p2p.swarm.blobs import MAX_ADDRESSES, PROTOCOL, BlobClient, Streams
from paris_p2p.swarm.control import Control
from paris_p2p.swarm.daemon import Daemon, DaemonOptions, on_port, start_daemon
from paris_p2p.swarm.dht import Board, OnRecord, open_board
from paris_p2p.swarm.gossip import Gossip
from paris_p2p.swarm.limits import EventLimit, Meter, RateLimit
from paris_p2p.swarm.seam import MAX_CHUNK_BYTES, SILENCE_S, BlobSource, GossipHandler, PeerInfo, Swarm, Transfer
from paris_p2p.swarm.serving import BlobServer
from paris_p2p.swarm.verified import RecordView

log = logging.getLogger(__name__)
DIAL_LIMIT_S = 12.0
REOPEN_LIMIT_S = 30.0  # what a caller waits for a daemon that is being restarted
WHERE_LIMIT_S = 3.0
KEEP_EVERY_S = 10.0
MAX_CLOCK_OFFSET_S = 3.0  # hivemind's DHT refuses more
_BACKOFF_S = (0.1, 0.5, 2.0, 10.0, 30.0)


@dataclass
class Link:
    """Everything that dies with one daemon."""

    daemon: Daemon
    control: Control
    board: Board
    server: asyncio.Server


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
    """Start p2pd, dial the bootstrap peers and join the DHT; everything is ended on leaving.

    `on_record` sees every record that is stored here or read, of any run. Raises PortInUseError, DaemonError,
    UnreachableError when there are bootstrap peers and none answers, ClockError when theirs say that our clock is off.
    """
    swarm = RealSwarm(identity, _options(identity, settings, relay_service), settings, source, on_record, clock)
    try:
        await swarm._start(bootstrap_peers)
        yield swarm
    finally:
        await swarm.close()


class RealSwarm(Swarm):
    """One peer. Made by open_swarm."""

    def __init__(
        self,
        identity: Identity,
        options: DaemonOptions,
        settings: PeerSettings,
        source: BlobSource | None,
        on_record: OnRecord | None,
        clock: Callable[[], float],
    ):
        self._peer_id, self._options, self._on_record, self._clock = identity.peer_id, options, on_record, clock
        self._client_only = bool(settings.relays)  # behind NAT: a DHT node that others cannot dial only slows them down
        self._uploads, self._downloads, self._view, self._gossip = Meter(), Meter(), RecordView(), Gossip(identity.peer_id)
        self._blob_server = BlobServer(source, self._where, self._uploads, RateLimit(settings.upload_limit_bps), clock)
        self._client = BlobClient(self._open_stream, self._downloads, RateLimit(settings.download_limit_bps), clock)
        self._without_asking = BlobClient(self._open_known, self._downloads, RateLimit(0), clock)
        self._asked_where = EventLimit(per_s=1 / 30, burst=1)  # per peer that is sought
        self._known: dict[str, list[str]] = {}  # peer -> addresses that are dialled again when nobody is left
        self._addresses: tuple[str, ...] = ()
        self._link: Link | None = None
        self._storage: Any = None
        self._up = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._restarts, self._last_words = 0, ""

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def transfer(self) -> Transfer:
        return Transfer(self._uploads.total_bytes, self._downloads.total_bytes, self._uploads.bps(), self._downloads.bps())

    @property
    def daemon_restarts(self) -> int:
        return self._restarts

    @property
    def last_words(self) -> str:
        return self._last_words

    @property
    def refused(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for part in (self._view.refused, self._gossip.refused, self._blob_server.refused):
            total.update(part)
        return dict(total)

    @property
    def daemon_pid(self) -> int:
        """p2pd's process id, 0 while there is none."""
        return self._link.daemon.process.pid if self._link else 0

    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    def serve(self, source: BlobSource) -> None:
        self._blob_server.source = source

    async def connect(self, addresses: Sequence[str]) -> None:
        where: dict[str, list[str]] = {}
        for address in addresses:
            bare, peer = split_peer(address)
            where.setdefault(peer, []).append(bare)
        for peer, bare_addresses in where.items():
            await self._dial(peer, bare_addresses)
            self._known[peer] = bare_addresses
        await (await self._current()).board.meet(where)

    async def peers(self) -> list[PeerInfo]:
        return await (await self._control()).peers()

    async def store_record(self, envelope: Envelope[Any]) -> bool:
        self._view.remember(dht_key(envelope.record), open_envelope(envelope.data, run=envelope.record.run))
        return await (await self._current()).board.store(envelope)

    async def read_records(self, key: str, run: str) -> list[Envelope[Any]]:
        entries = await (await self._current()).board.read(key, self._view.refused)
        return self._view.merge(key, run, entries, time.time())

    async def publish(self, topic: str, data: bytes) -> None:
        await self._gossip.publish(await self._control(), topic, data)

    async def subscribe(self, topic: str, handler: GossipHandler) -> None:
        self._gossip.subscribe(topic, handler)

    async def fetch_spec(self, peer: str, run_id: str) -> bytes:
        return await self._client.spec(peer, run_id)

    async def fetch_records(self, peer: str, key: str) -> list[bytes]:
        return await self._client.records(peer, key)

    async def fetch_manifest(self, peer: str, blob_id: str) -> bytes:
        return await self._client.manifest(peer, blob_id)

    async def fetch_have(self, peer: str, blob_id: str) -> bytes:
        return await self._client.have(peer, blob_id)

    def fetch_chunks(
        self, peer: str, blob_id: str, indexes: Sequence[int], *, silence_s: float = SILENCE_S, max_chunk_bytes: int = MAX_CHUNK_BYTES
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        return self._client.chunks(peer, blob_id, indexes, silence_s, max_chunk_bytes)

    async def measure_clock_offset(self, peer: str) -> float:
        return await self._client.clock_offset(peer)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._blob_server.close()
        if self._link is not None:
            await self._unlink(self._link, daemon_alive=self._link.daemon.process.returncode is None)

    # from here on: how it starts, and how it is mended

    async def _start(self, bootstrap_peers: Sequence[str]) -> None:
        for address in bootstrap_peers:
            bare, peer = split_peer(address)
            if peer != self.peer_id:
                self._known.setdefault(peer, []).append(bare)
        await self._open_link()
        if self._known:
            reached = await self._rejoin()
            if not reached:
                tried = ", ".join(address for address in bootstrap_peers)
                raise UnreachableError(
                    f"nobody answered at {tried}; check this machine's network and firewall, or ask for a newer invite"
                )
            await self._check_clock(reached)
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._keep())]

    async def _open_link(self) -> None:
        daemon = await start_daemon(self._options)
        try:
            control = Control(daemon.control)
            server = await control.handle_streams(PROTOCOL, daemon.streams, self._blob_server.handle)
            board = await open_board(
                daemon.control, self.peer_id, self._view, self._on_record, client_only=self._client_only, storage=self._storage
            )
            await self._look_up_addresses(control)
        except BaseException:
            await daemon.stop()
            raise
        self._options = on_port(self._options, self._addresses)
        self._storage = board.storage()
        self._link = Link(daemon, control, board, server)
        self._gossip.attach(control)
        self._up.set()

    async def _unlink(self, link: Link, *, daemon_alive: bool) -> None:
        self._up.clear()
        self._link = None
        link.server.close()
        await self._gossip.detach()
        await link.board.close(daemon_alive=daemon_alive)
        await link.daemon.stop()

    async def _supervise(self) -> None:
        """Notice that p2pd died, say why, and rebuild everything that hung on it."""
        while self._link is not None:
            self._last_words = await self._link.daemon.wait_dead()
            log.error("%s; starting it again", self._last_words)
            await self._unlink(self._link, daemon_alive=False)
            for attempt in range(1 << 30):
                try:
                    await self._open_link()
                    break
                except SwarmError as error:
                    self._last_words = str(error)
                    log.error("p2pd cannot be started again: %s", error)
                await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
            self._restarts += 1
            await self._keep_once()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            await self._keep_once()

    async def _keep_once(self) -> None:
        """Come back to the known peers when they were lost, and let the DHT meet whoever is connected."""
        try:
            link = await self._current()
            connected = await link.control.peers()
            for peer in connected:
                dialled = [a for a in peer.addresses if a and not is_relayed(a)]
                if dialled and len(self._known) < 32:
                    self._known.setdefault(peer.peer_id, dialled)
            if not any(peer.peer_id in self._known for peer in connected):
                await self._rejoin()
            await link.board.meet(peer.peer_id for peer in connected[:32])
            await self._look_up_addresses(link.control)
        except SwarmError as error:
            log.info("the network is away: %s", error)

    async def _rejoin(self) -> list[str]:
        """Dial all known peers side by side; those that answered."""
        peers = list(self._known)
        results = await asyncio.gather(*(self._dial(peer, self._known[peer]) for peer in peers), return_exceptions=True)
        reached = []
        for peer, result in zip(peers, results, strict=True):
            if result is None:
                reached.append(peer)
            elif not isinstance(result, SwarmError):
                raise result
        await (await self._current()).board.meet(reached)
        return reached

    async def _dial(self, peer: str, addresses: Sequence[str]) -> None:
        """TCP before anything else: p2pd itself would prefer QUIC, which moves blobs half as fast."""
        control, failure = await self._control(), UnreachableError(f"peer {peer}: nobody knows an address")
        tcp = [address for address in addresses if is_tcp(address)]
        rest = [address for address in addresses if not is_tcp(address)]
        for group in filter(None, (tcp, rest)):
            try:
                return await control.connect(peer, group, DIAL_LIMIT_S / 2 if tcp and rest else DIAL_LIMIT_S)
            except UnreachableError as error:
                failure = error
        raise failure

    async def _open_known(self, peer: str, timeout_s: float) -> Streams:
        return await (await self._control()).open_stream(peer, PROTOCOL, min(timeout_s, WHERE_LIMIT_S))

    async def _open_stream(self, peer: str, timeout_s: float) -> Streams:
        try:
            return await (await self._control()).open_stream(peer, PROTOCOL, timeout_s)
        except UnreachableError:
            # p2pd's own look-up knows only public and private ranges, and forgets; whoever is connected to the peer knows better.
            if not self._asked_where.allow(peer) or not await self._dial_where_others_say(peer):
                raise
        return await (await self._control()).open_stream(peer, PROTOCOL, timeout_s)

    async def _dial_where_others_say(self, peer: str) -> bool:
        connected = [other.peer_id for other in await self.peers() if other.peer_id != peer]
        asked = sorted(connected, key=lambda other: other not in self._known)[:4]
        answers = await asyncio.gather(*(self._without_asking.where(other, peer) for other in asked), return_exceptions=True)
        addresses = dict.fromkeys(a for answer in answers if isinstance(answer, list) for a in answer)
        try:
            await self._dial(peer, list(addresses)[:MAX_ADDRESSES])
        except UnreachableError:
            return False
        return True

    async def _where(self, peer: str) -> list[str]:
        return [address for known in await self.peers() if known.peer_id == peer for address in known.addresses if address]

    async def _check_clock(self, peers: Sequence[str]) -> None:
        results = await asyncio.gather(*(self.measure_clock_offset(peer) for peer in peers[:5]), return_exceptions=True)
        offsets = [result for result in results if isinstance(result, float)]
        offset_s = statistics.median(offsets) if offsets else 0.0
        if abs(offset_s) > MAX_CLOCK_OFFSET_S:
            raise ClockError(
                f"this machine's clock is {abs(offset_s):.1f} s {'behind' if offset_s > 0 else 'ahead of'} that of {len(offsets)} "
                f"peer(s), {MAX_CLOCK_OFFSET_S:.0f} s are the limit; set it (for example `timedatectl set-ntp true`) and start again"
            )

    async def _look_up_addresses(self, control: Control) -> None:
        _, found = await control.identify()
        loopback_last = sorted(found, key=lambda address: (address.startswith("/ip4/127."), not is_tcp(address)))
        every = dict.fromkeys([*self._options.announce, *loopback_last])
        self._addresses = tuple(f"{address}/p2p/{self.peer_id}" for address in every)

    async def _current(self) -> Link:
        try:
            async with asyncio.timeout(REOPEN_LIMIT_S):
                await self._up.wait()
        except TimeoutError:
            pass
        if self._link is None:
            raise DaemonError(f"p2pd is not running: {self._last_words or 'it was stopped'}")
        return self._link

    async def _control(self) -> Control:
        return (await self._current()).control


def _options(identity: Identity, settings: PeerSettings, relay_service: bool) -> DaemonOptions:
    try:
        ipaddress.IPv4Address(settings.host)
    except ValueError as error:
        raise UsageError(f"--host must be an IPv4 address of this machine, or 0.0.0.0 for all, not {settings.host!r}") from error
    key_path = settings.data_dir / "identity.key"
    if not key_path.exists():
        write_private_file(key_path, identity.libp2p_private_key())
    if load_peer_key(key_path).peer_id != identity.peer_id:
        raise UsageError(f"{key_path} is another peer's key than {identity.peer_id}; use one data directory per peer")
    return DaemonOptions(key_path, settings.host, settings.port, settings.announce, settings.relays, relay_service)
