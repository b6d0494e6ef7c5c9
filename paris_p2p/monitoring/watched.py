"""Everything that lets a person who is away watch a node, while it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from paris_p2p.monitoring.families import Families
from paris_p2p.monitoring.manager_word import Manager, Words, told_to_manager
from paris_p2p.monitoring.metrics_page import Gather, serving_metrics
from paris_p2p.monitoring.peer_families import peer_families
from paris_p2p.node.status import Status
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm.seam import Swarm


@asynccontextmanager
async def watched(
    settings: PeerSettings, gather: Gather, words: Words, swarm: Swarm, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Serves a node's metrics while inside, where the settings say so, and tells a service manager what
    `words` say. PortInUseError.
    """
    async with (
        serving_metrics(settings.metrics, gather, swarm.daemon_metrics, say),
        told_to_manager(Manager(), words),
    ):
        yield


@asynccontextmanager
async def watched_peer(
    settings: PeerSettings, status: Callable[[], Awaitable[Status]], swarm: Swarm, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Lets a peer be watched while inside, as `watched` does."""

    async def gather() -> Families:
        return peer_families(await status())

    async def words() -> str:
        now = await status()
        return f"{now.phase}: {now.why}; {len(now.peers)} peers"

    async with watched(settings, gather, words, swarm, say):
        yield
