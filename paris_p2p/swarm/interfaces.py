"""The private addresses that this machine has, and the networks that they are in."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from paris_p2p.near_address import is_near


def near_interfaces() -> tuple[ipaddress.IPv4Interface, ...]:
    """Returns the private IPv4 addresses of interfaces that are up, each with its network, in order."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = {
        ipaddress.IPv4Interface(f"{address.address}/{address.netmask}")
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in up and address.family == socket.AF_INET and address.netmask and is_near(address.address)
    }
    return tuple(sorted(found))
