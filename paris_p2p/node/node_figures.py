"""What every node that runs for days can say of itself, whatever it does: peers, bytes, disk, memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from paris_p2p.disk import free_bytes
from paris_p2p.node.host import Host
from paris_p2p.node.loop_watch import LoopStalls
from paris_p2p.rules.versions import version_words
from paris_p2p.swarm.seam import PeerInfo, Swarm

PEERS_LIMIT_S = 3.0  # for p2pd to say who is connected; it takes milliseconds
NO_ANSWER = "p2pd does not answer; where it stays silent for two minutes, it is replaced"


class PeerStatus(BaseModel):
    model_config = ConfigDict(frozen=True)

    peer_id: str
    path: str  # direct or relayed
    role: str = "?"
    version: str = ""  # of its program, as it says; empty: it said none
    distance_s: float | None = None  # of the quickest of its last answers, its own work included
    bytes_per_s: float | None = None  # of what came from it, smoothed


class NodeFigures(BaseModel):
    """The figures of one node, since it was started."""

    model_config = ConfigDict(frozen=True)

    peers: tuple[PeerStatus, ...]
    uploaded_bytes: int = 0
    downloaded_bytes: int = 0
    upload_bytes_per_s: float = 0.0
    download_bytes_per_s: float = 0.0
    uploaded_relayed_bytes: int = 0  # of uploaded_bytes, what went through a relay
    downloaded_relayed_bytes: int = 0
    refused_by_network: dict[str, int] = {}  # records, gossip and requests, by reason
    disk_bytes: int = 0
    disk_limit_bytes: int = 0  # what blobs may take; 0: no limit
    disk_free_bytes: int = 0  # of the disk that they lie on
    memory_bytes: int = 0  # resident, this process and its children
    daemon_restarts: int = 0
    network_trouble: str = ""  # while p2pd does not answer: then no peers are told
    loop: LoopStalls = LoopStalls()


async def node_figures(
    host: Host,
    roles: Mapping[str, str] = MappingProxyType({}),
    versions: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Returns the fields of NodeFigures; `roles` are what peers said that they are here as, `versions` what
    they run (rules/versions.py).
    """
    swarm, transfer = host.swarm, host.swarm.transfer
    connected, trouble = await _connected(swarm)
    peers = tuple(
        PeerStatus(
            peer_id=peer.peer_id,
            path="direct" if peer.direct else "relayed",
            role=roles.get(peer.peer_id, "?"),
            version=version_words(told) if (told := versions.get(peer.peer_id, 0)) else "",
            **asdict(swarm.measured(peer.peer_id)),
        )
        for peer in connected
    )
    return {
        "peers": peers,
        "uploaded_bytes": transfer.uploaded_bytes,
        "downloaded_bytes": transfer.downloaded_bytes,
        "upload_bytes_per_s": transfer.upload_bytes_per_s,
        "download_bytes_per_s": transfer.download_bytes_per_s,
        "uploaded_relayed_bytes": transfer.uploaded_relayed_bytes,
        "downloaded_relayed_bytes": transfer.downloaded_relayed_bytes,
        "refused_by_network": swarm.refused,
        "disk_bytes": host.store.used_bytes(),
        "disk_limit_bytes": host.store.max_bytes,
        "disk_free_bytes": free_bytes(host.store.root),
        "memory_bytes": tree_memory_bytes(),
        "daemon_restarts": swarm.daemon_restarts,
        "network_trouble": trouble,
        "loop": host.loop_watch.stalls,
    }


async def _connected(swarm: Swarm) -> tuple[list[PeerInfo], str]:
    """Returns who is connected, and what the trouble is; what a node says must not wait for a p2pd that
    hangs.
    """
    try:
        async with asyncio.timeout(PEERS_LIMIT_S):
            return await swarm.peers(), ""
    except TimeoutError:
        return [], NO_ANSWER


def tree_memory_bytes() -> int:
    """Returns the resident bytes of this process and all it started."""
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
