"""Puts the page together for a peer, an owner's node or a bootstrap node."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from paris_p2p.dashboard.about import AboutBootstrap, about_run
from paris_p2p.dashboard.codes import LoginCodes
from paris_p2p.dashboard.feed import Feed
from paris_p2p.dashboard.pages import pages
from paris_p2p.dashboard.past import Past
from paris_p2p.node.control import Pages
from paris_p2p.node.node_figures import NodeFigures
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import Status


@dataclass(frozen=True)
class Dashboard:
    """Is what the control API serves, and what makes links to it."""

    pages: Pages
    codes: LoginCodes
    end: Callable[[], None]  # closes the pages' streams, before the server stops

    def code(self) -> str:
        """Returns a new code for one link."""
        return self.codes.give(time.monotonic())


@asynccontextmanager
async def dashboard_of(node: RunNode, status: Callable[[], Awaitable[Status]]) -> AsyncIterator[Dashboard]:
    """Looks at a node while inside, for the pages that watch it."""

    def about() -> dict[str, Any]:
        return about_run(node).model_dump()

    codes, past = LoginCodes(), Past(node)
    async with Feed(status, past.parts).open() as feed:
        yield Dashboard(pages(feed, about, past.preview, codes), codes, feed.end)


@asynccontextmanager
async def bootstrap_dashboard(status: Callable[[], Awaitable[NodeFigures]]) -> AsyncIterator[Dashboard]:
    """Looks at a bootstrap node while inside, for its operator's pages."""
    codes = LoginCodes()
    async with Feed(status).open() as feed:
        about = AboutBootstrap().model_dump
        yield Dashboard(pages(feed, about, no_files, codes), codes, feed.end)


async def no_files(name: str) -> tuple[bytes, str]:
    """Raises KeyError: a node without clips has none to show."""
    raise KeyError(name)
