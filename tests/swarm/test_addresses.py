"""Multiaddrs between text and p2pd's bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.errors import UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.swarm import addresses
from paris_p2p.swarm.addresses import (
    for_invite,
    for_others,
    is_relayed,
    is_tcp,
    network_of,
    port_of,
    split_peer,
    to_bytes,
    to_text,
)

PEER = Identity.from_private_bytes(b"p" * 32).peer_id  # tests are named by it


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/1.2.3.4/tcp/31337",
        "/ip6/2001:db8::1/tcp/80",
        "/ip4/1.2.3.4/udp/4001/quic-v1",
        "/dns4/node.example.org/tcp/1",
        f"/ip4/1.2.3.4/tcp/5/p2p/{PEER}/p2p-circuit",
        "/ip4/1.2.3.4/udp/1/quic-v1/webtransport/certhash/uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ",
        "/ip6zone/eth0/ip6/fe80::1/tcp/443/tls/ws",
    ],
)
def test_an_address_survives_the_way_to_bytes_and_back(address: str) -> None:
    assert to_text(to_bytes(address)) == address


def test_a_peer_id_is_written_as_its_multihash_not_as_a_cid() -> None:
    data = to_bytes(f"/p2p/{PEER}")
    assert data[:5] == bytes([0xA5, 0x03, 38, 0x00, 0x24])


RSA_PEER = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"
NO_ADDRESSES = {
    "nothing": "",
    "half an IPv4 address": "/ip4/1.2.3/tcp/1",
    "no such port": "/ip4/1.2.3.4/tcp/70000",
    "a protocol that p2pd does not speak": "/ip4/1.2.3.4/sctp/1",
    "a protocol that nobody knows": "/ip4/1.2.3.4/tcq/1",
    "a file of this machine": "/unix/run/docker.sock",
    "no peer id": "/p2p/nobody",
    "an RSA key's peer id": f"/ip4/1.2.3.4/tcp/1/p2p/{RSA_PEER}",
    "a protocol without its value": "/ip4",
    "too long": "/dns4/" + "a" * 600,
}


@pytest.mark.parametrize("address", NO_ADDRESSES.values(), ids=NO_ADDRESSES)
def test_what_cannot_be_dialled_is_refused_with_the_address_and_what_to_do(address: str) -> None:
    with pytest.raises(UnreachableError, match="copy the whole address") as caught:
        to_bytes(address)
    assert repr(address[:20])[:-1] in str(caught.value)
    assert len(str(caught.value)) < 500


HOSTILE = {
    "a megabyte of continued varints": b"\xff" * 1_000_000,
    "a megabyte of small parts": bytes([4, 1, 2, 3, 4]) * 200_000,
    "a length far beyond the end": bytes([0x36, 0xFF, 0xFF, 0xFF, 0x7F]) + b"a" * 400,
    "a path of this machine": bytes([0x90, 0x03, 5]) + b"/a/b/",
    "an RSA key's peer id": bytes([0xA5, 0x03, 34, 0x12, 0x20]) + bytes(32),
}


@pytest.mark.timeout(10)  # the library alone takes 120 s over the first
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_no_address_and_cost_nothing(data: bytes) -> None:
    assert to_text(data) == ""


@pytest.mark.timeout(10)
def test_a_hostile_text_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(UnreachableError, match="20005 letters"):
        to_bytes("/p2p/" + "z" * 20_000)  # the library alone takes 10 s over it


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/ip4/1.2.3.4/tcp/1",
        f"/p2p/{PEER}",
        "/ip4/1.2.3.4/tcp/1/p2p/x",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit",
    ],
)
def test_an_address_without_a_peer_at_its_end_cannot_be_dialled(address: str) -> None:
    with pytest.raises(UnreachableError):
        split_peer(address)


def test_a_relayed_address_ends_in_the_peer_behind_the_relay() -> None:
    other = Identity.generate().peer_id
    where, peer = split_peer(f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{other}")
    assert peer == other
    assert is_relayed(where)
    assert not is_tcp(where)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_skipped(data: bytes) -> None:
    assert isinstance(to_text(data), str)


def test_loopback_addresses_are_for_others_only_when_there_is_nothing_else() -> None:
    home, lan, six = "/ip4/127.0.0.1/tcp/1/p2p/x", "/ip4/192.168.1.2/tcp/1/p2p/x", "/ip6/::1/tcp/1/p2p/x"
    assert for_others([home, lan, six, lan]) == (lan,)
    assert for_others([home, six]) == (home, six)
    assert for_others(["/dns4/example.org/tcp/1/p2p/x", home]) == ("/dns4/example.org/tcp/1/p2p/x",)


def test_addresses_that_a_person_named_stay_in_the_invite_whatever_they_are() -> None:
    bootstrap, home, lan = (
        "/ip4/127.0.0.1/tcp/31337/p2p/b",
        "/ip4/127.0.0.1/tcp/5/p2p/x",
        "/ip4/192.168.1.2/tcp/5/p2p/x",
    )
    assert for_invite([bootstrap], [home, lan]) == (bootstrap, lan)
    assert for_invite([], [home, lan]) == (lan,)
    assert for_invite([bootstrap, lan], [home, lan]) == (bootstrap, lan)


@pytest.mark.parametrize(
    ("addresses", "port"),
    [
        (["/ip4/1.2.3.4/udp/9/quic-v1/p2p/x", "/ip4/1.2.3.4/tcp/5/p2p/x"], 5),
        (["/ip4/1.2.3.4/tcp/7/p2p/y/p2p-circuit/p2p/x", "/ip6/::1/tcp/6/p2p/x"], 6),
        (["/dns4/example.org/tcp/8/p2p/x", "/ip4"], 0),
    ],
)
def test_a_nodes_own_port_is_the_one_it_listens_on_itself(addresses: list[str], port: int) -> None:
    assert port_of(addresses) == port


def test_peers_are_told_apart_by_what_one_household_has() -> None:
    assert network_of("/ip4/1.2.3.4/tcp/5") == network_of("/ip4/1.2.3.4/udp/6/quic-v1") == "1.2.3.4"
    one, same, other = (
        "/ip6/2001:db8:1:2:3::4/tcp/5",
        "/ip6/2001:db8:1:2:ffff::9/tcp/5",
        "/ip6/2001:db8:1:3::/tcp/5",
    )
    assert network_of(one) == network_of(same) != network_of(other)
    assert network_of("/ip4/1.2.3.4/tcp/5/p2p/x/p2p-circuit") == "relayed"
    assert network_of("/dns4/a.example/tcp/5") == network_of("") == ""


def test_an_address_that_p2pd_names_again_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = to_bytes("/ip4/198.51.100.77/tcp/4077")
    decoded = []
    real = addresses.Multiaddr
    monkeypatch.setattr(addresses, "Multiaddr", lambda one: decoded.append(one) or real(one))
    assert {to_text(data) for _ in range(3)} == {"/ip4/198.51.100.77/tcp/4077"}
    assert decoded.count(data) == 1
