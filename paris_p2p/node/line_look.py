"""A look at this node's line: how peers see it, whether they can dial it, and how fast bytes go both ways.

Everything is bounded: a few peers are asked, each for seconds, and at most MOST_BYTES go each way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from paris_p2p.doctor.line_reach import ReachFacts, SeenAt, has_six_out, is_global_ip, mean_rate, own_ips
from paris_p2p.errors import BusyError, MissingBlobError, OlderPeerError, SwarmError
from paris_p2p.records import CHUNK_BYTES, BlobRef
from paris_p2p.swarm.addresses import dialled_ports, ip_of, is_relayed
from paris_p2p.swarm.asking import ask_side_by_side, end_tasks
from paris_p2p.swarm.seam import Swarm

ASKED = 4  # peers that say how they see this node, and tell the time
DIALLERS = 3  # peers that dial it
MOST_BYTES, MOST_S = 16 << 20, 5.0  # each way, of the test of the line
_SEEN_S, _DIAL_S = 10.0, 35.0
_FIRST_BYTES, _PIECE_BYTES = 256 << 10, 4 << 20
_TELLING_BYTES, _TELLING_S = 1 << 20, 2.0  # less tells of the first answer, not of the line
T = TypeVar("T")


@dataclass(frozen=True)
class LineRun:
    """The run in whose name peers are asked, and a blob of it that members have; "" and None: no run."""

    name: str = ""  # as other peers ask for it
    blob: BlobRef | None = None


async def look_at_line(
    swarm: Swarm, run: LineRun = LineRun(), *, announced: Sequence[str] = ()
) -> ReachFacts:
    """Returns what peers tell of this node's line; it takes about half a minute where nobody answers."""
    connected = await swarm.peers()
    direct = [peer for peer in connected if peer.direct]
    given = swarm.given_peers
    asked = [peer.peer_id for peer in sorted(direct, key=lambda peer: peer.peer_id not in given)]
    seen, offsets, dials = await asyncio.gather(
        _answers(asked[:ASKED], swarm.seen_at, _SEEN_S),
        _answers(asked[:ASKED], swarm.measure_clock_offset, _SEEN_S),
        _answers(asked[:DIALLERS], partial(swarm.dial_back, run=run.name), _DIAL_S),
    )
    sightings = [one for peer, where in seen[0].items() for one in _sightings(peer, where)]
    notes: list[str] = []
    up = await _upload(swarm, run.name, asked, notes)
    down = await _download(swarm, run.blob, asked, notes)
    return ReachFacts(
        ports=dialled_ports(announced, swarm.addresses()),
        sightings=tuple(sightings),
        own_ips=own_ips(),
        dialled={
            name: tuple(told[name] for told in dials[0].values() if name in told) for name in ("tcp", "udp")
        },
        dialled_globally=any(is_global_ip(one.ip) for one in sightings if one.peer in dials[0]),
        refusals=tuple(dict.fromkeys(dials[1])),
        direct=len(direct),
        relayed=len(connected) - len(direct),
        reserved_relays=len({_relay_of(one) for one in swarm.addresses() if is_relayed(one)}),
        six_out=has_six_out(),
        clock_offsets_s=tuple(offsets[0].values()),
        up_bytes_per_s=up,
        down_bytes_per_s=down,
        line_notes=tuple(notes),
    )


async def _answers(
    peers: Sequence[str], ask: Callable[[str], Awaitable[T]], limit_s: float
) -> tuple[dict[str, T], list[str]]:
    """Returns what peers answered, and in words why others did not."""
    answers = await ask_side_by_side(
        {peer: partial(ask, peer) for peer in peers}, enough=max(1, len(peers)), limit_s=limit_s
    )
    await end_tasks(answers.late.values())
    refusals = [_why(error) for error in answers.failed.values()]
    refusals += [f"no answer within {limit_s:.0f} s"] * len(answers.late)
    return answers.good, refusals or ["no peer is connected directly"]


def _why(error: Exception) -> str:
    if isinstance(error, OlderPeerError):
        return "they run an older version of paris-p2p"
    if isinstance(error, BusyError):
        return "they are busy; look again in a minute"
    if isinstance(error, MissingBlobError):
        return "they do so for members of their runs alone, and this machine is none yet"
    return "they could not be asked"


def _sightings(peer: str, addresses: Sequence[str]) -> list[SeenAt]:
    found = []
    for address in addresses:
        ip, ports = ip_of(address), dialled_ports((), (address,))
        if ip and not is_relayed(address):
            found += [SeenAt(peer=peer, ip=ip, port=port, protocol=name) for name, port in ports.items()]
    return found


def _relay_of(address: str) -> str:
    return address.partition("/p2p-circuit")[0].rpartition("/p2p/")[2]


async def _upload(swarm: Swarm, run: str, peers: Sequence[str], notes: list[str]) -> float | None:
    """Returns bytes a second to the first peers that take some; the first piece only shows how large the
    next may be.
    """
    until_s, moved, sent = time.monotonic() + MOST_S, list[tuple[int, float]](), 0
    refusals: list[str] = []
    for peer in peers[:ASKED]:
        size = _FIRST_BYTES
        try:
            while sent < MOST_BYTES and (left_s := until_s - time.monotonic()) > 0:
                async with asyncio.timeout(2 * left_s + 1):
                    taken_s = max(1e-4, await swarm.give(peer, run, size))
                sent += size
                moved = [*(one for one in moved if one[0] >= size), (size, taken_s)]
                size = int(max(1 << 14, min(_PIECE_BYTES, size / taken_s * left_s / 2, MOST_BYTES - sent)))
        except (SwarmError, MissingBlobError, TimeoutError) as error:
            refusals.append(_why(error))
    if not moved:
        notes.append(f"upload: {refusals[0] if refusals else 'no peer is connected directly'}")
    return mean_rate(moved)


async def _download(
    swarm: Swarm, blob: BlobRef | None, peers: Sequence[str], notes: list[str]
) -> float | None:
    """Returns bytes a second of a blob that peers of the run have; what comes is dropped."""
    if blob is None:
        notes.append("download: what could be fetched is known once this machine is in the run")
        return None
    count = min(-(-blob.size_bytes // CHUNK_BYTES), MOST_BYTES // CHUNK_BYTES)
    began_s, received = time.monotonic(), 0

    async def fetch(peer: str) -> None:
        nonlocal received
        async with aclosing(swarm.fetch_chunks(peer, blob.id, range(count), silence_s=MOST_S)) as chunks:
            async for _, data in chunks:
                received += len(data)
                if received >= MOST_BYTES or time.monotonic() - began_s > MOST_S:
                    return

    for peer in peers[:ASKED]:
        try:
            async with asyncio.timeout(MOST_S):
                await fetch(peer)
        except (SwarmError, MissingBlobError, TimeoutError):
            pass
        taken_s = max(1e-4, time.monotonic() - began_s)
        if received >= _TELLING_BYTES or (received and taken_s > _TELLING_S):
            return received / taken_s
        began_s, received = time.monotonic(), 0
    if blob.size_bytes < _TELLING_BYTES:
        notes.append("download: the run's data is too small to time")
        return None
    notes.append("download: no connected peer gave any of the run's data")
    return None
