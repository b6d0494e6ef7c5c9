"""Peers of one run find each other over multicast DNS, and leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Interface
from types import SimpleNamespace
from typing import Any

import pytest
from zeroconf import IPVersion
from zeroconf.asyncio import AsyncZeroconf

from paris_p2p.errors import UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.node import neighbours
from paris_p2p.node.neighbours import SERVICE, Neighbours, host_name
from paris_p2p.rules.near import MAX_FOUND, Neighbour, own_tags, run_secrets
from paris_p2p.swarm.seam import PeerInfo

OURS, OTHERS = (run_secrets(letter * 64, False, ()) for letter in "ab")
LAN = "192.168.77"


class Dialled:
    """Is as much of a swarm as finding needs."""

    def __init__(self) -> None:
        self.peer_id = Identity.generate().peer_id
        self.dials: list[tuple[str, list[str]]] = []
        self.connected: list[PeerInfo] = []
        self.is_there = True

    def addresses(self) -> tuple[str, ...]:
        return (f"/ip4/{LAN}.1/tcp/4001/p2p/{self.peer_id}",)

    async def peers(self) -> list[PeerInfo]:
        return self.connected

    async def try_at(self, peer: str, addresses: Sequence[str]) -> None:
        self.dials.append((peer, list(addresses)))
        if not self.is_there:
            raise UnreachableError("nobody is there")
        self.connected.append(PeerInfo(peer, tuple(addresses), direct=True))


def finder(last: int, run: Sequence[bytes] = OURS, **more: Any) -> tuple[Neighbours, Any]:
    swarm: Any = Dialled()
    own = (IPv4Interface(f"{LAN}.{last}/24"),)
    made = Neighbours(swarm, lambda: (lambda: run,), "0.0.0.0", interfaces=lambda: own, **more)
    return made, swarm


def on_loopback(own: Sequence[IPv4Interface]) -> AsyncZeroconf:
    return AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)


async def until(holds: Callable[[], Any], limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not holds():
            await asyncio.sleep(0.02)


async def test_peers_of_a_run_find_each_other_by_multicast_and_a_stranger_s_peer_stays_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "LOOK_EVERY_S", 0.05)
    made = [finder(1, open_multicast=on_loopback), finder(2, open_multicast=on_loopback)]
    made.append(finder(3, OTHERS, open_multicast=on_loopback))
    before = asyncio.all_tasks()
    tasks = [asyncio.create_task(found.run()) for found, _ in made]
    (a, swarm_a), (b, swarm_b), (c, swarm_c) = made
    try:
        with suppress(TimeoutError):
            await until(lambda: len(a.found) == 2 and len(b.found) == 2 and len(c.found) == 2)
        if not (a.found or b.found or c.found):
            pytest.skip("nothing that is sent by multicast comes back on this machine's loopback")
        await until(lambda: swarm_a.dials and swarm_b.dials)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert swarm_a.dials == [(swarm_b.peer_id, [f"/ip4/{LAN}.2/tcp/4001"])]
    assert swarm_b.dials == [(swarm_a.peer_id, [f"/ip4/{LAN}.1/tcp/4001"])]
    assert not swarm_c.dials
    await until(lambda: asyncio.all_tasks() == before)


async def test_where_there_is_no_multicast_a_line_in_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = 0

    def fails(own: Sequence[IPv4Interface]) -> AsyncZeroconf:
        nonlocal tried
        tried += 1
        raise OSError(19, "No such device")

    caplog.set_level("INFO")
    looking = asyncio.create_task(finder(1, open_multicast=fails, again_s=0.01)[0].run())
    await until(lambda: tried >= 3)  # a network may come, and a flood may end
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    assert "multicast DNS fails ([Errno 19] No such device)" in caplog.text


def test_nothing_is_opened_where_p2pd_listens_on_loopback_alone() -> None:
    swarm: Any = Dialled()
    own = (IPv4Interface(f"{LAN}.1/24"),)
    assert not Neighbours(swarm, list, "127.0.0.1", interfaces=lambda: own)._listened_at()
    assert Neighbours(swarm, list, f"{LAN}.1", interfaces=lambda: own)._listened_at() == own


async def test_who_was_announced_and_is_not_there_is_not_dialled_again_at_once() -> None:
    found, swarm = finder(1, clock=lambda: 1e9)
    found.own, swarm.is_there = (IPv4Interface(f"{LAN}.1/24"),), False
    other = Identity.generate().peer_id
    tags = frozenset(own_tags([OURS], 1e9, other))
    found.note(named(other), Neighbour(other, (f"{LAN}.9",), 4001, tags))
    for _ in range(3):
        await found.dial_found()
    assert swarm.dials == [(other, [f"/ip4/{LAN}.9/tcp/4001"])]


def named(peer: str) -> str:
    return f"{host_name(peer)}.{SERVICE}"


def test_thousands_of_announcements_leave_room_for_those_of_our_run() -> None:
    found, _ = finder(1, clock=lambda: 1e9)
    other = Identity.generate().peer_id
    found.note(named(other), Neighbour(other, (), 1, frozenset(own_tags([OURS], 1e9, other))))
    for _ in range(300):
        stranger = Identity.generate().peer_id
        found.note(named(stranger), Neighbour(stranger, (), 1, frozenset({"0" * 16})))
    assert len(found.found) == MAX_FOUND
    assert named(other) in found.found


async def test_what_a_peer_announces_is_not_believed_under_another_name() -> None:
    found, swarm = finder(1, clock=lambda: 1e9)
    found.own = (IPv4Interface(f"{LAN}.1/24"),)
    other = Identity.generate().peer_id
    tags = frozenset(own_tags([OURS], 1e9, other))  # anybody in the network reads and repeats them
    for last in (200, 201):
        found.note(f"copy-{last}.{SERVICE}", Neighbour(other, (f"{LAN}.{last}",), 4001, tags))
    found.note(named(other).upper(), Neighbour(other, (f"{LAN}.9",), 4001, tags))
    await found.dial_found()
    assert swarm.dials == [(other, [f"/ip4/{LAN}.9/tcp/4001"])]


async def test_announcements_that_a_flood_hid_are_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = finder(1)
    read: list[str] = []

    async def reads(zeroconf: Any, name: str) -> None:
        read.append(name)
        found._asking.pop(name, None)

    monkeypatch.setattr(found, "_read", reads)
    pointers = [SimpleNamespace(alias=f"{number}.{SERVICE}") for number in range(3)]
    cache: Any = SimpleNamespace(entries_with_name=lambda name: pointers if name == SERVICE else [])
    found.found[f"1.{SERVICE}"] = Neighbour("known", (), 1, frozenset())
    found._read_others(SimpleNamespace(cache=cache))
    await until(lambda: len(read) == 2)
    assert sorted(read) == [f"0.{SERVICE}", f"2.{SERVICE}"]
    await asyncio.gather(*found._asking.values())
