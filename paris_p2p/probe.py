"""Dials a node with py-libp2p, an independent libp2p, in a process of its own.

It cannot share one with hivemind: both register a `crypto.proto`. `check_node` is what commands call;
`python -m paris_p2p.probe MULTIADDR --json` is the process that it starts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import re
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from paris_p2p.errors import ParisError, SwarmError, UsageError
from paris_p2p.probe_result import ProbeResult
from paris_p2p.shown import put, ready_streams, shown

LIMIT_S = 15.0
_PINGS = 3
_RETRY_PAUSES_S = (0.1, 0.3, 0.9)
_PING_BYTES = 32
_IDENTIFY, _PING = "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"
_MAX_IDENTIFY_BYTES = 64 << 10
_MAX_OUTPUT_BYTES = 256 << 10
_START_S = 30.0  # importing py-libp2p and leaving again, on a slow and busy machine
_OUR_STREAM = re.compile(r"/paris/blob/(\d{1,4})")
_ADDRESS = re.compile(
    r"/(ip4|ip6|dns|dns4|dns6)/([^/\s]{1,255})/(tcp/(\d{1,5})|udp/\d{1,5}/quic-v1)/p2p/([1-9A-HJ-NP-Za-km-z]{40,60})"
)
_OTHER_PEER = re.compile(r"(?:remote_peer_id_from_pubkey=|got )([1-9A-HJ-NP-Za-km-z]{40,60})")

NOT_INSTALLED = (
    "checking a node needs py-libp2p, which is not installed. In a clone of paris-p2p, run "
    "pip install -e '.[probe]' "
    "(it is compiled here and needs a C compiler and GMP; on Debian or Ubuntu: "
    "apt install build-essential libgmp-dev)"
)


def installed() -> bool:
    return importlib.util.find_spec("libp2p") is not None


def parse_address(address: str) -> tuple[str, int, str]:
    """Returns (host, TCP port or 0 for QUIC, peer id) of a multiaddr, or raises UsageError."""
    if "/p2p-circuit" in address:
        raise UsageError(
            f"{address[:200]!r} is a relayed address; the probe dials directly: give the node's own address"
        )
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 <= int(match[4] or 0) <= 65535:
        raise UsageError(
            f"{address[:200]!r} is not an address to dial; it looks like "
            "/ip4/1.2.3.4/tcp/31337/p2p/12D3Koo… or /dns4/host.example/udp/31337/quic-v1/p2p/12D3Koo…"
        )
    return match[2], int(match[4] or 0), match[5]


def check_node(address: str, limit_s: float = LIMIT_S) -> ProbeResult:
    """Dials `address` in a process of its own.

    UsageError when the address is wrong or py-libp2p is not installed.
    """
    parse_address(address)
    if not installed():
        raise UsageError(NOT_INSTALLED)
    command = [sys.executable, "-m", "paris_p2p.probe", address, "--json", "--timeout-s", str(limit_s)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s + _START_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SwarmError(
            f"the probe of {address} did not end within {limit_s + _START_S:.0f} s and was killed; try again"
        ) from error
    try:
        return ProbeResult.model_validate_json(done.stdout[:_MAX_OUTPUT_BYTES].strip())
    except ValidationError as error:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise SwarmError(
            f"the probe broke (exit {done.returncode}): {words[-1][:300] if words else 'it said nothing'}"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the probe's process: one result on stdout; 0 when all is well, 1 when not, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m paris_p2p.probe", description="dial a node with py-libp2p and say what answers"
    )
    parser.add_argument("multiaddr")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--timeout-s", type=float, default=LIMIT_S, help="give up after this many seconds")
    options = parser.parse_args(arguments)
    ready_streams()
    try:
        parse_address(options.multiaddr)
        if not installed():
            raise UsageError(NOT_INSTALLED)
        result = dial(options.multiaddr, options.timeout_s)
    except ParisError as error:
        put(shown(error), sys.stderr)
        return error.exit_code
    put(
        json.dumps(result.model_dump(mode="json"))
        if options.json
        else "\n".join(shown(line) for line in result.lines())
    )
    return 0 if result.ok else 1


def dial(address: str, limit_s: float) -> ProbeResult:
    """Dials from this process, which must never import hivemind."""
    import trio

    # py-libp2p logs every refused dial with a traceback; the result says it in a line
    logging.disable(logging.CRITICAL)
    known: dict[str, Any] = {"address": address, "expected_peer_id": parse_address(address)[2]}

    async def limited() -> None:
        with trio.move_on_after(limit_s) as scope:
            await _dial(address, known)
        if scope.cancelled_caught and "reason" not in known:
            known["reason"] = (
                f"no answer within {limit_s:g} s; is the node running, "
                "and does a firewall or NAT stand before it?"
            )

    trio.run(limited)
    return ProbeResult(**known)


async def _dial(address: str, known: dict[str, Any]) -> None:
    """Fills `known` step by step, so that a time limit keeps what was learnt."""
    host_name, port, peer_id = parse_address(address)
    numeric, failed = await _resolve(host_name, port)
    if failed:
        known["reason"] = failed
        return
    from libp2p import new_host
    from libp2p.exceptions import BaseLibp2pError
    from libp2p.network.config import RetryConfig
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    # py-libp2p dials numbers only, and over QUIC no names at all.
    dialled = Multiaddr(f"/{'ip6' if ':' in numeric else 'ip4'}/{numeric}/{address.split('/', 3)[3]}")
    host = new_host(enable_quic=not port)
    host.get_network().retry_config = RetryConfig(max_retries=0)
    async with host.run(listen_addrs=[]):
        try:
            await host.connect(info_from_p2p_addr(dialled))
        except (BaseLibp2pError, OSError) as error:
            known.update(_why(error, peer_id, quic=not port))
            return
        known.update(reachable=True, peer_id=peer_id)  # the handshake has proved it
        await _learn(host, peer_id, known)


async def _resolve(host_name: str, port: int) -> tuple[str, str]:
    """Returns (IP address, why it cannot be reached).

    py-libp2p only says that no address worked, the socket says why.
    """
    import socket

    import trio

    try:
        if not port:
            return str((await trio.socket.getaddrinfo(host_name, 0, type=socket.SOCK_DGRAM))[0][4][0]), ""
        stream = await trio.open_tcp_stream(host_name, port)
    except OSError as error:
        words = [str(each) for each in _chain(error)][-1]
        where = f"{host_name} port {port}" if port else host_name
        return "", f"{where}: {words}; is the node running there, and is its port open in the firewall?"
    numeric = str(stream.socket.getpeername()[0])
    await stream.aclose()
    return numeric, ""


def _why(error: BaseException, expected: str, *, quic: bool) -> dict[str, Any]:
    """Returns the reason of a failed handshake; when another peer's key came, that peer."""
    texts = [str(each) for each in _chain(error)]
    for other in (match[1] for text in texts if (match := _OTHER_PEER.search(text))):
        if other != expected:
            return {"reachable": True, "peer_id": other, "reason": "another peer answers at this address"}
    if quic:  # without a connection nothing tells a closed port from a refused handshake
        why = f"no connection over QUIC ({texts[-1][:200]})"
        return {"reason": f"{why}; is the node running there, and is the UDP port open in its firewall?"}
    return {"reason": f"something listens there but does not speak libp2p with us: {texts[-1][:300]}"}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        for inner in (*getattr(error, "exceptions", ()), *getattr(error, "errors", ())):
            yield from _chain(inner)
        error = error.__cause__ or error.__context__


async def _learn(host: Any, peer_id: str, known: dict[str, Any]) -> None:
    """Identifies and pings; either may fail without the other."""
    from google.protobuf.message import DecodeError
    from libp2p.exceptions import BaseLibp2pError
    from libp2p.peer.id import ID

    peer, failed, failures = ID.from_string(peer_id), [], (BaseLibp2pError, DecodeError, OSError, ValueError)
    for name, step in (("identify", _identify), ("ping", _ping)):
        try:
            known.update(await _patiently(partial(step, host, peer), failures))
        except failures as error:
            failed.append(f"{name} failed: {str(error)[:200] or type(error).__name__}")
    if failed:
        known["reason"] = "; ".join(failed)


async def _patiently(
    step: Callable[[], Awaitable[dict[str, Any]]], failures: tuple[type[Exception], ...]
) -> dict[str, Any]:
    """Returns what a step learns.

    A stream that cannot be opened at once often can a moment later, over QUIC above all.
    """
    import trio

    for pause_s in _RETRY_PAUSES_S:
        try:
            return await step()
        except failures:
            await trio.sleep(pause_s)
    return await step()


async def _identify(host: Any, peer: Any) -> dict[str, Any]:
    """Asks for the node's agent and stream protocols, by libp2p's identify protocol."""
    from libp2p.identity.identify.pb.identify_pb2 import Identify

    stream = await host.new_stream(peer, [_IDENTIFY])
    length, shift = 0, 0
    while True:  # the message's length, 7 bits a byte
        byte = (await _read(stream, 1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if length > _MAX_IDENTIFY_BYTES or shift > 28:
            raise ValueError(f"the node's answer is over {_MAX_IDENTIFY_BYTES} bytes")
        if byte < 0x80:
            break
    message = Identify()
    message.ParseFromString(await _read(stream, length))
    protocols = tuple(sorted(str(protocol)[:200] for protocol in message.protocols[:200]))
    versions = [int(match[1]) for protocol in protocols if (match := _OUR_STREAM.fullmatch(protocol))]
    return {
        "agent": message.agent_version[:200],
        "protocols": protocols,
        "protocol_version": max(versions, default=0),
    }


async def _ping(host: Any, peer: Any) -> dict[str, Any]:
    """Measures the median round trip of a few 32-byte echoes."""
    stream, times_s = await host.new_stream(peer, [_PING]), []
    for _ in range(_PINGS):
        sent, start = secrets.token_bytes(_PING_BYTES), time.perf_counter()
        await stream.write(sent)
        if await _read(stream, _PING_BYTES) != sent:
            raise ValueError("the node sent other bytes back")
        times_s.append(time.perf_counter() - start)
    await stream.close()
    return {"round_trip_ms": statistics.median(times_s) * 1000}


async def _read(stream: Any, size_bytes: int) -> bytes:
    """Reads exactly so many bytes; ValueError when the stream ends before."""
    data = bytearray()
    while len(data) < size_bytes:
        piece = await stream.read(size_bytes - len(data))
        if not piece:
            raise ValueError("the node closed the stream")
        data += piece
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
