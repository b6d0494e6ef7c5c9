"""The link to the network: p2pd with DHT, gossip and streams on it, rebuilt when the daemon dies."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from paris_p2p.errors import DaemonError, DaemonGoneError, SwarmError, UnreachableError
from paris_p2p.swarm.addresses import is_loopback, is_relayed, is_tcp, network_of, stays_near
from paris_p2p.swarm.daemon import STOP_LIMIT_S, Daemon, DaemonOptions, on_port, start_daemon
from paris_p2p.swarm.dht import BulletinBoard
from paris_p2p.swarm.gossip import Gossip
from paris_p2p.swarm.p2pd import Control, StreamHandler
from paris_p2p.swarm.seam import PeerInfo
from paris_p2p.swarm.silence import until_hung

log = logging.getLogger(__name__)
T = TypeVar("T")
DIAL_LIMIT_S = 12.0
REOPEN_LIMIT_S = 30.0  # what a caller waits for a daemon that is being restarted
DEAF_LIMIT_S = 2.0  # from the end of the DHT's conversation with p2pd to its death, mostly the reason
KEEP_EVERY_S = 10.0
MAX_REDIAL_S = 120.0  # between two tries to come back to a peer we were given, while others are there
MAX_MET_PEERS = 32
_FAULT = "keeping the link: an error in the log"
_BACKOFF_S = (0.1, 0.5, 2.0, 10.0, 30.0)
OpenBoard = Callable[[Daemon], Awaitable[BulletinBoard]]


@dataclass
class Link:
    """Holds everything that dies with one daemon."""

    daemon: Daemon
    control: Control
    board: BulletinBoard
    server: asyncio.Server
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # set when it is the link no more


async def _until_dead(link: Link) -> str:
    """Waits until p2pd has ended, and says in words how; one that lives on and says nothing is ended."""
    dead = asyncio.create_task(link.daemon.wait_dead())
    deaf = asyncio.create_task(link.board.until_deaf())
    hung = asyncio.create_task(until_hung(link.control.until_answers))
    try:
        await asyncio.wait({dead, deaf, hung}, return_when=asyncio.FIRST_COMPLETED)
        if not hung.done():
            await asyncio.wait({dead}, timeout=DEAF_LIMIT_S)
        if dead.done():
            return dead.result()
        why = hung.result() if hung.done() else "it ended the conversation about the DHT"
        link.daemon.kill(why)
        await asyncio.wait({dead}, timeout=STOP_LIMIT_S)
        return dead.result() if dead.done() else f"p2pd was killed and has not ended yet: {why}"
    finally:
        for task in (dead, deaf, hung):
            task.cancel()
        await asyncio.gather(dead, deaf, hung, return_exceptions=True)


@dataclass
class Absence:
    """Remembers a peer that should be here and is not."""

    tries: int = 0
    next_s: float = 0.0  # by the loop's clock


class LinkKeeper:
    """Opens the link, comes back to peers that were lost, and opens another link when p2pd died."""

    def __init__(
        self,
        peer_id: str,
        options: DaemonOptions,
        gossip: Gossip,
        streams: tuple[str, StreamHandler],
        open_board: OpenBoard,
    ):
        self._peer_id, self._options, self._gossip, self._streams, self._open_board = (
            peer_id,
            options,
            gossip,
            streams,
            open_board,
        )
        # Peer -> addresses without /p2p/. Those we were given (bootstrap nodes, mostly) hold the swarm
        # together: each is dialled again for as long as it is away. Those met on the way only when nobody at
        # all is left.
        self.given: dict[str, list[str]] = {}
        self.met: dict[str, list[str]] = {}
        self.addresses: tuple[str, ...] = ()
        self.networks: dict[str, str] = {}  # of the peers that were connected at the last look
        self.restarts, self.last_words = 0, ""
        self.refused: Counter[str] = Counter()
        self.mended = asyncio.Event()  # set after each restart of p2pd; the waiter clears it
        self.link: Link | None = None
        self._up, self._rejoined = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._absent: dict[str, Absence] = {}
        self._dialling: dict[str, asyncio.Task[None]] = {}

    @property
    def known(self) -> dict[str, list[str]]:
        return self.met | self.given

    async def current(self) -> Link:
        """Returns the link, after p2pd's restart where it is down; DaemonError when that takes long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REOPEN_LIMIT_S):
                await self._up.wait()
        if self.link is None:
            raise DaemonError(f"p2pd is not running: {self.last_words or 'it was stopped'}")
        return self.link

    async def control(self) -> Control:
        return (await self.current()).control

    async def ask(self, question: Callable[[Link], Awaitable[T]]) -> T:
        """Asks p2pd what may be asked twice: where it dies over it, the next one is asked. DaemonError."""
        link = await self.current()
        try:
            return await question(link)
        except DaemonGoneError as error:
            log.info("%s; the next is asked", error)
            failure = error
        with suppress(TimeoutError):
            async with asyncio.timeout(REOPEN_LIMIT_S):
                await link.gone.wait()
        if not link.gone.is_set():
            raise failure
        with suppress(TimeoutError):  # before it has come back to its peers, it knows nobody
            async with asyncio.timeout(REOPEN_LIMIT_S):
                await self._rejoined.wait()
        return await question(await self.current())

    async def open(self) -> None:
        """Opens the first link; PortInUseError or DaemonError when p2pd cannot be started."""
        daemon = await start_daemon(self._options)
        async with AsyncExitStack() as undo:  # what failed half-way leaves nothing open
            undo.push_async_callback(daemon.stop)
            control = Control(daemon.control)
            protocol, handler = self._streams
            server = await control.handle_streams(protocol, daemon.streams, handler)
            undo.callback(server.close)
            board = await self._open_board(daemon)
            undo.push_async_callback(board.close)
            await self._look_up_addresses(control)
            undo.pop_all()
        self._options = on_port(self._options, self.addresses)
        self.link = Link(daemon, control, board, server)
        self._gossip.attach(control)
        self._up.set()

    def keep(self) -> None:
        """Starts mending what breaks, from now on."""
        turns = self._forever(self._supervise, _BACKOFF_S), self._forever(self._keep, (0.0,))
        self._tasks = [asyncio.create_task(turn) for turn in turns]

    async def close(self) -> None:
        tasks = [*self._tasks, *self._dialling.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.link is not None:
            await self._drop(self.link)

    async def dial(self, peer: str, addresses: Sequence[str]) -> None:
        """Dials a peer over TCP before anything else; UnreachableError.

        p2pd itself would prefer QUIC, which moves blobs half as fast.
        """
        control, failure = await self.control(), UnreachableError(f"peer {peer}: nobody knows an address")
        if self._options.lan_only:
            addresses = [address for address in addresses if stays_near(address)]
            failure = UnreachableError(
                f"peer {peer}: no private address of it is known, and --lan-only dials no other"
            )
        tcp = [address for address in addresses if is_tcp(address)]
        rest = [address for address in addresses if not is_tcp(address)]
        for group in filter(None, (tcp, rest)):
            try:
                return await control.connect(peer, group, DIAL_LIMIT_S / 2 if tcp and rest else DIAL_LIMIT_S)
            except UnreachableError as error:
                failure = error
        raise failure

    async def rejoin(self) -> list[str]:
        """Dials all known peers side by side, and returns those that answered."""
        known = self.known
        results = await asyncio.gather(
            *(self.dial(peer, addresses) for peer, addresses in known.items()), return_exceptions=True
        )
        reached = []
        for peer, result in zip(known, results, strict=True):
            if result is None:
                reached.append(peer)
            elif not isinstance(result, SwarmError):
                raise result
        await (await self.current()).board.meet_again(reached)
        return reached

    async def _drop(self, link: Link) -> None:
        self._up.clear()
        self._rejoined.clear()
        self.link = None
        link.gone.set()
        try:
            link.server.close()
            await self._gossip.detach()
            await link.board.close()
        finally:
            await link.daemon.stop()

    async def _forever(self, turn: Callable[[], Awaitable[None]], pauses_s: Sequence[float]) -> None:
        """Calls one turn after another: a task's outermost frame.

        Whatever a peer or a library did in one turn, the next one comes. `pauses_s` are slept after
        the first, second, … failure in a row, the last one after all others.
        """
        failures = 0
        while True:
            try:
                await turn()
                failures = 0
                continue
            except SwarmError as error:
                words = str(error)
                (log.info if self.link else log.error)("the network is away: %s", words)
            except Exception as error:
                words = repr(error)
                log.exception("the link was not kept this time")
                self.refused[_FAULT] += 1
            if self.link is None:
                self.last_words = words  # what callers are told
            await asyncio.sleep(pauses_s[min(failures, len(pauses_s) - 1)])
            failures += 1

    async def _supervise(self) -> None:
        """Notices that p2pd died, says why, and rebuilds everything that hung on it."""
        if self.link is not None:
            self.last_words = await _until_dead(self.link)
            log.error("%s; starting it again", self.last_words)
            await self._drop(self.link)
        await self.open()
        try:
            await self.rejoin()
            await self._keep_once()
        finally:
            self.restarts += 1
            self._rejoined.set()
            self.mended.set()

    async def _keep(self) -> None:
        # not all peers of a node that left at once
        await asyncio.sleep(KEEP_EVERY_S * random.uniform(0.8, 1.2))
        await self._keep_once()

    async def _keep_once(self) -> None:
        """Looks for the peers that were lost, and makes connected peers known to the DHT."""
        link = await self.current()
        if link.daemon.end_if_too_large():
            self.refused["p2pd restarted: too much memory"] += 1
            return
        connected = await link.control.peers()
        if self._options.lan_only:
            connected = await self._without_far(link.control, connected)
        self.networks = {peer.peer_id: network_of(next(iter(peer.addresses), "")) for peer in connected}
        self._look_for_absent({peer.peer_id for peer in connected})
        for peer in connected:
            dialled = [address for address in peer.addresses if address and not is_relayed(address)]
            if dialled and len(self.met) < MAX_MET_PEERS:
                self.met.setdefault(peer.peer_id, dialled)
        await link.board.meet(peer.peer_id for peer in connected[:MAX_MET_PEERS])
        await self._look_up_addresses(link.control)
        self._gossip.attach(link.control)  # listens again where a subscription ended while p2pd lives

    async def _without_far(self, control: Control, connected: list[PeerInfo]) -> list[PeerInfo]:
        """Ends what p2pd opened to public addresses, which it may hear of from peers; returns the rest."""
        near = [peer for peer in connected if all(map(stays_near, filter(None, peer.addresses)))]
        for peer in connected:
            if peer not in near:
                log.info("%s is connected at no private address; hanging up", peer.peer_id[-8:])
                await control.disconnect(peer.peer_id)
                self.refused["not in the local network"] += 1
        return near

    def _look_for_absent(self, connected: set[str]) -> None:
        """Dials, beside the keeping, the given peers that are away, each ever more rarely.

        A peer that is alone dials all that are known, at each turn. Peers that see each other are not
        the swarm: newcomers come to a bootstrap node, which knows nobody after a restart.
        """
        now = asyncio.get_running_loop().time()
        alone = connected.isdisjoint(self.known)
        wanted = self.known if alone else self.given
        self._absent = {peer: self._absent.get(peer, Absence()) for peer in wanted if peer not in connected}
        for peer, absence in self._absent.items():
            if peer not in self._dialling and (alone or absence.next_s <= now):
                self._dialling[peer] = asyncio.create_task(self._come_back(peer, wanted[peer], absence))

    async def _come_back(self, peer: str, addresses: Sequence[str], absence: Absence) -> None:
        absence.tries += 1
        wait_s = min(MAX_REDIAL_S, KEEP_EVERY_S * 2.0 ** min(absence.tries, 20)) * random.uniform(0.5, 1.0)
        try:
            await self.dial(peer, addresses)
            await (await self.current()).board.meet_again([peer])
            log.info("%s is here again", peer[-8:])
        except SwarmError as error:
            log.info("%s is still away, dialled again in %.0f s: %s", peer[-8:], wait_s, error)
        except Exception:  # the others are looked for as before
            log.exception("%s could not be met again", peer)
            self.refused[_FAULT] += 1
        finally:
            absence.next_s = asyncio.get_running_loop().time() + wait_s
            del self._dialling[peer]

    async def _look_up_addresses(self, control: Control) -> None:
        _, found = await control.identify()
        loopback_last = sorted(found, key=lambda address: (is_loopback(address), not is_tcp(address)))
        every = dict.fromkeys([*self._options.announce, *loopback_last])
        self.addresses = tuple(f"{address}/p2p/{self._peer_id}" for address in every)
