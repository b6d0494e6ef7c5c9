"""How far away, and how fast, the peers are that this one asked lately: what a person is shown, and nothing
rests on.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TypeVar

V = TypeVar("V")
_MOST_PEERS = 1024
_ANSWERS = 8
_SHARE = 0.3  # of the newest chunk stream, in the smoothed rate
_LEAST_BYTES = 1 << 16  # of a stream that says something of the line


@dataclass(frozen=True)
class PeerMeasure:
    """What was measured of one peer; None where nothing was."""

    distance_s: float | None = None  # of the quickest of its last answers, its own work included
    bytes_per_s: float | None = None  # of the chunks that came from it, smoothed


@dataclass
class PeerMeasures:
    """Keeps the measures of the peers that were asked last, at most 1,024."""

    _answers: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)
    _rates: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def answered(self, peer: str, after_s: float) -> None:
        """Notes how long a peer took to begin an answer."""
        self._answers.setdefault(peer, deque(maxlen=_ANSWERS)).append(after_s)
        _keep_latest(self._answers, peer)

    def brought(self, peer: str, count_bytes: int, within_s: float) -> None:
        """Notes what came from a peer in one stream of chunks; little says nothing of its line."""
        if count_bytes < _LEAST_BYTES or within_s <= 0:
            return
        rate = count_bytes / within_s
        before = self._rates.get(peer, rate)
        self._rates[peer] = before + _SHARE * (rate - before)
        _keep_latest(self._rates, peer)

    def of(self, peer: str) -> PeerMeasure:
        """Returns what is known of a peer."""
        answers = self._answers.get(peer)
        return PeerMeasure(min(answers) if answers else None, self._rates.get(peer))


def _keep_latest(kept: OrderedDict[str, V], peer: str) -> None:
    kept.move_to_end(peer)
    while len(kept) > _MOST_PEERS:
        kept.popitem(last=False)
