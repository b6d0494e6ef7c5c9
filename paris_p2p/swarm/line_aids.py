"""What a node does for others that look at their line: it dials them back, and takes bytes and drops them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from paris_p2p.errors import BusyError
from paris_p2p.swarm.blob_requests import MAX_TAKEN_BYTES
from paris_p2p.swarm.dial_back import DialBack
from paris_p2p.swarm.limits import Allowance, Budgets, Meter, RateLimit
from paris_p2p.swarm.pace import Pace
from paris_p2p.swarm.seats import Seat

PIECE_BYTES = 1 << 16
# Of what one asker or its network, and all together, may have dropped in a minute.
EACH_BYTES, ALL_BYTES = 16 << 20, 64 << 20
_PIECES, _ALL_PIECES = 64, 256


class LineAids:
    """Holds the limits of both; `limit` and `meter` are of all that this node receives."""

    def __init__(
        self,
        limit: RateLimit,
        meter: Meter,
        dialling: DialBack | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.dialling, self._limit, self._meter = dialling or DialBack(), limit, meter
        self._each = Budgets(Allowance(EACH_BYTES, _PIECES, 1.0), clock)
        self._all = Budgets(Allowance(ALL_BYTES, _ALL_PIECES, 1.0), clock)

    def allowed_bytes(self, seat: Seat, request: dict[str, Any]) -> int:
        """Returns how many bytes an asker may send to be dropped; 0 where it names no number that may be.

        BusyError past the budgets.
        """
        size = request.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_TAKEN_BYTES:
            return 0
        if self._limit.is_closed:
            raise BusyError("this node has received all that it may for now")
        own = self._each.spend(seat.group, size_bytes=size, keys=1)
        if not (own and self._all.spend("", size_bytes=size, keys=1)):
            raise BusyError("others look at their line; ask again in a minute")
        return size

    async def drop(self, seat: Seat, size_bytes: int, reader: asyncio.StreamReader) -> None:
        """Reads so many bytes and forgets them; TimeoutError, IncompleteReadError where they do not come."""
        now_s, left, pace = asyncio.get_running_loop().time, size_bytes, Pace()
        while left:
            began_s = now_s()
            async with asyncio.timeout(min(pace.silence_s, pace.left_s())):
                piece = await reader.read(min(PIECE_BYTES, left))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            seat.moved_s = now_s()
            pace.spend(len(piece), seat.moved_s - began_s)
            self._meter.add(len(piece))
            await self._limit.take(len(piece))
