"""The chunk planner: only what a source has, twice only at the end, everything while somebody has it, slow
ones let go.
"""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.rules.chunks import (
    LATE_AT_LEAST_S,
    LATE_CHUNKS,
    MAX_REQUEST_CHUNKS,
    MIN_RATED_BYTES,
    UNRATED_LATE_S,
    UNRATED_TURN_S,
    Holdup,
    MeasuredSource,
    chunks_of,
    gives_turn_away,
    look_again_s,
    may_join_turns,
    next_chunks,
    order_sources,
    too_slow,
)

CHUNK = 1 << 20


def source(
    peer: str = "a", have: range = range(100), rate_bytes_per_s: float = 0.0, busy_s: float = 10.0
) -> MeasuredSource:
    return MeasuredSource(
        peer, frozenset(have), int(rate_bytes_per_s * busy_s), busy_s if rate_bytes_per_s else 0.0
    )


@given(
    st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.frozensets(st.integers(0, max(0, n - 1))))),
    st.binary(max_size=3),
)
def test_a_have_set_reads_back_and_nothing_beyond_the_blob_is_believed(
    case: tuple[int, frozenset[int]], tail: bytes
) -> None:
    count, have = case[0], case[1] if case[0] else frozenset[int]()
    bitmap = bytearray(-(-count // 8))
    for index in have:
        bitmap[index >> 3] |= 1 << (index & 7)
    assert chunks_of(bytes(bitmap), count) == have
    assert all(index < count for index in chunks_of(bytes(bitmap) + tail + b"\xff" * 50, count))


@given(
    st.frozensets(st.integers(0, 30)),
    st.lists(st.integers(0, 30), unique=True),
    st.dictionaries(st.integers(0, 30), st.dictionaries(st.sampled_from("abcd"), st.floats(0, 100))),
    st.floats(0, 1e9),
)
def test_what_is_asked_is_missing_is_there_and_others_are_doubled_only_when_one_or_all_are_late(
    have: frozenset[int], missing: list[int], held: dict[int, dict[str, float]], rate_bytes_per_s: float
) -> None:
    in_flight = {
        index: [Holdup(peer, since_s) for peer, since_s in holders.items()] for index, holders in held.items()
    }
    me = MeasuredSource("a", have, int(rate_bytes_per_s * 10), 10.0)
    asked = next_chunks(me, missing, in_flight, CHUNK, 100.0)
    assert len(set(asked)) == len(asked) <= MAX_REQUEST_CHUNKS
    assert set(asked) <= have & set(missing)
    twice = [index for index in asked if in_flight.get(index)]
    if twice:
        assert len(asked) == 1
        assert "a" not in held[twice[0]]
        patience_s = (
            max(LATE_AT_LEAST_S, LATE_CHUNKS * CHUNK / me.rate_bytes_per_s)
            if me.received_bytes >= CHUNK
            else UNRATED_LATE_S
        )
        assert len(held[twice[0]]) == 1 or max(held[twice[0]].values()) < 100.0 - patience_s
        assert all(in_flight.get(index) for index in have & set(missing))
    elif not asked and (again_s := look_again_s(me, missing, in_flight, CHUNK, 100.0)) is not None:
        assert next_chunks(me, missing, in_flight, CHUNK, 100.0 + again_s + 1e-3)


def test_a_fast_source_is_asked_for_more_and_never_without_bound() -> None:
    asked = [
        len(next_chunks(source(rate_bytes_per_s=rate), range(100), {}, CHUNK, 0.0))
        for rate in (0.0, 2e5, 8e6, 1e9, 1e12)
    ]
    assert asked == [2, 1, 3, MAX_REQUEST_CHUNKS, MAX_REQUEST_CHUNKS]


def test_the_chunks_a_slow_source_holds_up_go_to_an_idle_one_at_the_end() -> None:
    fast, slow, other = source("a", rate_bytes_per_s=1e8), Holdup("slow", 9.99), Holdup("other", 9.99)
    assert next_chunks(fast, [7, 8], {7: [slow], 8: [slow]}, CHUNK, 10.0) == [7]
    assert next_chunks(fast, [7, 8], {7: [slow, Holdup("a", 9.0)], 8: [slow]}, CHUNK, 10.0) == [8]
    assert next_chunks(fast, [7], {7: [slow, other]}, CHUNK, 10.0) == []


def test_chunks_that_any_number_of_colluders_hold_up_are_asked_of_an_idle_source_once_they_are_late() -> None:
    fast = source("a", rate_bytes_per_s=CHUNK / 0.1)
    held = {7: [Holdup(f"liar-{number}", 10.0) for number in range(5)]}
    assert next_chunks(fast, [7], held, CHUNK, 10.25) == []
    assert look_again_s(fast, [7], held, CHUNK, 10.25) == pytest.approx(0.05)
    assert next_chunks(fast, [7], held, CHUNK, 10.31) == [7]
    unrated = source("b")
    assert next_chunks(unrated, [7], held, CHUNK, 10.31) == []
    assert next_chunks(unrated, [7], held, CHUNK, 10.0 + UNRATED_LATE_S + 0.1) == [7]


def test_a_source_that_brings_nothing_leaves_its_turn_to_those_that_wait_by_the_rate_of_the_best() -> None:
    fast = [source("b", rate_bytes_per_s=100e6), source("c", rate_bytes_per_s=1e6)]
    assert not gives_turn_away(fast, CHUNK, UNRATED_LATE_S - 0.1)
    assert gives_turn_away(fast, CHUNK, UNRATED_LATE_S + 0.1)
    slow = [source("c", rate_bytes_per_s=CHUNK / 10.0)]  # when all are slow, slow is no reason to go
    assert not gives_turn_away(slow, CHUNK, 290.0)
    assert gives_turn_away(slow, CHUNK, 301.0)
    unrated = [source("d")]  # nor where the first chunks of all are still on their way
    assert not gives_turn_away(unrated, CHUNK, UNRATED_TURN_S - 0.1)
    assert gives_turn_away(unrated, CHUNK, UNRATED_TURN_S + 0.1)


def test_while_nobody_brought_a_chunk_one_more_begins_beside_them() -> None:
    unrated, rated = source("a"), source("b", rate_bytes_per_s=1e6)
    assert not may_join_turns([unrated], CHUNK, 2 * UNRATED_LATE_S - 0.1)
    assert may_join_turns([unrated], CHUNK, 2 * UNRATED_LATE_S + 0.1)
    assert not may_join_turns([unrated, rated], CHUNK, 2 * UNRATED_LATE_S + 0.1)


def test_a_thousand_made_up_names_or_connections_hide_no_honest_source() -> None:
    names, links = [f"name-{number}" for number in range(1000)], [f"link-{number}" for number in range(1000)]
    order = order_sources([*names, "both"], [*links, "both", "good"], {"good"})
    assert order[:2] == ["good", "both"]
    assert len(order) == len(set(order)) == 2002
    assert {peer[:4] for peer in order[2:10]} == {"name", "link"}


def test_a_source_far_below_the_median_is_too_slow_once_it_was_measured() -> None:
    others = [source(peer, rate_bytes_per_s=rate) for peer, rate in (("b", 1e6), ("c", 10e6), ("d", 20e6))]
    assert too_slow(source(rate_bytes_per_s=0.9e6), others)
    assert too_slow(MeasuredSource("a", frozenset(), 0, 6.0), others)
    assert not too_slow(source(rate_bytes_per_s=1.1e6), others)
    assert not too_slow(source(rate_bytes_per_s=0.9e6, busy_s=4.9), others)


@pytest.mark.parametrize(
    "others",
    [[], [MeasuredSource("b", frozenset(), MIN_RATED_BYTES - 1, 0.1)]],
    ids=["alone", "others unmeasured"],
)
def test_a_slow_source_is_kept_when_nobody_is_known_to_be_better(others: list[MeasuredSource]) -> None:
    assert not too_slow(source(rate_bytes_per_s=1.0), others)


class Simulated:
    """Sources that deliver at fixed rates, one request at a time; `dies_after` requests they stop
    answering.
    """

    def __init__(self, count: int, sources: list[tuple[frozenset[int], float, int]]):
        self.missing = list(range(count))
        self.sources = {
            f"peer-{n}": MeasuredSource(f"peer-{n}", have & set(range(count)))
            for n, (have, _, _) in enumerate(sources)
        }
        self.rate = {f"peer-{n}": rate for n, (_, rate, _) in enumerate(sources)}
        self.left = {f"peer-{n}": dies_after for n, (_, _, dies_after) in enumerate(sources)}
        self.in_flight: dict[int, list[Holdup]] = {index: [] for index in range(count)}
        self.delivered = dict.fromkeys(self.sources, 0)
        self.events: list[tuple[float, str, list[int], bool]] = []  # when, who, what, whether it comes

    def run(self) -> None:
        now = 0.0
        self._ask_idle(now)
        while self.events:
            now, peer, asked, comes = heapq.heappop(self.events)
            for index in asked:
                self.in_flight[index] = [holder for holder in self.in_flight[index] if holder.peer != peer]
            if comes:
                self._deliver(peer, asked)
            else:
                del self.sources[peer]
            self._ask_idle(now)

    def _ask_idle(self, now: float) -> None:
        busy = {peer for _, peer, _, _ in self.events}
        for peer in [peer for peer in self.sources if peer not in busy]:
            asked = next_chunks(self.sources[peer], self.missing, self.in_flight, CHUNK, now)
            if not asked:
                continue
            self.left[peer] -= 1
            comes = self.left[peer] >= 0
            for index in asked:
                self.in_flight[index].append(Holdup(peer, now))
            heapq.heappush(
                self.events,
                (now + (len(asked) * CHUNK / self.rate[peer] if comes else 10.0), peer, asked, comes),
            )

    def _deliver(self, peer: str, asked: list[int]) -> None:
        before = self.sources[peer]
        size = len(asked) * CHUNK
        self.sources[peer] = MeasuredSource(
            peer, before.have, before.received_bytes + size, before.busy_s + size / self.rate[peer]
        )
        self.delivered[peer] += len(asked)
        self.missing = [index for index in self.missing if index not in asked]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.lists(
        st.tuples(
            st.frozensets(st.integers(0, 59)),
            st.floats(1e4, 1e9),
            st.one_of(st.just(10**9), st.integers(0, 3)),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_every_chunk_comes_while_a_source_that_lives_has_it(
    count: int, sources: list[tuple[frozenset[int], float, int]]
) -> None:
    world = Simulated(count, sources)
    world.run()
    kept = frozenset[int]().union(*(have for have, _, dies_after in sources if dies_after == 10**9))
    assert not set(world.missing) & kept


def test_sources_share_the_work_by_their_speed_and_little_comes_twice() -> None:
    everything = frozenset(range(200))
    world = Simulated(200, [(everything, 30e6, 10**9), (everything, 10e6, 10**9)])
    world.run()
    fast, slow = world.delivered.values()
    assert not world.missing
    assert fast + slow <= 210
    assert 2 < fast / slow < 4
