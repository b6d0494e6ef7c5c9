"""Puts the page together for a peer or an owner's node."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from paris_p2p.dashboard.about import about_run
from paris_p2p.dashboard.codes import LoginCodes
from paris_p2p.dashboard.feed import Feed
from paris_p2p.dashboard.pages import pages
from paris_p2p.node.control import Pages
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

    async def no_previews(name: str) -> tuple[bytes, str]:
        raise KeyError(name)

    def about() -> dict[str, Any]:
        return about_run(node).model_dump()

    codes = LoginCodes()
    async with Feed(status).open() as feed:
        yield Dashboard(pages(feed, about, no_previews, codes), codes, feed.end)
