"""Copies of what others made are begun side by side: a holder that fell silent holds up no other copy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Copy = Callable[[], Coroutine[Any, Any, None]]


class Copies:
    """Runs one copying at a time under each name, such as a slot's; what is wanted there later ends the one
    before. `ended` is called when one is over.
    """

    def __init__(self, ended: Callable[[], None] = lambda: None) -> None:
        self.ended = ended
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}

    def want(self, name: str, what: str, copy: Copy) -> None:
        """Begins to copy `what`, unless that is under way. Raises the error of the last copy under this name,
        if that did not expect it.
        """
        before, task = self._running.get(name, ("", None))
        if task is not None and task.done():
            del self._running[name]
            if not task.cancelled():
                task.result()
        elif task is not None and before == what:
            return
        elif task is not None:
            task.cancel()
        self._forget_ended()
        begun = asyncio.create_task(_after(task, copy))
        begun.add_done_callback(lambda _: self.ended())
        self._running[name] = what, begun

    def _forget_ended(self) -> None:
        """Forgets those that ended as expected: names come and go."""
        for name, (_, task) in list(self._running.items()):
            if task.done() and (task.cancelled() or task.exception() is None):
                del self._running[name]

    async def close(self) -> None:
        """Ends all copying."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _after(before: asyncio.Task[None] | None, copy: Copy) -> None:
    """Copies once the copying before has let go of its streams."""
    if before is not None:
        await asyncio.gather(before, return_exceptions=True)
    await copy()
