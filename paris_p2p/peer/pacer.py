"""Stops the trainer for a part of each second (SIGSTOP, SIGCONT), so that its GPU keeps within its limits.

A stopped process keeps its memory, and dies with the node as a running one does.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress

_CYCLE_S = 1.0
_LOOK_S = 1.0
_WHOLE = 0.99  # of the time: not worth a signal


class Pacer:
    """Paces one process group after the other; `share` is of the time, `group` is the one that trains now, or
    None; a group that is to stop is left running, so that it ends soon.
    """

    def __init__(self, group: Callable[[], int | None]):
        self.share = 1.0
        self._group = group
        self._stopped: int | None = None

    async def run(self) -> None:
        """Paces until cancelled; nothing is left stopped."""
        try:
            while True:
                group = self._group()
                if group is None or self.share >= _WHOLE:
                    await asyncio.sleep(_LOOK_S)
                    continue
                self._stop(group)
                await self._rest((1.0 - self.share) * _CYCLE_S, group)
                self._go_on()
                await asyncio.sleep(self.share * _CYCLE_S)
        finally:
            self._go_on()

    async def _rest(self, for_s: float, group: int) -> None:
        """Waits, at most until the group is asked to stop."""
        left_s = for_s
        while left_s > 0 and self._group() == group:
            await asyncio.sleep(min(0.1, left_s))
            left_s -= 0.1

    def _stop(self, group: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGSTOP)
            self._stopped = group

    def _go_on(self) -> None:
        group, self._stopped = self._stopped, None
        if group is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGCONT)
