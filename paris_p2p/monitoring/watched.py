"""Everything that lets a person who is away watch a node, while it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from paris_p2p.monitoring.alarm_watch import Sight, TakeSight, alarms_told
from paris_p2p.monitoring.families import Families
from paris_p2p.monitoring.manager_word import Manager, SayNow, told_to_manager
from paris_p2p.monitoring.metrics_page import Gather, serving_metrics
from paris_p2p.monitoring.peer_families import peer_families
from paris_p2p.monitoring.sights import peer_sight
from paris_p2p.node.status import Status
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm.seam import Swarm


@dataclass(frozen=True)
class NodeViews:
    """How a node is looked at: for Prometheus, for webhooks, and in a line for the service manager."""

    gather: Gather
    look: TakeSight
    words: SayNow


@asynccontextmanager
async def watched(
    settings: PeerSettings, views: NodeViews, swarm: Swarm, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Lets a node be watched while inside, as the settings and the service manager want it. PortInUseError
    where metrics cannot be served; UsageError where a file holds no webhook.
    """
    async with AsyncExitStack() as stack:
        daemon_text = swarm.daemon_metrics
        await stack.enter_async_context(serving_metrics(settings.metrics, views.gather, daemon_text, say))
        await stack.enter_async_context(alarms_told(settings, views.look, say))
        await stack.enter_async_context(told_to_manager(Manager(), views.words))
        yield


@asynccontextmanager
async def watched_peer(
    settings: PeerSettings, status: Callable[[], Awaitable[Status]], swarm: Swarm, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Lets a peer be watched while inside, as `watched` does."""

    async def gather() -> Families:
        return peer_families(await status())

    async def look() -> Sight:
        return peer_sight(await status(), names_told=settings.notify_names)

    async def words() -> str:
        now = await status()
        return f"{now.phase}: {now.why}; {len(now.peers)} peers"

    async with watched(settings, NodeViews(gather, look, words), swarm, say):
        yield
