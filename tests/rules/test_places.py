"""A bootstrap node's places: junk keeps no honest run out, however early it came."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.rules.places import (
    _IDLE_S,
    _IDLE_WITH_TIP_S,
    MAX_OF_NETWORK,
    MAX_OF_OWNER,
    MAX_OF_PEER,
    MAX_RUNS,
    RunPlace,
    idle,
    idle_in_s,
    leaves_for,
    refusal,
)

HONEST = RunPlace("honest", "owner", "honest peer", "2.2.2.2", 0.0)


def admit(places: list[RunPlace], new: RunPlace) -> bool:
    """As a bootstrap node does."""
    if refusal(places, new):
        return False
    leaving = leaves_for(places, new)
    places[:] = [place for place in places if place.run != leaving]
    places.append(new)
    return True


def junk(count: int, *, peers: int = 1, network: str = "6.6.6.6", first: int = 0) -> list[RunPlace]:
    """Runs of made-up owners, brought by so many made-up peers of one address."""
    numbers = range(first, first + count)
    return [
        RunPlace(f"junk {network} {n}", f"owner {network} {n}", f"peer {network} {n % peers}", network, 0.0)
        for n in numbers
    ]


def test_one_peer_or_one_owner_has_its_quota_and_no_more() -> None:
    places: list[RunPlace] = []
    assert sum(admit(places, run) for run in junk(100)) == MAX_OF_PEER
    assert admit(places, HONEST)
    places.clear()
    of_one = [replace(run, owner="same") for run in junk(100, peers=100)]
    assert sum(admit(places, run) for run in of_one) == MAX_OF_OWNER


def test_many_peers_of_one_address_have_the_quota_of_an_address() -> None:
    places: list[RunPlace] = []
    for run in junk(1000, peers=1000):
        admit(places, run)
    assert len(places) == MAX_OF_NETWORK
    assert admit(places, HONEST)


def test_an_honest_run_gets_a_place_of_a_full_house_and_junk_does_not_get_it_back() -> None:
    places: list[RunPlace] = []
    for network in ("6.6.6.6", "7.7.7.7", "8.8.8.8"):
        for run in junk(200, peers=200, network=network):
            admit(places, run)
    assert len(places) == MAX_RUNS
    assert admit(places, HONEST)
    assert len(places) == MAX_RUNS
    for network in ("6.6.6.6", "7.7.7.7", "8.8.8.8"):
        for run in junk(200, peers=200, network=network, first=200):
            admit(places, run)
    assert HONEST in places


def test_at_the_junks_own_address_a_peer_with_less_takes_from_the_one_with_most() -> None:
    places: list[RunPlace] = []
    for run in junk(40, peers=3):
        admit(places, run)
    neighbour = replace(HONEST, network="6.6.6.6")
    assert admit(places, neighbour)
    for run in junk(40, peers=3, first=40):
        admit(places, run)
    assert neighbour in places


def test_of_whoever_has_most_the_run_without_checkpoint_that_was_quiet_longest_leaves() -> None:
    places = [
        replace(run, tips=number % 2, heard_s=float(number % 5))
        for number, run in enumerate(junk(MAX_RUNS, peers=2, network="6.6.6.6"))
    ]
    leaving = leaves_for(places, HONEST)
    [left] = [place for place in places if place.run == leaving]
    assert (left.tips, left.heard_s) == (0, 0.0)


def test_runs_the_operator_named_keep_their_places_and_get_one_past_every_quota() -> None:
    named = [replace(run, peer="", network="") for run in junk(MAX_RUNS)]
    places: list[RunPlace] = []
    assert all(admit(places, run) for run in named)
    assert not admit(places, HONEST)
    assert idle(places, 1e9) == []
    full = junk(MAX_RUNS, peers=MAX_RUNS)
    assert admit(full, named[0])


def test_a_quiet_run_loses_its_place_later_when_it_has_a_checkpoint() -> None:
    fresh, old = replace(HONEST, heard_s=1000.0), replace(HONEST, run="old", tips=1)
    assert idle([fresh, old], 1000.0 + _IDLE_S) == []
    assert idle([fresh, old], 1001.0 + _IDLE_S) == ["honest"]
    assert idle([fresh, old], 1001.0 + _IDLE_WITH_TIP_S) == ["honest", "old"]


_PLACES = st.builds(
    RunPlace,
    run=st.uuids().map(str),
    owner=st.sampled_from("abcdefgh"),
    peer=st.sampled_from(["", *"pqrstuvw"]),
    network=st.sampled_from(["1", "2", "3", "4"]),
    heard_s=st.floats(0, 1e6),
    tips=st.integers(0, 3),
)


@given(st.lists(_PLACES, max_size=20), st.floats(0, 3e6))
def test_who_waits_until_a_run_may_be_idle_misses_none_and_never_waits_for_nothing(
    places: list[RunPlace], now_s: float
) -> None:
    wait_s = idle_in_s(places, now_s)
    if wait_s is None:
        assert idle(places, 1e12) == []
    else:
        assert wait_s >= 1.0
        assert wait_s == 1.0 or idle(places, now_s + wait_s - 0.5) == []
        assert idle(places, now_s + wait_s + 0.5)


@given(st.lists(_PLACES, max_size=300))
def test_whatever_comes_there_are_never_more_than_the_places_and_no_named_run_leaves(
    new: list[RunPlace],
) -> None:
    places: list[RunPlace] = []
    for place in new:
        named = {held.run for held in places if not held.peer}
        admit(places, place)
        assert len(places) <= MAX_RUNS
        assert named <= {held.run for held in places}


def test_a_run_that_its_owner_ended_leaves_when_the_operator_says_whatever_is_heard_of_it() -> None:
    ended = replace(HONEST, heard_s=100.0, tips=3, forgotten_from_s=200.0)
    busy = replace(HONEST, run="busy", heard_s=100.0, tips=3)
    assert idle([ended, busy], 199.0) == []
    assert idle([ended, busy], 200.0) == ["honest"]
    assert idle_in_s([ended, busy], 150.0) == 50.0
    assert ended.is_over(200.0)
    assert not busy.is_over(1e12)
    at_once = replace(ended, forgotten_from_s=100.0)
    assert idle([at_once], 100.0) == ["honest"]


def test_a_run_that_the_operator_named_stays_also_after_its_end() -> None:
    named = replace(HONEST, peer="", forgotten_from_s=0.0)
    assert idle([named], 1e12) == []
    assert not named.is_over(1e12)
