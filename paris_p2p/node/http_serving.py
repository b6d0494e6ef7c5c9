"""An app is served over HTTP beside everything else a node does, without touching its signals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from paris_p2p.errors import PortInUseError
from paris_p2p.node.visitors import Paced, Visitors

GRACE_S = 5  # for answers that are on their way when it ends
MAX_CONNECTIONS = 256
REQUEST_S = 20.0  # for the head of a connection's first request


class _Bounded(H11Protocol):
    """Keeps so many connections open, and none that says nothing: each holds a file of this process, and
    without any left a node answers nobody.
    """

    visitors: Visitors | None = None  # of a page for everybody
    _entered = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        is_full = len(self.connections) >= MAX_CONNECTIONS
        super().connection_made(transport)
        host = (transport.get_extra_info("peername") or ("",))[0]
        if self.visitors is not None and not is_full:
            is_full = not self.visitors.enters(host)
            self._entered = "" if is_full else host
        if is_full:
            transport.abort()
        else:
            self._silent = self.loop.call_later(REQUEST_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        if hasattr(self, "_silent"):
            self._silent.cancel()
        if self.visitors is not None and self._entered:
            self.visitors.leaves(self._entered)
            self._entered = ""
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None:  # no request came
            self.transport.abort()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # Ctrl-C is the node's to handle


@asynccontextmanager
async def serving_http(
    app: ASGIApp, listener: socket.socket, visitors: Visitors | None = None
) -> AsyncIterator[None]:
    """Serves `app` on a socket that listens, while inside; the socket is closed afterwards.

    `visitors` says who may open more connections, and ask more, where strangers may come.
    """
    config = uvicorn.Config(
        app if visitors is None else Paced(app, visitors),
        http=type("_BoundedFor", (_Bounded,), {"visitors": visitors}),
        ws="none",
        log_level="error",
        lifespan="off",
        access_log=False,
        proxy_headers=False,  # a header would name another visitor
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


async def body_of(request: Request, limit_bytes: int) -> bytes:
    """Returns a request's body. HTTPException 413 for one that is longer, or says that it will be."""
    told, data = request.headers.get("content-length", ""), bytearray()
    if told.isdecimal() and int(told[:20]) > limit_bytes:
        raise HTTPException(413, f"at most {limit_bytes} bytes are read")
    async for part in request.stream():
        if len(data) + len(part) > limit_bytes:
            raise HTTPException(413, f"at most {limit_bytes} bytes are read")
        data += part
    return bytes(data)


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
