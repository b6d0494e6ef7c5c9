"""Pure functions say which chunks to ask of an idle source, and which source is too slow to be waited for.

Sources are used side by side. A source may drip, alone or with others, so nobody's chunk is waited for while
an idle source would have it much sooner: the last chunks are asked of as many sources as it takes, one after
the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

MAX_REQUEST_CHUNKS = 64  # a request costs a round trip and a new stream; they are read chunk by chunk
_REQUEST_S = 0.5  # a request should take about this long, so that a slow source holds few chunks
_SLOW_SHARE = 0.1  # a source below this share of the median rate is dropped when others can serve
MIN_RATED_BYTES = 4 << 20  # a rate is believed after this much
LATE_CHUNKS = 3.0  # a chunk is late once it takes so many times as long as a source that waits needs for one
UNRATED_LATE_S = 2.0  # the same, where the one that waits has not brought any yet
UNRATED_TURN_S = 60.0  # nobody brought a chunk: on a slow line that many streams share, each one takes long
LATE_AT_LEAST_S = 0.05  # below this a round trip, or a busy processor, looks like dripping
LEAST_CHUNK_BYTES = 1 << 16  # of a blob of several: made for work and not for bytes where it has less


@dataclass(frozen=True)
class MeasuredSource:
    """A source as measured so far."""

    peer: str
    have: frozenset[int]
    received_bytes: int = 0
    busy_s: float = 0.0

    @property
    def rate_bytes_per_s(self) -> float:
        """Returns the bytes per second while it was asked; 0 before anything came."""
        return self.received_bytes / self.busy_s if self.busy_s > 0 else 0.0


@dataclass(eq=False)
class Holdup:
    """One request on its way: `since_s` is when it was made, or when it last brought a chunk."""

    peer: str
    since_s: float


def next_chunks(
    source: MeasuredSource,
    missing: Sequence[int],
    in_flight: Mapping[int, Collection[Holdup]],
    chunk_bytes: int,
    now_s: float,
) -> list[int]:
    """Returns the chunks to ask of `source` now: those nobody was asked for, else one that others hold up.

    Such a one is held up by a single other source, or by any number that are all late (`late_after_s`).
    """
    budget = 2
    if source.received_bytes >= chunk_bytes:
        budget = max(1, min(MAX_REQUEST_CHUNKS, int(source.rate_bytes_per_s * _REQUEST_S / chunk_bytes)))
    free, late = list[int](), list[int]()
    patience_s = late_after_s(source, chunk_bytes)
    for index in missing:
        if index not in source.have:
            continue
        holders = in_flight.get(index, ())
        if not holders:
            free.append(index)
            if len(free) == budget:
                break
        elif not free and _may_join(source, holders, now_s, patience_s):
            late.append(index)
    # The one that was held up longest comes first: two that were asked a moment ago may both be quick.
    return free or sorted(late, key=lambda index: max(holder.since_s for holder in in_flight[index]))[:1]


def _may_join(source: MeasuredSource, holders: Collection[Holdup], now_s: float, patience_s: float) -> bool:
    if any(holder.peer == source.peer for holder in holders):
        return False
    return len(holders) == 1 or all(now_s - holder.since_s > patience_s for holder in holders)


def look_again_s(
    source: MeasuredSource,
    missing: Sequence[int],
    in_flight: Mapping[int, Collection[Holdup]],
    chunk_bytes: int,
    now_s: float,
) -> float | None:
    """Returns the seconds until `next_chunks` may find a late chunk for a source that got none now; None when
    only news can change it.
    """
    patience_s = late_after_s(source, chunk_bytes)
    due_s = [
        max(holder.since_s for holder in holders) + patience_s - now_s
        for index in missing
        if index in source.have
        and (holders := in_flight.get(index))
        and all(holder.peer != source.peer for holder in holders)
    ]
    return max(0.01, min(due_s)) if due_s else None


def late_after_s(source: MeasuredSource, chunk_bytes: int) -> float:
    """Returns how long a chunk of another's may take before `source`, which has nothing to do, is asked for
    it too.
    """
    if source.received_bytes < chunk_bytes:
        return UNRATED_LATE_S
    return max(LATE_AT_LEAST_S, LATE_CHUNKS * chunk_bytes / source.rate_bytes_per_s)


def gives_turn_away(others: Sequence[MeasuredSource], chunk_bytes: int, waited_s: float) -> bool:
    """Tells whether a source that brought nothing for `waited_s` should leave its turn to one that waits: by
    the best's rate it is late. What it sent of a chunk is lost.
    """
    best = max(
        (other.rate_bytes_per_s for other in others if other.received_bytes >= chunk_bytes), default=0.0
    )
    return waited_s > (max(UNRATED_LATE_S, 10 * LATE_CHUNKS * chunk_bytes / best) if best else UNRATED_TURN_S)


def may_join_turns(active: Sequence[MeasuredSource], chunk_bytes: int, waited_s: float) -> bool:
    """Tells whether one more source should begin beside those with a turn: none of them brought a chunk for
    `waited_s`. They may all drip, or share a slow line, where nobody should be sent away.
    """
    rated = any(source.received_bytes >= chunk_bytes for source in active)
    return not rated and waited_s > 2 * UNRATED_LATE_S


def too_slow(source: MeasuredSource, others: Sequence[MeasuredSource]) -> bool:
    """Tells whether a source should be dropped: far below the median of the others, and measured long enough
    to say so.
    """
    rated = sorted(other.rate_bytes_per_s for other in others if other.received_bytes >= MIN_RATED_BYTES)
    if not rated or source.busy_s < 5.0:
        return False
    return source.rate_bytes_per_s < _SLOW_SHARE * rated[len(rated) // 2]


def order_sources(named: Sequence[str], connected: Sequence[str], trusted: Collection[str]) -> list[str]:
    """Returns whom to ask first: who is trusted, then who is both named and connected, then one of each in
    turn.

    Names on a bulletin board and connections cost nothing, so a thousand of either must not hide the other.
    """
    both = [peer for peer in named if peer in set(connected)]
    mixed = [peer for pair in zip_longest(named, connected) for peer in pair if peer is not None]
    everybody = dict.fromkeys([*both, *mixed])
    return sorted(everybody, key=lambda peer: peer not in trusted)


def chunks_of(bitmap: bytes, count: int) -> frozenset[int]:
    """Returns the chunk indexes in a have-set, those beyond `count` ignored."""
    return frozenset(
        index for index in range(min(count, 8 * len(bitmap))) if bitmap[index >> 3] >> (index & 7) & 1
    )
