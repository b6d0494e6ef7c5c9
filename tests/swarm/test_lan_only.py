"""With `lan_only` a peer listens at private addresses, dials those, and keeps no connection to others."""

from __future__ import annotations

import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest

from paris_p2p.errors import UnreachableError, UsageError
from paris_p2p.identity import Identity
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm import daemon
from paris_p2p.swarm.addresses import check_addresses, nearest_first, stays_near
from paris_p2p.swarm.daemon import DaemonOptions, daemon_options
from paris_p2p.swarm.gossip import Gossip
from paris_p2p.swarm.interfaces import near_interfaces
from paris_p2p.swarm.link import LinkKeeper
from paris_p2p.swarm.real import RealSwarm, open_swarm
from paris_p2p.swarm.seam import PeerInfo

PEER = Identity.generate().peer_id
NEAR, FAR = "/ip4/192.168.7.7/tcp/4001", "/ip4/203.0.113.7/tcp/4001"
Address = namedtuple("Address", "family address netmask")
State = namedtuple("State", "isup")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    four = socket.AF_INET
    addresses = {
        "lo": [Address(four, "127.0.0.1", "255.0.0.0")],
        "eth0": [
            Address(four, "203.0.113.5", "255.255.255.0"),
            Address(four, "192.168.7.5", "255.255.255.0"),
        ],
        "eth1": [Address(four, "10.0.0.5", "255.0.0.0")],
        "eth2": [Address(socket.AF_INET6, "fd00::5", None)],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {name: State(name != "eth1") for name in addresses})


def keeper(*, lan_only: bool) -> tuple[LinkKeeper, Any]:
    class Dialled:
        def __init__(self) -> None:
            self.dials: list[str] = []
            self.hung_up: list[str] = []

        async def connect(self, peer: str, addresses: list[str], limit_s: float) -> None:
            self.dials += addresses

        async def disconnect(self, peer: str) -> None:
            self.hung_up.append(peer)

    options = DaemonOptions(Path("key"), "0.0.0.0", lan_only=lan_only)
    made: Any = LinkKeeper(PEER, options, Gossip(PEER), ("", None), None)  # type: ignore[arg-type]
    control = Dialled()

    async def current() -> Dialled:
        return control

    made.control = current
    return made, control


def test_this_machine_s_private_addresses_are_those_of_interfaces_that_are_up() -> None:
    assert [str(one) for one in near_interfaces()] == ["192.168.7.5/24"]


@pytest.mark.parametrize("lan_only", [True, False])
def test_p2pd_is_told_to_listen_at_private_addresses_alone(tmp_path: Path, lan_only: bool) -> None:
    identity = Identity.generate()
    options = daemon_options(identity, PeerSettings(data_dir=tmp_path, lan_only=lan_only), False)
    said = dict(flag[1:].split("=", 1) for flag in options.arguments(tmp_path / "socket"))
    if not lan_only:
        assert said["hostAddrs"] == "/ip4/0.0.0.0/tcp/0,/ip4/0.0.0.0/udp/0/quic-v1"
        assert (said["natPortMap"], said["autonat"]) == ("1", "1")
        return
    hosts = {address.split("/")[2] for address in said["hostAddrs"].split(",")}
    ports = {address.split("/")[4] for address in said["hostAddrs"].split(",")}
    assert hosts == {"192.168.7.5", "127.0.0.1"}
    assert len(ports) == 1
    assert "0" not in ports
    assert (said["natPortMap"], said["autonat"]) == ("0", "0")  # no port is opened at the router


@pytest.mark.parametrize(
    "more", [{"announce": (FAR,)}, {"relays": (f"{FAR}/p2p/{PEER}",)}, {"host": "203.0.113.5"}]
)
def test_what_contradicts_lan_only_is_a_usage_mistake(tmp_path: Path, more: dict[str, Any]) -> None:
    check_addresses(PeerSettings(data_dir=tmp_path, **more))
    with pytest.raises(UsageError, match="is no private address, and --lan-only"):
        check_addresses(PeerSettings(data_dir=tmp_path, lan_only=True, **more))


async def test_public_addresses_are_not_dialled_and_connections_to_them_are_ended() -> None:
    link, control = keeper(lan_only=True)
    await link.dial(PEER, [FAR, NEAR, "/dns4/example.org/tcp/1"])
    assert control.dials == [NEAR]
    with pytest.raises(UnreachableError, match="no private address of it is known"):
        await link.dial(PEER, [FAR])
    near, far, both = (PeerInfo(name, where, True) for name, where in (
        ("near", (NEAR,)), ("far", (FAR,)), ("both", (NEAR, FAR)),
    ))  # fmt: skip
    assert await link._without_far(control, [near, far, both]) == [near]
    assert control.hung_up == ["far", "both"]
    assert control.dials == [NEAR]


async def test_without_it_all_are_dialled() -> None:
    link, control = keeper(lan_only=False)
    await link.dial(PEER, [FAR, NEAR])
    assert control.dials == [FAR, NEAR]


@pytest.mark.swarm
async def test_two_peers_of_one_network_meet_and_an_invite_from_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "near_interfaces", lambda: ())  # p2pd listens at addresses that are there
    settings = [PeerSettings(data_dir=tmp_path / name, lan_only=True) for name in "ab"]
    async with open_swarm(Identity.generate(), settings[0]) as a:
        assert all(map(stays_near, a.addresses()))
        identity = Identity.generate()
        async with open_swarm(identity, settings[1]) as b:
            bare = a.addresses()[0].rpartition("/p2p/")[0]
            await b.try_at(a.peer_id, [bare])
            assert [peer.peer_id for peer in await b.peers()] == [a.peer_id]
            assert not b.given_peers  # it was a hint, and is not come back to
            with pytest.raises(UnreachableError):
                await b.try_at(PEER, [bare])  # another's key does not answer there
        with pytest.raises(UnreachableError, match="--lan-only dials private addresses alone"):
            async with open_swarm(identity, settings[1], bootstrap_peers=[f"{FAR}/p2p/{PEER}"]):
                pass


def test_connections_in_the_local_network_come_first() -> None:
    far, near = PeerInfo("far", (FAR,), True), PeerInfo("near", (FAR, NEAR), True)
    assert nearest_first([far, near]) == [near, far]


@pytest.mark.parametrize("direct", [True, False])
async def test_only_a_connection_through_a_relay_is_given_up_for_one_near_by(
    tmp_path: Path, direct: bool
) -> None:
    options = DaemonOptions(Path("key"), "0.0.0.0")
    settings = PeerSettings(data_dir=tmp_path)
    swarm: Any = RealSwarm(Identity.generate(), options, settings, None, None, lambda: 0.0)
    done: list[str] = []

    class Keeper:
        board: Any

        async def control(self) -> Keeper:
            return self

        async def peers(self) -> list[PeerInfo]:
            return [PeerInfo(PEER, (FAR,), direct)]

        async def disconnect(self, peer: str) -> None:
            done.append("disconnect")

        async def dial(self, peer: str, addresses: list[str]) -> None:
            done.append(f"dial {addresses[0]}")

        async def current(self) -> Keeper:
            return self

        async def meet(self, peers: list[str]) -> None:
            done.append("meet")

    swarm._keeper = Keeper()
    swarm._keeper.board = swarm._keeper
    await swarm.try_at(PEER, [NEAR])
    assert done == [*([] if direct else ["disconnect"]), f"dial {NEAR}", "meet"]
