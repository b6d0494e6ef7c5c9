"""An app is served over HTTP beside everything else a node does, without touching its signals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from paris_p2p.errors import PortInUseError

GRACE_S = 5  # for answers that are on their way when it ends


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # Ctrl-C is the node's to handle


@asynccontextmanager
async def serving_http(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Serves `app` on a socket that listens, while inside; the socket is closed afterwards."""
    config = uvicorn.Config(
        app, log_level="error", lifespan="off", access_log=False, timeout_graceful_shutdown=GRACE_S
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
