"""The page as everybody may see it: read-only, without a token, of what its caller lets out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request

from paris_p2p.dashboard.about import AboutBootstrap
from paris_p2p.dashboard.feed import Feed
from paris_p2p.dashboard.pages import add_page, add_views
from paris_p2p.dashboard.serving import no_files
from paris_p2p.node.control_guard import Guarded
from paris_p2p.node.http_serving import listening_at, serving_http
from paris_p2p.node.node_figures import NodeFigures
from paris_p2p.node.visitors import Visitors

MAX_VIEWERS = 100


@asynccontextmanager
async def serving_public(
    address: str,
    status: Callable[[], Awaitable[NodeFigures]],
    told: Callable[[NodeFigures], dict[str, Any]],
    say: Callable[[str], None],
) -> AsyncIterator[None]:
    """Serves the page at `address:port` while inside; none where it is empty. PortInUseError.

    `told` makes what is sent of a status.
    """
    if not address:
        yield
        return
    listener = listening_at(address, "--public-page")
    say(f"a page for everybody: http://{address.rpartition(':')[0]}:{listener.getsockname()[1]}/")
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    async with Feed(status, told=told, most=MAX_VIEWERS).open() as feed:
        add_page(app)
        add_views(app, _everybody, feed, AboutBootstrap(read_only=True).model_dump, no_files)
        async with serving_http(Guarded(app, ()), listener, Visitors()):
            try:
                yield
            finally:
                feed.end()


def _everybody(request: Request) -> None:
    """Lets everybody see it."""
