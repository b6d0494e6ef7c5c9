"""Dials an asker back, at the address it is seen at alone, to tell it whether others can reach it.

A libp2p of its own does it, under a key that nobody knows: the node's own would find itself connected
already. Only the two ports are the asker's to name, and what it is told is whether its own peer id answered
there: nothing of what else may listen (docs/security.md, "Dialling back").
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from paris_p2p.errors import BusyError, DaemonError, PortInUseError, SwarmError, UnreachableError
from paris_p2p.swarm.addresses import is_relayed, network_of
from paris_p2p.swarm.daemon import DaemonOptions, start_daemon
from paris_p2p.swarm.limits import EventLimit
from paris_p2p.swarm.p2pd import Control
from paris_p2p.swarm.seats import group_of

DIAL_S = 4.0  # for each of the two ports
ANSWER_S = 30.0  # for all of it, the dialling program's start included
EACH_S, ALL_S = 30.0, 15.0  # between two dials for one asker or network, and for all, on the average
EACH_AT_ONCE, ALL_AT_ONCE = 3, 6
LATELY_S = 600.0
PORTS = ("tcp", "udp")


class Dials(Protocol):
    """Is what dials: a Control, or a test's."""

    async def connect(self, peer: str, addresses: list[str], timeout_s: float, /) -> None: ...

    async def disconnect(self, peer: str, /) -> None: ...


class DialBack:
    """Dials askers back, one at a time and seldom."""

    def __init__(
        self,
        open_dialler: Callable[[], AbstractAsyncContextManager[Dials]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._open = open_dialler or open_other_libp2p
        self._turn = asyncio.Lock()
        self._peers = EventLimit(1 / EACH_S, EACH_AT_ONCE, clock)
        self._groups = EventLimit(1 / EACH_S, EACH_AT_ONCE, clock)
        self._wide = EventLimit(1 / EACH_S, EACH_AT_ONCE, clock)
        # Half of what all have is for networks of which nobody was dialled lately: who comes again and again
        # from many takes the other half alone.
        self._recent = EventLimit(1 / LATELY_S, 1, clock)
        self._new, self._all = (EventLimit(1 / (2 * ALL_S), ALL_AT_ONCE // 2, clock) for _ in range(2))

    async def dial(self, peer: str, seen_at: str, request: dict[str, Any]) -> dict[str, bool] | None:
        """Returns for each port that the request names whether the asker answered there.

        None where nothing can be dialled: it names no port, or its address says nothing of it. BusyError
        when others are being dialled, or were too often lately.
        """
        addresses = dialled_addresses(seen_at, request)
        if not addresses:
            return None
        if self._turn.locked() or not self._is_its_turn(peer, seen_at):
            raise BusyError("others are dialled back; ask again in a minute")
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_S - 1):
                    told = await asyncio.gather(*(self._answers(peer, at) for at in addresses.values()))
                    return dict(zip(addresses, told, strict=True))
            except (TimeoutError, DaemonError, PortInUseError) as error:
                raise BusyError(f"this node cannot dial now: {error}") from error

    def _is_its_turn(self, peer: str, seen_at: str) -> bool:
        # behind one private address are as many keys as somebody makes
        own = network_of(seen_at)
        group = group_of(own, seen_at)
        if not (self._peers.allow(peer) and self._groups.allow(group) and self._wide.allow(wide_of(own))):
            return False
        is_new = self._recent.would_allow(group)
        if not ((is_new and self._new.allow("")) or self._all.allow("")):
            return False
        self._recent.allow(group)
        return True

    async def _answers(self, peer: str, address: str) -> bool:
        # Of each port by another libp2p: one remembers all addresses of a peer, and dials any of them.
        async with self._open() as dialler:
            try:
                await dialler.connect(peer, [address], DIAL_S)
            except UnreachableError:
                return False
            with suppress(SwarmError):  # it went meanwhile
                await dialler.disconnect(peer)
            return True


def wide_of(host: str) -> str:
    """Returns what a provider or a renter of many addresses has: a /16, or an IPv6 /32; the address itself
    where it is of a network at home.
    """
    ip = ipaddress.ip_address(host)
    if not ip.is_global:
        return host
    return str(ipaddress.ip_network((ip, 16 if ip.version == 4 else 32), strict=False))


def dialled_addresses(seen_at: str, request: dict[str, Any]) -> dict[str, str]:
    """Returns the addresses to dial, by the name of the port: the IP address that an asker is seen at, with
    the ports that it names. Empty where it comes through a relay, or names none.
    """
    _, kind, host, *_ = [*seen_at.split("/"), "", ""]
    if kind not in ("ip4", "ip6") or is_relayed(seen_at):
        return {}
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return {}
    ports = {name: request.get(name) for name in PORTS}
    ends = {"tcp": "tcp/{}", "udp": "udp/{}/quic-v1"}
    return {
        name: f"/ip{ip.version}/{ip}/{ends[name].format(port)}"
        for name, port in ports.items()
        if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 1 << 16
    }


class _DiallerOptions(DaemonOptions):
    """Starts p2pd under a fresh key, listening nowhere."""

    def arguments(self, control: Path, metrics_port: int = 0) -> list[str]:
        flags = ("noListenAddrs=1", "relay=0", "natPortMap=0", "autonat=0", "idleTimeout=30s")
        return [f"-listen=/unix{control}", *(f"-{flag}" for flag in flags)]


@asynccontextmanager
async def open_other_libp2p() -> AsyncIterator[Dials]:
    """Runs a second p2pd while inside, whose key is made for it and known to nobody."""
    daemon = await start_daemon(_DiallerOptions(Path(), "127.0.0.1"))
    try:
        yield Control(daemon.control)
    finally:
        await daemon.stop()
