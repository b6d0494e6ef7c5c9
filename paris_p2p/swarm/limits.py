"""Limits and counts: a rate that streams share, a meter, budgets per sender, reasons for refusals."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from paris_p2p.errors import RecordError, SignatureError, VersionError

PIECE_BYTES = 1 << 17  # what is moved between two looks at the limit
_SEND_BYTES = 1 << 20  # at once, where nothing limits it
_BURST_S = 0.25
_WINDOW_S = 5.0
_MAX_SENDERS = 4096
MAX_REASONS = 64
OTHER_REASONS = "other reasons"


class RateLimit:
    """Limits all who `take` to `bytes_per_s` together, in the order of asking; 0 is no limit.

    While it `is_closed`, no transfer begins: a budget is used up.
    """

    def __init__(self, bytes_per_s: float):
        self.bytes_per_s, self.is_closed = bytes_per_s, False
        self._next_free_s = 0.0

    async def take(self, count_bytes: int) -> None:
        if not self.bytes_per_s:
            return
        now = time.monotonic()
        self._next_free_s = max(self._next_free_s, now - _BURST_S) + count_bytes / self.bytes_per_s
        if self._next_free_s > now:
            await asyncio.sleep(self._next_free_s - now)


def piece_of(limit_bytes_per_s: float) -> int:
    """Returns the bytes sent between two looks at a limit: an eighth of a second's.

    So many streams share a small limit without falling silent.
    """
    return max(1 << 12, min(PIECE_BYTES, int(limit_bytes_per_s / 8))) if limit_bytes_per_s else _SEND_BYTES


class Meter:
    """Counts bytes in all and those of them that went through a relay, bytes per second over the last
    seconds, and seconds in which something that should fill the line was on its way.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_bytes = self.relayed_bytes = 0
        self._clock = clock
        self._recent: deque[tuple[int, int]] = deque()  # (tenth of a second, bytes)
        self._filling, self._filled_s, self._since_s = 0, 0.0, 0.0

    def add(self, count_bytes: int, *, relayed: bool = False) -> None:
        self.total_bytes += count_bytes
        self.relayed_bytes += count_bytes if relayed else 0
        tenth = int(self._clock() * 10)
        if self._recent and self._recent[-1][0] == tenth:
            count_bytes += self._recent.pop()[1]
        self._recent.append((tenth, count_bytes))
        self._forget(tenth)

    def bytes_per_s(self) -> float:
        self._forget(int(self._clock() * 10))
        return sum(count for _, count in self._recent) / _WINDOW_S

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Notes that meanwhile something is on its way that should fill the line."""
        if not self._filling:
            self._since_s = self._clock()
        self._filling += 1
        try:
            yield
        finally:
            self._filling -= 1
            if not self._filling:
                self._filled_s += self._clock() - self._since_s

    @property
    def filled_s(self) -> float:
        """Returns the seconds so far in which one or more were `filling`."""
        return self._filled_s + (self._clock() - self._since_s if self._filling else 0.0)

    def _forget(self, tenth: int) -> None:
        while self._recent and self._recent[0][0] < tenth - _WINDOW_S * 10:
            self._recent.popleft()


class EventLimit:
    """A token bucket for each sender: `per_s` events, `burst` at once.

    The senders that were heard longest ago are forgotten.
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic):
        self.per_s, self.burst, self._clock = per_s, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # sender -> (tokens, when)

    def allow(self, sender: str) -> bool:
        now = self._clock()
        tokens, since_s = self._left.pop(sender, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - since_s) * self.per_s)
        allowed = tokens >= 1
        self._left[sender] = (tokens - 1 if allowed else tokens, now)
        if len(self._left) > _MAX_SENDERS:
            self._left.popitem(last=False)
        return allowed

    def would_allow(self, sender: str) -> bool:
        """Tells whether `allow` would, and takes nothing."""
        tokens, since_s = self._left.get(sender, (float(self.burst), self._clock()))
        return tokens + (self._clock() - since_s) * self.per_s >= 1


@dataclass(frozen=True)
class Allowance:
    """Holds what one peer may cost in a minute; at most one unused minute's worth is kept."""

    size_bytes: float
    keys: float
    cpu_s: float


class Budgets:
    """Holds an allowance for each peer, for several threads; the oldest are forgotten."""

    def __init__(self, allowance: Allowance, clock: Callable[[], float] = time.monotonic):
        self.allowance, self._clock = allowance, clock
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[Allowance, float]] = OrderedDict()  # peer -> what is left, when

    def spend(self, peer: str, *, size_bytes: float = 0.0, keys: float = 0.0) -> bool:
        """Takes that much of the budget if there is enough, and says so; otherwise nothing is taken."""
        with self._lock:
            left = self._renewed(peer)
            allowed = left.cpu_s > 0 and left.size_bytes >= size_bytes and left.keys >= keys
            if allowed:
                left = Allowance(left.size_bytes - size_bytes, left.keys - keys, left.cpu_s)
            self._keep(peer, left)
            return allowed

    def charge(self, peer: str, cpu_s: float) -> None:
        """Takes processor time that was used.

        It is known afterwards only, so that a peer may come into debt.
        """
        with self._lock:
            left = self._renewed(peer)
            self._keep(peer, Allowance(left.size_bytes, left.keys, left.cpu_s - cpu_s))

    def _renewed(self, peer: str) -> Allowance:
        whole, now = self.allowance, self._clock()
        left, since_s = self._left.get(peer, (whole, now))
        share = (now - since_s) / 60.0
        return Allowance(
            min(whole.size_bytes, left.size_bytes + share * whole.size_bytes),
            min(whole.keys, left.keys + share * whole.keys),
            min(whole.cpu_s, left.cpu_s + share * whole.cpu_s),
        )

    def _keep(self, peer: str, left: Allowance) -> None:
        self._left[peer] = left, self._clock()
        self._left.move_to_end(peer)
        if len(self._left) > _MAX_SENDERS:
            self._left.popitem(last=False)


class Reasons(Counter[str]):
    """Counts refusals by reason.

    Past MAX_REASONS, a reason not seen before counts as another: some name values that a stranger chose.
    """

    def __setitem__(self, reason: str, count: int) -> None:
        if reason in self or len(self) < MAX_REASONS:
            super().__setitem__(reason, count)
        else:  # `reasons[reason] += 1` began at 0
            super().__setitem__(OTHER_REASONS, self[OTHER_REASONS] + count)


def kind_of(error: RecordError) -> str:
    """Names a record's fault without its words, in which a stranger may have a say."""
    if isinstance(error, SignatureError):
        return "wrong signature"
    return "for a newer reader" if isinstance(error, VersionError) else "malformed"
