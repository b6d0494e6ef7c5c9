"""Writes every packet that passes a network interface into a file, as an observer on the wire would.

    ip netns exec SPACE python -m examples.studio.capture INTERFACE FILE

It needs root, ends on SIGTERM, and then prints how many packets and bytes it saw. Packets stand one after
the other, each with its length before it (u32, big-endian); nothing is left out but what the kernel itself
says it dropped, which is told.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33  # socket(7); Python names it from 3.13 on
LENGTH = struct.Struct(">I")
BUFFER_BYTES = 64 << 20


def capture(interface: str, path: Path) -> tuple[int, int, int]:
    """Captures until SIGTERM; returns (packets, bytes, packets that the kernel dropped)."""
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    packets = size_bytes = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        wire.bind((interface, 0))
        wire.settimeout(0.2)
        with path.open("wb", buffering=1 << 20) as file:
            while not ending:
                try:
                    packet = wire.recv(1 << 17)
                except TimeoutError:
                    continue
                except OSError:  # the cable was pulled; it may be put back
                    continue
                file.write(LENGTH.pack(len(packet)) + packet)
                packets += 1
                size_bytes += len(packet)
        _, dropped = struct.unpack("II", wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return packets, size_bytes, dropped


def streams(path: Path) -> Iterator[bytes]:
    """Yields what a captured interface carried, by connection and direction: the packets' contents joined in
    the order they came, so that a word is found that was cut in two.
    """
    joined: dict[bytes, bytearray] = {}
    data = path.read_bytes()
    at = 0
    while at + LENGTH.size <= len(data):
        (size,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size
        packet = data[at : at + size]
        at += size
        key, content = _content(packet)
        joined.setdefault(key, bytearray()).extend(content)
    yield from (bytes(stream) for stream in joined.values())


def _content(packet: bytes) -> tuple[bytes, bytes]:
    """Returns (which connection and direction, what is inside) of an Ethernet frame."""
    if len(packet) < 34 or packet[12:14] != b"\x08\x00":
        return b"other", packet
    header_bytes = (packet[14] & 15) * 4
    protocol, inside = packet[23], packet[14 + header_bytes :]
    if protocol == 6 and len(inside) >= 20:
        return packet[26:34] + inside[:4], inside[(inside[12] >> 4) * 4 :]
    if protocol == 17 and len(inside) >= 8:
        return packet[26:34] + inside[:4], inside[8:]
    return b"other", packet


if __name__ == "__main__":
    seen = capture(sys.argv[1], Path(sys.argv[2]))
    print(f"{seen[0]} packets, {seen[1]} bytes, {seen[2]} dropped by the kernel")
