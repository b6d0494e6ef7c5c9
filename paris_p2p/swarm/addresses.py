"""Multiaddrs as bytes and text, for the few protocols that p2pd speaks (multiformats/multiaddr).

hivemind's own writer encodes an Ed25519 `/p2p/` id as a CID, which p2pd refuses inside a connect request.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from paris_p2p.errors import RecordError, UnreachableError
from paris_p2p.identity import peer_id_from_bytes, peer_id_to_bytes

# name -> (code, bytes of the value; -1: a length stands before it; 0: no value)
_PROTOCOLS = {
    "ip4": (0x04, 4),
    "tcp": (0x06, 2),
    "ip6": (0x29, 16),
    "dns": (0x35, -1),
    "dns4": (0x36, -1),
    "dns6": (0x37, -1),
    "udp": (0x0111, 2),
    "p2p": (0x01A5, -1),
    "p2p-circuit": (0x0122, 0),
    "quic": (0x01CC, 0),
    "quic-v1": (0x01CD, 0),
    "ws": (0x01DD, 0),
    "webtransport": (0x01D1, 0),
    "certhash": (0x01D2, -1),
    "tls": (0x01C0, 0),
    "ip6zone": (0x2A, -1),
}
_NAMES = {code: (name, size) for name, (code, size) in _PROTOCOLS.items()}


def split_peer(address: str) -> tuple[str, str]:
    """(address without its last /p2p/, peer id); UnreachableError when there is none."""
    where, separator, peer = address.rpartition("/p2p/")
    if not separator or "/" in peer:
        raise UnreachableError(f"{address[:120]!r} does not end in /p2p/<peer id>; copy the whole address")
    try:
        peer_id_to_bytes(peer)
    except RecordError as error:
        raise UnreachableError(f"{address[:120]!r}: {error}") from error
    return where, peer


def to_bytes(address: str) -> bytes:
    """`/ip4/1.2.3.4/tcp/5` as bytes; UnreachableError when a part is unknown."""
    parts, data = iter(address.strip("/").split("/")), b""
    for name in parts:
        if name not in _PROTOCOLS:
            raise UnreachableError(
                f"{address[:120]!r} has a part {name[:32]!r} that is not understood; use /ip4/…/tcp/…/p2p/…"
            )
        code, size = _PROTOCOLS[name]
        value = _value_to_bytes(name, next(parts, ""), address) if size else b""
        data += _varint(code) + (_varint(len(value)) if size < 0 else b"") + value
    return data


def to_text(data: bytes) -> str:
    """Bytes of p2pd as text; "" when a protocol is unknown."""
    text, offset = "", 0
    try:
        while offset < len(data):
            code, offset = _read_varint(data, offset)
            name, size = _NAMES[code]
            if size < 0:
                size, offset = _read_varint(data, offset)
            value, offset = data[offset : offset + size], offset + size
            text += f"/{name}" + (f"/{_value_to_text(name, value)}" if value else "")
    except (KeyError, IndexError, ValueError, RecordError):
        return ""
    return text


def is_relayed(address: str) -> bool:
    return "/p2p-circuit" in address


def is_tcp(address: str) -> bool:
    return "/tcp/" in address and not is_relayed(address)


def for_others(addresses: Sequence[str]) -> tuple[str, ...]:
    """Each address once; those of this machine alone (loopback) only when there are no others."""
    once = tuple(dict.fromkeys(addresses))
    return tuple(address for address in once if not is_loopback(address)) or once


def for_invite(named: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """What an invite holds: the addresses a person named, whatever they are, then those of this node that
    are for others.
    """
    return tuple(dict.fromkeys((*named, *for_others(own))))


def port_of(addresses: Sequence[str]) -> int:
    """The first TCP port among addresses of this machine; 0 when there is none."""
    for address in addresses:
        _, kind, _, protocol, port, *_ = [*address.split("/"), "", "", "", ""]
        if kind in ("ip4", "ip6") and protocol == "tcp" and port.isdecimal() and not is_relayed(address):
            return int(port)
    return 0


def is_loopback(address: str) -> bool:
    _, kind, host, *_ = [*address.split("/"), "", ""]
    return kind in ("ip4", "ip6") and ipaddress.ip_address(host).is_loopback


def network_of(address: str) -> str:
    """What one host or household has: an IPv4 address, an IPv6 /64, or its relay; "" when there is none."""
    if is_relayed(address):
        return "relayed"
    _, kind, host, *_ = [*address.split("/"), "", ""]
    if kind not in ("ip4", "ip6"):
        return ""
    found = ipaddress.ip_address(host)
    return str(
        found if found.version == 4 else ipaddress.ip_network((found, 64), strict=False).network_address
    )


def _value_to_bytes(name: str, value: str, address: str) -> bytes:
    try:
        if name in ("ip4", "ip6"):
            return (ipaddress.IPv4Address(value) if name == "ip4" else ipaddress.IPv6Address(value)).packed
        if name in ("tcp", "udp"):
            return int(value).to_bytes(2, "big")
        return peer_id_to_bytes(value) if name == "p2p" else value.encode()
    except (ValueError, OverflowError, RecordError) as error:
        raise UnreachableError(
            f"{address[:120]!r}: {value[:60]!r} is not a valid {name}; copy the whole address"
        ) from error


def _value_to_text(name: str, value: bytes) -> str:
    if name in ("ip4", "ip6"):
        return str(ipaddress.ip_address(value))
    if name in ("tcp", "udp"):
        return str(int.from_bytes(value, "big"))
    if name == "p2p":
        return peer_id_from_bytes(value)
    return value.hex() if name == "certhash" else value.decode()


def _varint(number: int) -> bytes:
    data = b""
    while number >= 0x80:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[offset]
        number, offset, shift = number | (byte & 0x7F) << shift, offset + 1, shift + 7
        if byte < 0x80 or shift > 28:
            return number, offset
