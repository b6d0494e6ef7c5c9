"""Finds peers of the same run in the local network, by multicast DNS, and dials them there.

What is announced and who is dialled is decided in rules/near.py; here are the sockets (zeroconf).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Interface
from typing import Any

from blake3 import blake3
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from paris_p2p.errors import SwarmError
from paris_p2p.rules.near import (
    MAX_FOUND,
    Neighbour,
    RunSecrets,
    Tries,
    announcement,
    is_of_a_run,
    own_tags,
    read_announcement,
    whom_to_dial,
)
from paris_p2p.shown import shown
from paris_p2p.swarm.addresses import ip_of, port_of
from paris_p2p.swarm.asking import end_tasks
from paris_p2p.swarm.interfaces import near_interfaces
from paris_p2p.swarm.limits import EventLimit
from paris_p2p.swarm.seam import Swarm

log = logging.getLogger(__name__)
SERVICE = "_paris-p2p._udp.local."
LOOK_EVERY_S = 5.0
AGAIN_AFTER_S = 600.0  # multicast that failed
MAX_ASKING = 8  # announcements that are asked for their rest, at once
ASKED_MS = 1500
READ_PER_S, READ_AT_ONCE = 4.0, 32  # announcements that are read, of all senders
MAX_CACHED = 4096  # names in zeroconf's memory, which has no limit of its own
OpenMulticast = Callable[[Sequence[IPv4Interface]], AsyncZeroconf]


def host_name(peer: str) -> str:
    """Returns what a peer is called in its network: DNS does not tell small letters from others."""
    return blake3(peer.encode()).hexdigest()[:16]


def open_multicast(own: Sequence[IPv4Interface]) -> AsyncZeroconf:
    """Opens multicast DNS at these addresses alone; OSError where there is no multicast."""
    return AsyncZeroconf(interfaces=[str(interface.ip) for interface in own], ip_version=IPVersion.V4Only)


class Neighbours:
    """Announces this peer in its local network, and dials the peers of its runs that it finds there.

    `runs` are this peer's, each by what its tags are made of. `host` is the address that it listens at,
    `port` the one a person gave, or 0.
    """

    def __init__(
        self,
        swarm: Swarm,
        runs: Callable[[], Sequence[RunSecrets]],
        host: str,
        port: int = 0,
        *,
        open_multicast: OpenMulticast = open_multicast,
        interfaces: Callable[[], tuple[IPv4Interface, ...]] = near_interfaces,
        again_s: float = AGAIN_AFTER_S,
        clock: Callable[[], float] = time.time,
    ):
        self._swarm, self._runs, self._host, self._port = swarm, runs, host, port
        self._open, self._interfaces, self._clock = open_multicast, interfaces, clock
        self._again_s = again_s
        self._reads = EventLimit(per_s=READ_PER_S, burst=READ_AT_ONCE)
        self._asking: dict[str, asyncio.Task[None]] = {}
        self.found: OrderedDict[str, Neighbour] = OrderedDict()  # by the announcement's name
        self.tried: OrderedDict[str, Tries] = OrderedDict()  # by peer
        self.own: tuple[IPv4Interface, ...] = ()

    async def run(self) -> None:
        """Announces and looks until it is cancelled. Where multicast fails, that is a line in the log, and it
        is tried again later: anybody in this network can fill zeroconf's memory, for as long as that lasts.
        """
        while True:
            self.own = self._listened_at()
            if not self.own:
                await asyncio.sleep(LOOK_EVERY_S)  # a network may come
                continue
            try:
                async with self._multicast() as multicast:
                    await self._looks(multicast)
            except (OSError, ZeroconfError) as error:
                log.info("peers in this network are not looked for: multicast DNS fails (%s)", error)
                await asyncio.sleep(self._again_s)

    def _listened_at(self) -> tuple[IPv4Interface, ...]:
        """Returns the private addresses of this machine at which p2pd listens."""
        everywhere = self._host == "0.0.0.0"
        return tuple(one for one in self._interfaces() if everywhere or str(one.ip) == self._host)

    @asynccontextmanager
    async def _multicast(self) -> AsyncIterator[AsyncZeroconf]:
        multicast = self._open(self.own)
        browser = AsyncServiceBrowser(multicast.zeroconf, SERVICE, handlers=[self._on_change])
        try:
            yield multicast
        finally:
            await end_tasks(self._asking.values())
            self._asking.clear()
            self.found.clear()
            await browser.async_cancel()
            await multicast.async_close()  # says goodbye for what was announced

    async def _looks(self, multicast: AsyncZeroconf) -> None:
        """Announces what is to be announced by now, and dials, until this machine's addresses change."""
        said: tuple[Any, ...] = ()
        service: AsyncServiceInfo | None = None
        while self._listened_at() == self.own:
            if len(multicast.zeroconf.cache.cache) > MAX_CACHED:
                raise ZeroconfError(f"more than {MAX_CACHED} names are announced in this network")
            words = self._words()
            if words != said:
                if service is not None:
                    await (await multicast.async_unregister_service(service))
                service = self._service(*words) if words else None
                if service is not None:
                    # the name is made of the peer's id: asking whether another has it costs a second
                    await (await multicast.async_register_service(service, cooperating_responders=True))
                said = words
            self._read_others(multicast.zeroconf)
            await self.dial_found()
            await asyncio.sleep(LOOK_EVERY_S)

    def _words(self) -> tuple[Any, ...]:
        """Returns (port, tags) to announce; nothing where there is no run, or no port yet."""
        port = self._port or port_of(self._swarm.addresses())
        tags = own_tags(self._secrets(), self._clock(), self._swarm.peer_id)
        return (port, tags) if port and tags else ()

    def _secrets(self) -> list[Sequence[bytes]]:
        return [secrets() for secrets in self._runs()]

    def _service(self, port: int, tags: Sequence[str]) -> AsyncServiceInfo:
        name = host_name(self._swarm.peer_id)
        return AsyncServiceInfo(
            SERVICE,
            f"{name}.{SERVICE}",
            port=port,
            properties=announcement(self._swarm.peer_id, tags),
            server=f"{name}.local.",
            addresses=[interface.ip.packed for interface in self.own],
        )

    def _on_change(
        self, zeroconf: Any, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """Takes what zeroconf heard; a flood of names costs a token each, and the rest is not looked at."""
        if state_change is ServiceStateChange.Removed:
            self.found.pop(name, None)
        elif name not in self._asking and len(self._asking) < MAX_ASKING and self._reads.allow(""):
            self._asking[name] = asyncio.create_task(self._read(zeroconf, name))

    def _read_others(self, zeroconf: Any) -> None:
        """Reads some of the announcements that came while too many did, chosen by chance."""
        pointers = zeroconf.cache.entries_with_name(SERVICE)
        names = {str(one.alias) for one in pointers if hasattr(one, "alias")} - set(self.found)
        for name in random.sample(sorted(names), min(len(names), MAX_ASKING)):
            self._on_change(zeroconf, SERVICE, name, ServiceStateChange.Added)

    async def _read(self, zeroconf: Any, name: str) -> None:
        try:
            service = AsyncServiceInfo(SERVICE, name)
            if service.load_from_cache(zeroconf) or await service.async_request(zeroconf, ASKED_MS):
                hosts = service.parsed_addresses(IPVersion.V4Only)
                self.note(name, read_announcement(service.properties, hosts, service.port))
        except (ZeroconfError, OSError, ValueError) as error:
            log.debug("an announcement in this network cannot be read: %s", shown(error))
        finally:
            self._asking.pop(name, None)

    def note(self, name: str, neighbour: Neighbour | None) -> None:
        """Remembers an announcement; where there are too many, an older one of no run here goes first.

        One under another name than its peer's own is passed over: what a peer announces can be repeated by
        anybody, and under many names one would be dialled at addresses where it is not, and then no more.
        """
        self.found.pop(name, None)
        if neighbour is None or neighbour.peer == self._swarm.peer_id:
            return
        if name.lower() != f"{host_name(neighbour.peer)}.{SERVICE}".lower():
            return
        self.found[name] = neighbour
        if len(self.found) > MAX_FOUND:
            secrets, now = self._secrets(), self._clock()
            others = (each for each in self.found if not is_of_a_run(self.found[each], secrets, now))
            del self.found[next(others, next(iter(self.found)))]

    async def dial_found(self) -> None:
        """Dials, side by side, those found that are of a run here and not connected yet."""
        secrets, now = self._secrets(), self._clock()
        ours = [each for each in self.found.values() if is_of_a_run(each, secrets, now)]
        if not ours:
            return
        try:
            peers = await self._swarm.peers()
        except SwarmError as error:
            log.debug("nobody in this network is dialled now: %s", error)
            return
        direct = {peer.peer_id for peer in peers if peer.direct}
        due = whom_to_dial(ours, direct, self.tried, self.own, time.monotonic())
        await asyncio.gather(*(self._dial(peer, addresses) for peer, addresses in due))

    async def _dial(self, peer: str, addresses: Sequence[str]) -> None:
        count = self.tried.pop(peer, Tries()).count
        self.tried[peer] = Tries(count + 1, time.monotonic())
        if len(self.tried) > 4 * MAX_FOUND:
            self.tried.popitem(last=False)
        try:
            await self._swarm.try_at(peer, addresses)
        except SwarmError as error:
            log.info("%s is announced in this network, but not there: %s", peer[-8:], error)
            return
        hosts = ", ".join(map(ip_of, addresses))
        log.info("%s is in this network (%s), and connected there", peer[-8:], hosts)
