"""An app is served over HTTP beside everything else a node does, without touching its signals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from paris_p2p.errors import PortInUseError

GRACE_S = 5  # for answers that are on their way when it ends
MAX_CONNECTIONS = 256
REQUEST_S = 20.0  # for the head of a connection's first request


class _Bounded(H11Protocol):
    """Keeps so many connections open, and none that says nothing: each holds a file of this process, and
    without any left a node answers nobody.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        is_full = len(self.connections) >= MAX_CONNECTIONS
        super().connection_made(transport)
        if is_full:
            transport.abort()
        else:
            self._silent = self.loop.call_later(REQUEST_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if hasattr(self, "_silent"):
            self._silent.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None:  # no request came
            self.transport.abort()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # Ctrl-C is the node's to handle


@asynccontextmanager
async def serving_http(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serves `app` on a socket that listens, while inside; the socket is closed afterwards."""
    config = uvicorn.Config(
        app,
        http=_Bounded,
        ws="none",
        log_level="error",
        lifespan="off",
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        listener.close()


def listening_at(address: str, option: str) -> socket.socket:
    """Returns a socket that listens at `address:port`, which `option` named. PortInUseError where nobody can
    listen there.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen()
    except OSError as error:
        listener.close()
        raise PortInUseError(
            f"{option} {address}: {error.strerror}; name another port, or an address of this machine"
        ) from error
    return listener
