"""Copies of what others made, begun side by side: a holder that fell silent holds up no other copy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Copies:
    """One copying at a time under each name, such as a slot's; a newer thing wanted there ends the one
    before.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}

    def want(self, name: str, what: str, copy: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin to copy `what`, unless that is under way. An error that `copy` did not expect is raised by
        the next call.
        """
        before, task = self._running.get(name, ("", None))
        if task is not None and task.done():
            if not task.cancelled():
                task.result()
        elif task is not None:
            if before != what:
                task.cancel()  # and the next call begins
            return
        self._running[name] = what, asyncio.create_task(copy())

    def stop(self, prefix: str) -> None:
        """End the copying under all names that begin so."""
        for name in [name for name in self._running if name.startswith(prefix)]:
            self._running.pop(name)[1].cancel()

    async def close(self) -> None:
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
