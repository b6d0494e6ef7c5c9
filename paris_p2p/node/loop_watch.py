"""Tells how often this node's event loop came late, as when something computes where it should wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

LOOK_S = 0.5
LATE_S = 0.1  # from here on a look that comes late counts as a stall


class LoopStalls(BaseModel):
    """Counts looks that came late since the node was started. A stall shorter than LOOK_S may fall between
    two looks, and of each up to LOOK_S is not seen.
    """

    model_config = ConfigDict(frozen=True)

    stalls: int = 0
    stalled_s: float = 0.0
    longest_s: float = 0.0

    def late(self, late_s: float) -> LoopStalls:
        """Counts a look that came `late_s` seconds after it was due."""
        if late_s < LATE_S:
            return self
        return LoopStalls(
            stalls=self.stalls + 1,
            stalled_s=self.stalled_s + late_s,
            longest_s=max(self.longest_s, late_s),
        )


class LoopWatch:
    """Looks at the clock again and again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.stalls, self._clock = LoopStalls(), clock

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            due_s = self._clock() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self.stalls = self.stalls.late(self._clock() - due_s)
