"""How fast this machine sends, as far as its own transfers show: what a member of a crew says of its line."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from paris_p2p.node.run_node import RunNode

_LOOK_S = 1.0
_STEADY_LOOKS = 10  # of sending without a pause, before a rate says something about the line
_EVEN = 0.5  # the slowest of those looks, as a share of the fastest
_FULL = 0.9  # of a look, in which chunks were on their way: less says nothing about the line


def line_rate(rate_bytes_per_s: float, uploading_s: float, look_s: float) -> float:
    """Returns what a look of `look_s` seconds says about the line: the rate where chunks were on their way
    for nearly all of it, else 0. Small answers that trickle one after the other fill no line.
    """
    return rate_bytes_per_s if uploading_s >= _FULL * look_s else 0.0


def steady_rate(rates: list[float]) -> float:
    """Returns the mean of rates that were measured one after the other, bytes/s, where they are alike and all
    above zero: a transfer that fills the line. Returns 0 where they say nothing about it.
    """
    if len(rates) < _STEADY_LOOKS or min(rates) <= 0 or min(rates) < _EVEN * max(rates):
        return 0.0
    return sum(rates) / len(rates)


class Uplink:
    """Watches this machine's uploads; `bytes_per_s` is what is known of its line, 0 while nothing is."""

    def __init__(self, node: RunNode, limit_bytes_per_s: float):
        self.node, self.limit_bytes_per_s = node, limit_bytes_per_s
        self._measured = 0.0
        self._rates: deque[float] = deque(maxlen=_STEADY_LOOKS)

    @property
    def bytes_per_s(self) -> float:
        """Returns bytes a second: what was measured, at most --upload-limit, which counts before that."""
        known = [rate for rate in (self._measured, self.limit_bytes_per_s) if rate > 0]
        return min(known, default=0.0)

    def upload_s(self, count_bytes: int) -> float:
        """Returns the seconds that sending so many bytes takes; 0 while the line is not known."""
        return count_bytes / self.bytes_per_s if self.bytes_per_s > 0 else 0.0

    async def watch(self) -> None:
        """Measures until cancelled."""
        looked_s, uploading_s = time.monotonic(), self.node.host.swarm.transfer.uploading_s
        while True:
            await asyncio.sleep(_LOOK_S)
            transfer, now_s = self.node.host.swarm.transfer, time.monotonic()
            rate = transfer.upload_bytes_per_s
            self._rates.append(line_rate(rate, transfer.uploading_s - uploading_s, now_s - looked_s))
            looked_s, uploading_s = now_s, transfer.uploading_s
            self._measured = steady_rate(list(self._rates)) or self._measured
