"""Which addresses lead no further than a home or an office: private and link-local ones."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# RFC 1918, RFC 3927; RFC 4193, RFC 4291. Python's own `is_private` has documentation's and others' too.
_NEAR_4 = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")))
_NEAR_6 = tuple(map(ip_network, ("fc00::/7", "fe80::/10")))


def is_near(host: str) -> bool:
    """Tells whether an IP address is a private or link-local one; loopback is not, nor is a name."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in (_NEAR_4 if address.version == 4 else _NEAR_6))


def is_near_or_own(host: str) -> bool:
    """Tells whether an IP address is near, or this machine's alone (loopback)."""
    if is_near(host):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
