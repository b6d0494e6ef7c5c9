"""Pure functions say what this peer announces in its local network, and whom of those found there it dials.

What is found is a hint that anybody in that network can make up: it costs a dial at most, and who
answers has to prove its key to libp2p, and all that it says after that as every peer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface

from paris_p2p.errors import RecordError
from paris_p2p.identity import peer_id_to_bytes
from paris_p2p.keyring import derive, keyed_hash
from paris_p2p.near_address import is_near

DAY_S = 86400.0
TAG_DIGITS = 16
MAX_TAGS = 8  # of one announcement, so that it stays one short packet
MAX_ADDRESSES = 4  # of one peer that are dialled
MAX_FOUND = 64  # announcements that are remembered
MAX_DIALS = 4  # begun at one look
AGAIN_S = (60.0, 300.0, 3600.0)  # to the next dial of a peer, after the first, second, … one
RunSecrets = Callable[[], Sequence[bytes]]  # what a run's tags are made of by now, the newest first
_TAG = re.compile(rf"[0-9a-f]{{{TAG_DIGITS}}}")


@dataclass(frozen=True)
class Neighbour:
    """Is what one announcement says."""

    peer: str
    hosts: tuple[str, ...]  # IPv4 addresses
    port: int
    tags: frozenset[str]


@dataclass(frozen=True)
class Tries:
    """Counts the dials of a peer, and says when the last one was."""

    count: int = 0
    last_s: float = 0.0


def run_tag(secret: bytes, day: int, peer: str) -> str:
    """Returns what a peer announces of a run on one day.

    Who has not the secret cannot tell which run it is of, whether two peers have one run in common, nor
    whether yesterday's was the same.
    """
    return keyed_hash(_tag_key(secret), f"{day} {peer}")[:TAG_DIGITS]


@lru_cache(maxsize=256)
def _tag_key(secret: bytes) -> bytes:
    return derive(secret, "near")


def run_secrets(run: str, is_private: bool, keys: Sequence[bytes]) -> tuple[bytes, ...]:
    """Returns what a run's tags are made of, the newest first, by which this peer announces itself.

    Of an open run it is the run's id. Of a private one it is the newest key, so that who was revoked
    follows nobody, and the one before it, by which members are found that have not got the newest yet.
    """
    return tuple(reversed(keys))[:2] if is_private else (bytes.fromhex(run),)


def own_tags(runs: Collection[Sequence[bytes]], now: float, peer: str) -> tuple[str, ...]:
    """Returns what this peer announces: one tag for each run, in an order that tells nothing."""
    day = int(now // DAY_S)
    return tuple(sorted(run_tag(secrets[0], day, peer) for secrets in runs if secrets))[:MAX_TAGS]


def is_of_a_run(found: Neighbour, runs: Collection[Sequence[bytes]], now: float) -> bool:
    """Tells whether a peer announces a run of ours, by today's tag or, where clocks differ, a day beside."""
    today = int(now // DAY_S)
    return any(
        run_tag(secret, day, found.peer) in found.tags
        for secrets in runs
        for secret in secrets
        for day in (today - 1, today, today + 1)
    )


def read_announcement(
    texts: Mapping[bytes, bytes | None], hosts: Sequence[str], port: int | None
) -> Neighbour | None:
    """Returns what an announcement says; None for one that is damaged or past the bounds."""
    if texts.get(b"v") != b"1" or port is None or not 0 < port < 65536:
        return None
    try:
        peer = (texts.get(b"p") or b"").decode("ascii")
        tags = (texts.get(b"r") or b"").decode("ascii").split(",")
        peer_id_to_bytes(peer)
    except (UnicodeDecodeError, RecordError):
        return None
    if len(tags) > MAX_TAGS or not all(_TAG.fullmatch(tag) for tag in tags):
        return None
    return Neighbour(peer, tuple(hosts[: 4 * MAX_ADDRESSES]), port, frozenset(tags))


def announcement(peer: str, tags: Sequence[str]) -> dict[str, str]:
    """Returns what `read_announcement` reads: the peer's id, and tags of its runs."""
    return {"v": "1", "p": peer, "r": ",".join(tags)}


def dialled_at(found: Neighbour, own: Sequence[IPv4Interface]) -> list[str]:
    """Returns the addresses, without /p2p/, at which a peer may be dialled: private ones of a network that
    this machine is in, and never its own.
    """
    hosts = [host for host in dict.fromkeys(found.hosts) if is_near(host) and _is_beside(host, own)]
    return [f"/ip4/{host}/tcp/{found.port}" for host in hosts[:MAX_ADDRESSES]]


def _is_beside(host: str, own: Sequence[IPv4Interface]) -> bool:
    try:
        address = IPv4Address(host)
    except ValueError:
        return False
    mine = {interface.ip for interface in own}
    return address not in mine and any(address in interface.network for interface in own)


def whom_to_dial(
    found: Sequence[Neighbour],
    direct: Collection[str],
    tried: Mapping[str, Tries],
    own: Sequence[IPv4Interface],
    now_s: float,
) -> list[tuple[str, list[str]]]:
    """Returns the peers to dial now, with their addresses: MAX_DIALS at most, those tried least first.

    `found` are of our runs. Who is connected without a relay is left as it is: a connection that works is
    not given up for a hint.
    """
    due = [
        (tried.get(each.peer, Tries()).count, place, each)
        for place, each in enumerate(found)
        if each.peer not in direct and _is_due(tried.get(each.peer, Tries()), now_s)
    ]
    wanted = [(each.peer, dialled_at(each, own)) for _, _, each in sorted(due, key=lambda one: one[:2])]
    return [(peer, addresses) for peer, addresses in wanted if addresses][:MAX_DIALS]


def _is_due(tries: Tries, now_s: float) -> bool:
    if not tries.count:
        return True
    return now_s - tries.last_s >= AGAIN_S[min(tries.count, len(AGAIN_S)) - 1]
