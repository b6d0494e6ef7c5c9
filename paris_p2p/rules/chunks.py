"""Which chunks to ask of a source that has become idle: a pure function (DESIGN: sources are used side by side)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

MAX_REQUEST_CHUNKS = 64  # a request costs a round trip and a new stream; they are read chunk by chunk
REQUEST_S = 0.5  # a request should take about this long, so that a slow source holds few chunks
SLOW_SHARE = 0.1  # a source below this share of the median rate is dropped when others can serve
MIN_RATED_BYTES = 4 << 20  # a rate is believed after this much


@dataclass(frozen=True)
class Source:
    """A source as measured so far."""

    peer: str
    have: frozenset[int]
    received_bytes: int = 0
    busy_s: float = 0.0

    @property
    def rate_bps(self) -> float:
        """Bytes per second while it was asked; 0 before anything came."""
        return self.received_bytes / self.busy_s if self.busy_s > 0 else 0.0


def next_chunks(source: Source, missing: Sequence[int], in_flight: Mapping[int, Collection[str]], chunk_bytes: int) -> list[int]:
    """Chunks to ask of `source` now: those nobody was asked for, else, at the end, one that a single other source holds up."""
    budget = 2
    if source.received_bytes >= chunk_bytes:
        budget = max(1, min(MAX_REQUEST_CHUNKS, int(source.rate_bps * REQUEST_S / chunk_bytes)))
    free = [index for index in missing if index in source.have and not in_flight.get(index)]
    if free:
        return free[:budget]
    late = [index for index in missing if index in source.have and source.peer not in in_flight[index] and len(in_flight[index]) == 1]
    return late[:1]


def too_slow(source: Source, others: Sequence[Source]) -> bool:
    """Whether a source should be dropped: far below the median of the others, and measured long enough to say so."""
    rated = sorted(other.rate_bps for other in others if other.received_bytes >= MIN_RATED_BYTES)
    if not rated or source.busy_s < 5.0:
        return False
    return source.rate_bps < SLOW_SHARE * rated[len(rated) // 2]


def chunks_of(bitmap: bytes, count: int) -> frozenset[int]:
    """The chunk indexes in a have-set, those beyond `count` ignored."""
    return frozenset(index for index in range(min(count, 8 * len(bitmap))) if bitmap[index >> 3] >> (index & 7) & 1)
