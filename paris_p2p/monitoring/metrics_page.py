"""GET /metrics: what a node measures, as text for Prometheus, out of a registry of its own at each question.

There is no token: on 127.0.0.1 all users of this machine may read it, elsewhere everybody who reaches the
port. It names no peer, and no private run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from paris_p2p.errors import ParisError
from paris_p2p.monitoring.daemon_families import daemon_families
from paris_p2p.monitoring.families import Families
from paris_p2p.node.control_guard import THIS_MACHINE, Guarded
from paris_p2p.node.http_serving import listening_at, serving_http

log = logging.getLogger(__name__)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ANSWER_LIMIT_S = 8.0  # Prometheus gives up after ten seconds, unless it is told otherwise
Gather = Callable[[], Awaitable[Families]]
DaemonText = Callable[[], Awaitable[str]]


class _Once(Collector):
    def __init__(self, metrics: Iterable[Metric]):
        self._metrics = tuple(metrics)

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def exposition(families: Families, daemon_text: str) -> bytes:
    """Returns all metrics of a node as text: ours, p2pd's, and those of this process."""
    families.add("paris_p2pd_up", bool(daemon_text))
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Once(families.metrics()))
    registry.register(_Once(daemon_families(daemon_text)))
    return generate_latest(registry)


def metrics_app(gather: Gather, daemon_text: DaemonText) -> Starlette:
    """Returns the app that answers GET /metrics, one question at a time."""
    turn = asyncio.Lock()

    async def answer(_: Request) -> Response:
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S), turn:
                text = exposition(await gather(), await daemon_text())
        except (ParisError, TimeoutError) as error:  # p2pd is being restarted, or the node is on its way out
            return PlainTextResponse(f"not now: {error or 'it took too long'}\n", status_code=503)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    return Starlette(routes=[Route("/metrics", answer, methods=["GET"])])


@asynccontextmanager
async def serving_metrics(
    address: str, gather: Gather, daemon_text: DaemonText, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Serves metrics at `address:port` while inside; an empty address serves none. PortInUseError where
    nobody can listen there.
    """
    if not address:
        yield
        return
    listener = listening_at(address, "--metrics")
    host = ip_address(listener.getsockname()[0])
    at = f"[{host}]" if host.version == 6 else str(host)
    say(f"metrics for Prometheus: http://{at}:{listener.getsockname()[1]}/metrics")
    if not host.is_loopback:
        say(
            f"warning: everybody who reaches {at} may read these metrics, which need no password; "
            "let a firewall admit the Prometheus server alone"
        )
    app = Guarded(metrics_app(gather, daemon_text), THIS_MACHINE if host.is_loopback else ())
    async with serving_http(app, listener):
        yield
