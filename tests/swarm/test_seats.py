"""Seats: who is let in when all are taken, as a pure rule, and what the streams of a peer may hold."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.swarm import seats as seats_module
from paris_p2p.swarm.limits import piece_of
from paris_p2p.swarm.seats import (
    MAX_BULK_STREAMS,
    MAX_IDLE_STREAMS,
    MAX_STREAMS,
    MAX_STREAMS_PER_PEER,
    STUCK_S,
    TURN_S,
    Seat,
    Seats,
    bulk_streams,
    group_of,
    who_leaves,
)


def seat(
    peer: str, *, known: bool = False, since_s: float = 0.0, moved_s: float = 100.0, group: str = ""
) -> Seat:
    ended.pop(peer, None)
    return Seat(peer, group or peer, known, lambda: ended.update([peer]), since_s, moved_s)


ended: Counter[str] = Counter()


def test_an_asker_that_takes_nothing_goes_first_and_the_longest_stuck_of_them() -> None:
    stuck, longer = seat("a", moved_s=100 - STUCK_S - 1), seat("b", moved_s=100 - STUCK_S - 2)
    assert who_leaves([seat("c"), stuck, longer], seat("new"), {"c": 1e9}, 100.0) is longer
    assert who_leaves([seat("c"), longer], seat("c"), {}, 100.0) is longer


def test_whoever_holds_most_gives_one_up_also_under_many_names_of_one_network() -> None:
    crowd = [seat(f"id-{number}", since_s=99.0, group="203.0.113.0/24") for number in range(5)]
    held = [*crowd, seat("other", since_s=99.0)]
    assert who_leaves(held, seat("new"), {}, 100.0) in crowd
    assert who_leaves(held, seat("id-9", group="203.0.113.0/24"), {}, 100.0) is None


def test_a_known_peer_is_let_in_before_strangers_and_never_put_out_for_one() -> None:
    known = [seat(f"known-{number}", known=True) for number in range(3)]
    stranger = seat("stranger")
    assert who_leaves([*known, stranger], seat("member", known=True), {}, 100.0) is stranger
    assert (
        who_leaves(known, seat("stranger"), dict.fromkeys(("known-0", "known-1", "known-2"), 1e9), 100.0)
        is None
    )


def test_of_strangers_alike_the_one_who_was_served_most_makes_place_after_its_turn() -> None:
    rich, poor = seat("rich", since_s=100 - TURN_S - 1), seat("poor", since_s=100 - TURN_S - 1)
    served = {"rich": 50e6, "poor": 1e6}
    assert who_leaves([rich, poor], seat("new"), served, 100.0) is rich
    assert who_leaves([rich, poor], seat("rich-too"), {**served, "rich-too": 60e6}, 100.0) is None
    early = seat("rich", since_s=99.0)
    assert who_leaves([early, poor], seat("new"), served, 100.0) is None


def test_short_answers_have_places_that_chunks_cannot_take() -> None:
    room, now_s = Seats(), 100.0
    for number in range(2 * MAX_STREAMS):
        one = seat(f"peer-{number}")
        room.enter(one, now_s)
        room.begin(one, now_s, bulk=True)
    assert len(room.busy) == MAX_BULK_STREAMS
    short = seat("short")
    room.enter(short, now_s)
    assert room.begin(short, now_s, bulk=False)
    assert short in room.busy
    room.rest(short, now_s)
    assert short in room.idle
    assert short not in room.busy


def test_what_a_peer_was_served_is_forgotten_with_time() -> None:
    room = Seats()
    room.note(seat("a"), 8 << 20, 0.0)
    assert room._served_bytes("a", 0.0) == 8 << 20
    assert room._served_bytes("a", 60.0) == 4 << 20


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["enter", "short", "bulk", "rest", "leave"])),
        max_size=400,
    )
)
def test_whatever_comes_no_bound_is_passed_and_every_stream_is_in_one_place_or_ended(
    steps: list[tuple[int, str]],
) -> None:
    room, streams, over = Seats(), list[Seat](), list[Seat]()
    for now, (peer, step) in enumerate(steps):
        now_s = now / 10
        if step == "enter":
            one = Seat(f"peer-{peer}", f"peer-{peer}", peer % 5 == 0, lambda: None)
            one.end = lambda one=one: over.append(one)  # type: ignore[misc]
            streams.append(one)
            room.enter(one, now_s)
            continue
        here = [one for one in (*room.idle, *room.busy) if one.peer == f"peer-{peer}"]
        if here and step in ("short", "bulk"):
            room.begin(here[0], now_s, bulk=step == "bulk")
        elif here and step == "rest":
            room.rest(here[-1], now_s)
        elif here:
            room.leave(here[-1])
            over.append(here[-1])
        assert len(room.idle) <= MAX_IDLE_STREAMS
        assert sum(one.bulk for one in room.busy) <= MAX_BULK_STREAMS
        assert max(Counter(one.peer for one in room.busy).values(), default=0) <= MAX_STREAMS_PER_PEER
    places = [*room.idle, *room.busy, *over]
    assert len(places) == len(set(places)) == len(streams)


def test_a_network_of_addresses_counts_as_one_and_what_says_nothing_counts_as_the_peer() -> None:
    assert (
        group_of("p", "/ip4/8.8.4.77/tcp/4001") == group_of("q", "/ip4/8.8.4.9/udp/1/quic-v1") == "8.8.4.0/24"
    )
    assert group_of("p", "/ip6/2606:4700:1:2::3/tcp/1") == "2606:4700:1::/48"
    for address in (
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/192.168.1.5/tcp/1",
        "",
        "/dns/x/tcp/1",
        "/ip4/8.8.8.8/tcp/1/p2p/x/p2p-circuit",
    ):
        assert group_of("p", address) == "p"


def test_a_small_upload_limit_feeds_few_streams_with_small_pieces_and_none_is_silent_for_long() -> None:
    for limit_bytes_per_s in (1e3, 20e3, 100e3, 1e6, 20e6, 1e9):
        streams, piece = bulk_streams(limit_bytes_per_s), piece_of(limit_bytes_per_s)
        assert 4 <= streams <= MAX_BULK_STREAMS
        if limit_bytes_per_s >= 20e3:
            assert (
                streams * piece / limit_bytes_per_s < seats_module.TURN_S + 5
            )  # between two pieces of one stream
    assert bulk_streams(0) == MAX_BULK_STREAMS


def test_streams_that_rest_after_their_answers_count_among_the_idle_ones() -> None:
    seats, answered = Seats(), [seat("a") for _ in range(MAX_STREAMS_PER_PEER)]
    for one in answered:
        seats.enter(one, 1.0)
        assert seats.begin(one, 1.0, bulk=False)
    for _ in range(seats_module.MAX_IDLE_STREAMS_PER_PEER):
        seats.enter(seat("a"), 2.0)
    for one in answered:
        seats.rest(one, 3.0)
    assert len(seats.idle) == seats_module.MAX_IDLE_STREAMS_PER_PEER
    assert all(one in seats.idle for one in answered)  # the longest idle ones went
