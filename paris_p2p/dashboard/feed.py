"""One look at the node a second while somebody watches, one in half a minute otherwise, shared by all pages
that are open.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from pydantic_core import to_json

from paris_p2p.dashboard.points import Point, point_of, with_point
from paris_p2p.errors import ParisError
from paris_p2p.node.node_figures import NodeFigures

log = logging.getLogger(__name__)
WATCHED_S, UNWATCHED_S = 1.0, 30.0
MAX_WATCHERS = 12
_TROUBLE = "its log says more"  # an error may name files of this machine

Extras = Callable[[], Awaitable[dict[str, Any]]]  # JSON-able parts that change seldom, by name


Teller = Callable[[NodeFigures], dict[str, Any]]  # what of a status is sent


class TooManyWatchersError(ParisError):
    """Says that as many pages are open as one node serves."""


class Feed:
    """Looks at a node, and hands each look to those who watch, newest only: a slow page skips some."""

    def __init__(
        self,
        status: Callable[[], Awaitable[NodeFigures]],
        extras: Extras | None = None,
        *,
        told: Teller | None = None,
        most: int = MAX_WATCHERS,
    ):
        self._status, self._extras, self._most = status, extras, most
        self._told: Teller = told or _whole
        self._watchers: set[asyncio.Event] = set()
        self._called = asyncio.Event()  # a watcher came
        self._is_over = False
        self.points: tuple[Point, ...] = ()
        self.newest: dict[str, Any] = {}  # {"status": …, and what extras hold}
        self._text = ""  # it as JSON, made once for all who watch

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Feed]:
        """Looks while inside."""
        looking = asyncio.create_task(self._look())
        try:
            yield self
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    def end(self) -> None:
        """Ends every page's stream: a server that stops would wait for them."""
        self._is_over = True
        for news in self._watchers:
            news.set()

    async def looks(self) -> AsyncIterator[str]:
        """Yields each new look as JSON, the newest at once, until `end`. Raises TooManyWatchersError."""
        if len(self._watchers) >= self._most:
            raise TooManyWatchersError(
                f"{self._most} pages watch this node already; close one, and load this one again"
            )
        news, before = asyncio.Event(), ""
        self._watchers.add(news)
        self._called.set()
        try:
            while not self._is_over:
                if self.newest and self._text != before:
                    before = self._text
                    yield before
                await news.wait()
                news.clear()
        finally:
            self._watchers.discard(news)

    async def _look(self) -> None:
        while True:
            await self._once()
            self._called.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCHED_S if self._watchers else UNWATCHED_S):
                    await (asyncio.Event().wait() if self._watchers else self._called.wait())

    async def _once(self) -> None:
        try:
            status = await self._status()
            extras = await self._extras() if self._extras and self._watchers else {}
        except ParisError as error:  # p2pd is being restarted, or the node is on its way out
            self.newest = {**self.newest, "trouble": self._shown(str(error))}
        except Exception:  # one look that fails must not be the last
            log.exception("the page could not look at this node")
            self.newest = {**self.newest, "trouble": _TROUBLE}
        else:
            self.points = with_point(self.points, point_of(status, time.time()))
            self.newest = {**self._kept(), "status": self._told(status), **extras}
            self.newest["trouble"] = self._shown(status.network_trouble)
        # a loss that is no number would be no JSON for a browser
        self._text = to_json(self.newest, inf_nan_mode="null").decode()
        for news in self._watchers:
            news.set()

    def _shown(self, trouble: str) -> str:
        """Returns a trouble as this page may say it."""
        return trouble if not trouble or self._told is _whole else _TROUBLE

    def _kept(self) -> dict[str, Any]:
        return {name: value for name, value in self.newest.items() if name not in ("status", "trouble")}


def _whole(status: NodeFigures) -> dict[str, Any]:
    return status.model_dump(mode="json")
