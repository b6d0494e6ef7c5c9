"""Dialling back and dropping bytes: an asker learns how others reach it, and nothing else may be done
with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from paris_p2p.errors import BusyError, MissingBlobError, OlderPeerError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.swarm.addresses import dialled_ports, ip_of, is_address
from paris_p2p.swarm.blob_requests import MAX_TAKEN_BYTES, OPERATIONS
from paris_p2p.swarm.dial_back import ALL_AT_ONCE, EACH_AT_ONCE, EACH_S, DialBack, dialled_addresses
from paris_p2p.swarm.limits import Meter, RateLimit
from paris_p2p.swarm.line_aids import EACH_BYTES, LineAids
from paris_p2p.swarm.seats import Seat
from tests.swarm.swarms import RUN, InMemory, Network, OnLoopback, Source

pytestmark = pytest.mark.timeout(90)
PEER = Identity.from_private_bytes(bytes(32)).peer_id  # the same in every process: tests are named by it
SEEN = "/ip4/198.51.100.7/tcp/53122"


class Closed(Source):
    """Tells nobody how peers reach one another."""

    def tells_where(self) -> bool:
        return False


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.swarm)])
async def network(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        yield InMemory() if request.param == "fake" else OnLoopback(tmp_path, stack)


async def test_a_peer_dials_one_back_that_it_is_connected_to_and_takes_what_it_gives(
    network: Network,
) -> None:
    other, me = await network.join(source=Source()), await network.join()
    assert (await me.dial_back(other.peer_id, RUN))["tcp"] is True
    assert 0 < await me.give(other.peer_id, RUN, 1 << 20) < 20
    assert ip_of((await me.seen_at(other.peer_id))[0]) == "127.0.0.1"


async def test_a_peer_that_may_not_know_is_told_what_nobody_has(network: Network) -> None:
    other, me = await network.join(source=Closed()), await network.join()
    with pytest.raises(MissingBlobError):
        await me.dial_back(other.peer_id, RUN)
    with pytest.raises(MissingBlobError):
        await me.give(other.peer_id, RUN, 1 << 10)


@pytest.mark.swarm
async def test_of_two_ports_of_which_nobody_listens_at_one_the_other_is_told(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        network = OnLoopback(tmp_path, stack)
        other, me = await network.join(source=Source()), await network.join()
        client: Any = me
        (tcp,) = (dialled_ports((), me.addresses())["tcp"],)
        ask = client._client.dial_back
        told = await ask(other.peer_id, RUN, {"tcp": tcp, "udp": 9})
        assert told == {"tcp": True, "udp": False}


async def test_an_older_node_says_that_it_does_not_know_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        network = OnLoopback(tmp_path, stack)
        other, me = await network.join(source=Source()), await network.join()
        for name in ("dial", "take"):
            monkeypatch.delitem(OPERATIONS, name)
        with pytest.raises(OlderPeerError):
            await me.dial_back(other.peer_id, RUN)
        with pytest.raises(OlderPeerError):
            await me.give(other.peer_id, RUN, 1 << 10)


# what is dialled


@pytest.mark.parametrize(
    ("seen_at", "request_", "dialled"),
    [
        (SEEN, {"tcp": 4001}, {"tcp": "/ip4/198.51.100.7/tcp/4001"}),
        (SEEN, {"udp": 4001}, {"udp": "/ip4/198.51.100.7/udp/4001/quic-v1"}),
        ("/ip6/2001:db8::1/udp/9/quic-v1", {"tcp": 1}, {"tcp": "/ip6/2001:db8::1/tcp/1"}),
        (SEEN, {"tcp": 0, "udp": 65536}, {}),
        (SEEN, {"tcp": True, "udp": "80"}, {}),
        (SEEN, {"tcp": [80, 81], "host": "192.0.2.1"}, {}),
        (SEEN, {}, {}),
        (f"/ip4/192.0.2.9/tcp/1/p2p/{PEER}/p2p-circuit", {"tcp": 4001}, {}),
        ("/dns4/victim.example/tcp/1", {"tcp": 4001}, {}),
        ("", {"tcp": 4001}, {}),
    ],
)
def test_nothing_is_dialled_but_the_address_that_the_asker_is_seen_at(
    seen_at: str, request_: dict[str, Any], dialled: dict[str, str]
) -> None:
    assert dialled_addresses(seen_at, request_) == dialled


@dataclass
class Dialler:
    """Reaches what a test says, and counts what it was asked to dial."""

    reached: Callable[[str], bool] = lambda address: True
    asked: list[tuple[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def connect(self, peer: str, addresses: list[str], timeout_s: float, /) -> None:
        if self.hold is not None:
            await self.hold.wait()
        self.asked += [(peer, address) for address in addresses]
        if not self.reached(addresses[0]):
            raise UnreachableError("nobody of this peer id answered")

    async def disconnect(self, peer: str, /) -> None:
        self.left.append(peer)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Dialler]:
        yield self


async def test_the_askers_own_peer_id_must_answer_and_it_hears_yes_or_no_of_each_port() -> None:
    dialler = Dialler(reached=lambda address: "/tcp/" in address)
    told = await DialBack(dialler.opened).dial(PEER, SEEN, {"tcp": 1, "udp": 2})
    assert told == {"tcp": True, "udp": False}
    assert {peer for peer, _ in dialler.asked} == {PEER}
    assert dialler.left == [PEER]


async def test_dials_are_seldom_for_one_asker_for_its_network_and_for_all() -> None:
    now = 0.0
    dialler = Dialler()
    dials = DialBack(dialler.opened, clock=lambda: now)

    async def dials_for(peer: str, seen_at: str) -> bool:
        try:
            return await dials.dial(peer, seen_at, {"tcp": 4001}) is not None
        except BusyError:
            return False

    own = [await dials_for(PEER, SEEN) for _ in range(EACH_AT_ONCE + 1)]
    assert own == [True] * EACH_AT_ONCE + [False]
    now += EACH_S
    assert await dials_for(PEER, SEEN)
    now += 1e4
    neighbours = [Identity.generate().peer_id for _ in range(EACH_AT_ONCE + 1)]
    public = [await dials_for(peer, f"/ip4/8.8.8.{n}/tcp/1") for n, peer in enumerate(neighbours)]
    assert public == [True] * EACH_AT_ONCE + [False]  # one network counts once, however many keys it has
    now += 1e4
    crowd = [await dials_for(Identity.generate().peer_id, f"/ip4/8.{n}.8.8/tcp/1") for n in range(20, 29)]
    assert sum(crowd) == ALL_AT_ONCE


async def test_a_crowd_of_keys_does_not_use_up_what_others_have() -> None:
    now = 0.0
    dials = DialBack(Dialler().opened, clock=lambda: now)

    async def dials_for(seen_at: str) -> bool:
        try:
            return await dials.dial(Identity.generate().peer_id, seen_at, {"tcp": 4001}) is not None
        except BusyError:
            return False

    home = [await dials_for("/ip4/192.168.1.7/tcp/1") for _ in range(EACH_AT_ONCE + 1)]
    assert home == [True] * EACH_AT_ONCE + [False]  # one private address is one asker, whatever its keys
    now += 1e4
    provider = [await dials_for(f"/ip4/8.8.{n}.8/tcp/1") for n in range(EACH_AT_ONCE + 1)]
    assert provider == [True] * EACH_AT_ONCE + [False]
    now += 1e4
    networks = [f"/ip4/9.{n}.1.1/tcp/1" for n in range(8)]
    came = 0
    for minute in range(40):  # they come all the time, from eight networks
        now += 15.0
        for seen_at in networks:
            await dials_for(seen_at)
        if minute >= 20 and minute % 4 == 0:
            came += await dials_for(f"/ip4/23.{minute}.1.1/tcp/1")
    assert came == 5  # each one that asks for the first time


async def test_one_is_dialled_at_a_time() -> None:
    dialler = Dialler(hold=asyncio.Event())
    dials = DialBack(dialler.opened)
    first = asyncio.create_task(dials.dial(PEER, SEEN, {"tcp": 1}))
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await dials.dial(Identity.generate().peer_id, "/ip4/8.8.8.8/tcp/1", {"tcp": 1})
    assert dialler.hold is not None
    dialler.hold.set()
    assert await first == {"tcp": True}


# what is taken


async def test_bytes_beyond_a_budget_or_a_request_are_refused_before_they_come() -> None:
    now = 0.0
    aids = LineAids(RateLimit(0), Meter(), clock=lambda: now)
    seat = Seat(PEER, "198.51.100.0/24", False, lambda: None)
    for wrong in (0, -1, MAX_TAKEN_BYTES + 1, True, "9", None):
        assert aids.allowed_bytes(seat, {"size": wrong}) == 0
    for _ in range(EACH_BYTES // MAX_TAKEN_BYTES):
        assert aids.allowed_bytes(seat, {"size": MAX_TAKEN_BYTES}) == MAX_TAKEN_BYTES
    with pytest.raises(BusyError):
        aids.allowed_bytes(seat, {"size": MAX_TAKEN_BYTES})
    now += 60
    assert aids.allowed_bytes(seat, {"size": MAX_TAKEN_BYTES}) == MAX_TAKEN_BYTES


async def test_what_is_dropped_counts_as_received_and_one_that_stops_half_way_is_noticed() -> None:
    meter = Meter()
    aids, reader = LineAids(RateLimit(0), meter), asyncio.StreamReader()
    seat = Seat(PEER, PEER, False, lambda: None)
    reader.feed_data(bytes(1000))
    await aids.drop(seat, 1000, reader)
    assert meter.total_bytes == 1000
    reader.feed_data(bytes(10))
    reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await aids.drop(seat, 1000, reader)


# addresses


def test_the_ports_to_dial_are_those_announced_or_else_those_listened_at() -> None:
    mapped, local = "/ip4/8.8.8.8/tcp/61234/p2p/x", "/ip4/192.168.1.5/tcp/31337/p2p/x"
    assert dialled_ports((), (mapped, local, "/ip4/192.168.1.5/udp/31338/quic-v1/p2p/x")) == {
        "tcp": 31337,
        "udp": 31338,
    }
    assert dialled_ports(("/dns4/me.example/tcp/443",), (local,)) == {"tcp": 443}
    assert dialled_ports((), ("/ip4/8.8.8.8/tcp/1/p2p/r/p2p-circuit/p2p/x",)) == {}


def test_what_a_peer_says_of_addresses_is_looked_at() -> None:
    assert is_address(SEEN)
    assert not is_address("/unix/tmp/sock")
    assert ip_of("/ip4/999.1.1.1/tcp/1") == ""
    assert ip_of("/dns4/me.example/tcp/1") == ""
