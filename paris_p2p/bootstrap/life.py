"""The life of a bootstrap node as a process: opened, asked, watched, and ended in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from paris_p2p.bootstrap.config import FORGET_ENDED_S
from paris_p2p.bootstrap.operator_status import (
    OperatorStatus,
    operator_families,
    operator_sight,
    operator_status,
)
from paris_p2p.bootstrap.public_status import public_page
from paris_p2p.bootstrap.serve import BootstrapNode
from paris_p2p.bootstrap.storage_runs import StorageRuns
from paris_p2p.dashboard.links import page_link
from paris_p2p.dashboard.serving import bootstrap_dashboard
from paris_p2p.envelope import Envelope
from paris_p2p.invite import Invite
from paris_p2p.monitoring.alarm_watch import Sight
from paris_p2p.monitoring.families import Families
from paris_p2p.monitoring.watched import NodeViews, watched
from paris_p2p.node.control import serve_control
from paris_p2p.node.host import open_host
from paris_p2p.node.signals import on_leave_signals
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.shown import say
from paris_p2p.swarm.asking import end_tasks


@asynccontextmanager
async def operated(
    node: BootstrapNode, storing: StorageRuns, stop: Callable[[], None], page_at: str = ""
) -> AsyncIterator[None]:
    """Lets an operator ask and stop a node while inside, and watch it where the settings say so.

    At `page_at`, an `address:port`, everybody may look.
    """
    host = node.host

    async def status() -> OperatorStatus:
        return await operator_status(host, list(node.runs.values()), node.only, len(storing.keepers))

    async def gather() -> Families:
        return operator_families(await status())

    async def look() -> Sight:
        return operator_sight(await status(), names_told=host.settings.notify_names)

    async def words() -> str:
        now = await status()
        return (
            f"{len(now.runs)} runs mirrored, {now.private_runs} private ones stored; {len(now.peers)} peers"
        )

    async def leave() -> str:
        stop()
        return "stopping"

    async with (
        bootstrap_dashboard(status) as dashboard,
        serve_control(host.settings.data_dir, status, {"stop": leave}, pages=[dashboard.pages]) as url,
        watched(host.settings, NodeViews(gather, look, words), host.swarm, node.say),
        public_page(page_at, status, node.say),
    ):
        if host.settings.dashboard:
            node.say(f"the dashboard: {page_link(url, dashboard.code())}")
        try:
            yield
        finally:
            dashboard.end()


def run_bootstrap(
    settings: PeerSettings,
    bootstrap_peers: tuple[str, ...],
    only: frozenset[str],
    ready: Callable[[tuple[str, ...]], None],
    *,
    forget_ended_s: float = FORGET_ENDED_S,
    admit: Sequence[Invite] = (),
    page_at: str = "",
) -> None:
    """Runs a bootstrap node until SIGINT, SIGTERM or SIGHUP; `ready` gets the multiaddrs others dial.

    Of the private runs that the invites in `admit` are to, it stores what members name (keeper.py).
    """

    async def life() -> None:
        nodes: list[BootstrapNode] = []

        def notice(envelope: Envelope[Any]) -> None:
            for node in nodes:
                node.notice(envelope)

        async with open_host(settings, bootstrap_peers, relay_service=True, on_record=notice) as host:
            nodes.append(BootstrapNode(host, only, say, forget_ended_s=forget_ended_s))
            storing = StorageRuns(host, admit, say, forget_ended_s)
            stopped = asyncio.Event()
            async with operated(nodes[0], storing, stopped.set, page_at):
                ready(host.swarm.addresses())
                on_leave_signals(stopped.set)
                working = [asyncio.create_task(nodes[0].run()), asyncio.create_task(storing.run())]
                stopping = asyncio.create_task(stopped.wait())
                try:
                    done, _ = await asyncio.wait([*working, stopping], return_when=asyncio.FIRST_COMPLETED)
                    for task in done - {stopping}:
                        task.result()
                finally:
                    await end_tasks([*working, stopping])

    asyncio.run(life())
