"""Wakes every task that waits for news of a slot, so that none of them polls for a state."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from paris_p2p.envelope import Envelope
from paris_p2p.node.run_node import RunNode

T = TypeVar("T")
# Strangers may bring news without end, and a look at a crowded slot takes 10 ms: one look for all of it.
_GATHER_S = 0.25


class Notifier:
    """One event for many waiters: each waits for the next `notify`, none has to clear anything.

    A waiter that looks at a state and then waits misses nothing, as long as it awaits nothing in between.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, limit_s: float = math.inf) -> None:
        """Returns soon after the next `notify`, at the latest after `limit_s` seconds."""
        await self._wait(limit_s)
        await asyncio.sleep(_GATHER_S)

    async def until(self, holds: Callable[[], bool], limit_s: float = math.inf) -> bool:
        """Returns True once `holds` does, which is asked at each `notify` and should be cheap; False after
        `limit_s` seconds.
        """
        ends_s = time.monotonic() + limit_s
        while not holds():
            left_s = ends_s - time.monotonic()
            if left_s <= 0:
                return False
            await self._wait(left_s)
        return True

    async def _wait(self, limit_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None if limit_s == math.inf else limit_s):
                await self._next.wait()

    @contextmanager
    def listening(self, node: RunNode, slot: str) -> Iterator[None]:
        """Notifies of each record of the slot that is new to the node's board, and of each notice, while it
        is entered.
        """

        def listen(envelope: Envelope[Any]) -> None:
            if envelope.record.slot in ("", slot):  # the owner's word is of no slot
                self.notify()

        node.listeners.append(listen)
        try:
            yield
        finally:
            node.listeners.remove(listen)


class StopRequest:
    """Asks one leadership to end; the first reason that is given counts."""

    def __init__(self, news: Notifier) -> None:
        self.reason = ""
        self._news, self._asked = news, asyncio.Event()

    @property
    def made(self) -> bool:
        return self._asked.is_set()

    def make(self, reason: str) -> None:
        if not self.made:
            self.reason = reason
            self._asked.set()
            self._news.notify()

    async def wait(self) -> None:
        await self._asked.wait()

    async def unless_made(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Returns the work's result; None when the stop was asked for before it ended."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            stopping.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
