"""Which multiaddrs this network dials and tells others, and how p2pd takes them (multiformats/multiaddr).

The `multiaddr` package reads and writes them. It takes 120 s over a megabyte of 0xff and knows addresses that
are no host's (/unix), so length and protocols are checked here. hivemind's own copy encodes an Ed25519
`/p2p/` id as a CID, which p2pd refuses inside a connect request.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from multiaddr import Multiaddr
from multiaddr.exceptions import ParseError

from paris_p2p.errors import RecordError, UnreachableError, UsageError
from paris_p2p.identity import peer_id_to_bytes
from paris_p2p.near_address import is_near, is_near_or_own
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm.seam import PeerInfo

MAX_ADDRESS_LETTERS = 512  # a relayed address with two peer ids and two certificate hashes has about 330
# the package takes up to half a millisecond for one, and p2pd names every connection's at each look
_REMEMBERED = 4096
EVERYWHERE = ("0.0.0.0", "::")  # hosts that stand for all addresses of this machine
PROTOCOLS = frozenset({
    "ip4", "ip6", "ip6zone", "dns", "dns4", "dns6", "tcp", "udp", "tls", "ws",
    "quic", "quic-v1", "webtransport", "certhash", "p2p", "p2p-circuit",
})  # fmt: skip


def split_peer(address: str) -> tuple[str, str]:
    """Returns (address without its last /p2p/, peer id); UnreachableError when it has not both."""
    where, separator, peer = address.rpartition("/p2p/")
    if not where or not separator or "/" in peer:
        raise UnreachableError(
            f"{address[:120]!r} is not an address, or does not end in /p2p/<peer id>; copy the whole address"
        )
    try:
        peer_id_to_bytes(peer)
    except RecordError as error:
        raise UnreachableError(f"{address[:120]!r}: {error}") from error
    return where, peer


def to_bytes(address: str) -> bytes:
    """Encodes `/ip4/1.2.3.4/tcp/5` for p2pd; UnreachableError when it is no address that we dial."""
    if not 0 < len(address) <= MAX_ADDRESS_LETTERS:
        raise UnreachableError(
            f"{address[:120]!r} has {len(address)} letters, an address 1 to {MAX_ADDRESS_LETTERS}; "
            "copy the whole address"
        )
    try:
        parsed = Multiaddr(address)
        _check(parsed)
    except (ParseError, RecordError) as error:
        why = getattr(error, "original", None) or getattr(error, "message", error)
        raise UnreachableError(
            f"{address[:120]!r} is not an address that can be dialled ({str(why)[:120]}); "
            "copy the whole address, /ip4/…/tcp/…/p2p/…"
        ) from error
    data: bytes = parsed.to_bytes()
    return data


@lru_cache(_REMEMBERED)
def to_text(data: bytes) -> str:
    """Decodes an address from p2pd; "" when it is damaged, or not one we dial."""
    if len(data) > MAX_ADDRESS_LETTERS:
        return ""
    try:
        text = str(Multiaddr(data))
        return text if to_bytes(text) == data else ""
    except (ParseError, UnreachableError):
        return ""


def check_addresses(settings: PeerSettings) -> None:
    """Raises UsageError for an address to announce, or of a relay, that is none: p2pd would answer it with a
    stack trace of its own.
    """
    for flag, addresses in (("announce", settings.announce), ("relay", settings.relays)):
        for address in addresses:
            try:
                to_bytes(address)
            except UnreachableError as error:
                raise UsageError(f"--{flag}: {error}") from error
            if settings.lan_only and not stays_near(address):
                raise UsageError(
                    f"--{flag} {address[:120]} is no private address, and --lan-only uses no others; "
                    "leave one of the two out"
                )
    if settings.lan_only and settings.host not in EVERYWHERE and not is_near_or_own(settings.host):
        raise UsageError(
            f"--host {settings.host} is no private address, and --lan-only listens at no others; "
            "leave one of the two out"
        )


def is_relayed(address: str) -> bool:
    return "/p2p-circuit" in address


def is_tcp(address: str) -> bool:
    return "/tcp/" in address and not is_relayed(address)


def for_others(addresses: Sequence[str]) -> tuple[str, ...]:
    """Returns each address once; those of this machine alone (loopback) only when there are no others."""
    once = tuple(dict.fromkeys(addresses))
    return tuple(address for address in once if not is_loopback(address)) or once


def for_invite(named: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Returns what an invite holds: the addresses a person named, whatever they are, then those of this node
    that are for others.
    """
    return tuple(dict.fromkeys((*named, *for_others(own))))


def port_of(addresses: Sequence[str]) -> int:
    """Returns the first TCP port among addresses of this machine; 0 when there is none."""
    for address in addresses:
        _, kind, _, protocol, port, *_ = [*address.split("/"), "", "", "", ""]
        if kind in ("ip4", "ip6") and protocol == "tcp" and port.isdecimal() and not is_relayed(address):
            return int(port)
    return 0


def dialled_ports(announced: Sequence[str], own: Sequence[str]) -> dict[str, int]:
    """Returns the ports at which others would dial this node, `tcp` and `udp`: those it announces, else those
    it listens at, which addresses that no other network sees tell best.
    """
    near = sorted(own, key=_is_global)
    ports: dict[str, int] = {}
    for address in (*announced, *near):
        parts = address.split("/")
        for protocol, port in pairwise(parts):
            if protocol in ("tcp", "udp") and port.isdecimal() and not is_relayed(address):
                ports.setdefault(protocol, int(port))
    return ports


def is_address(address: str) -> bool:
    """Tells whether this is an address that may be dialled."""
    try:
        return bool(to_bytes(address))
    except UnreachableError:
        return False


def ip_of(address: str) -> str:
    """Returns the IP address of a multiaddr; "" for a name, or for what is no address."""
    try:
        return str(_host(address) or "")
    except ValueError:
        return ""


def nearest_first(peers: Sequence[PeerInfo]) -> list[PeerInfo]:
    """Returns the peers, those connected in the local network first."""
    return sorted(peers, key=lambda peer: not any(is_near(ip_of(address)) for address in peer.addresses))


def stays_near(address: str) -> bool:
    """Tells whether a multiaddr leads to a private address or this machine; a name may lead anywhere."""
    return is_near_or_own(ip_of(address))


def _is_global(address: str) -> bool:
    host = _host(address)
    return host is not None and host.is_global


def is_loopback(address: str) -> bool:
    host = _host(address)
    return host is not None and host.is_loopback


def network_of(address: str) -> str:
    """Returns what one host or household has: an IPv4 address, an IPv6 /64, or "relayed"; "" for a name."""
    if is_relayed(address):
        return "relayed"
    host = _host(address)
    if isinstance(host, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((host, 64), strict=False).network_address)
    return str(host or "")


def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    _, kind, host, *_ = [*address.split("/"), "", ""]
    return ipaddress.ip_address(host) if kind in ("ip4", "ip6") else None


def _check(address: Multiaddr) -> None:
    """Raises RecordError unless every part is one we dial and every peer id an Ed25519 key's."""
    if not len(address):
        raise RecordError("it has no part")
    for protocol, value in address.items():
        if protocol.name not in PROTOCOLS:
            raise RecordError(f"/{protocol.name} is not dialled")
        if protocol.name == "p2p":
            peer_id_to_bytes(value)
