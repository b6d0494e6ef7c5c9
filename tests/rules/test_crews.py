"""Crews: places go to those who contributed, a crowd takes none for long, and nobody moves in circles."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.crew_records import CrewSpec
from paris_p2p.identity import Identity
from paris_p2p.rules.crews import (
    CrewMember,
    SlotCrew,
    choose_crew,
    choose_move,
    crew_of,
    is_working,
)
from paris_p2p.rules.placement import SlotState
from tests.rules.made import NOW, PEERS, TIMING
from tests.rules.made_crews import worker

A, B, C, D, E, F = PEERS
CREW = CrewSpec(peers=4)
PATIENCE_S = 600.0


def strangers(count: int) -> list[Identity]:
    return [Identity.from_private_bytes(number.to_bytes(32, "big")) for number in range(1000, 1000 + count)]


def peers_of(workers: list, contributed: set[str], now_s: float = NOW + 10, **more) -> list[str]:
    heard = {one.signer: one.record.joined_at for one in workers} | more.pop("heard", {})
    found = crew_of(workers, contributed, now_s, CREW, TIMING, heard=heard, patience_s=PATIENCE_S, **more)
    return [one.peer for one in found]


def slot(name: str, *members: Identity, clips: int = 100, lead: str = "lead", **more: bool) -> SlotCrew:
    """A crew whose members joined one after another, long ago."""
    joined = tuple(CrewMember(one.peer_id, NOW - 10_000 + at) for at, one in enumerate(members))
    return SlotCrew(SlotState(name, lead, clips, **more), joined)


# who is in it


def test_a_workers_record_holds_as_a_claim_does() -> None:
    made = worker(A)
    assert is_working(made, NOW + TIMING.claim_s, TIMING)
    assert not is_working(made, NOW + TIMING.claim_s + TIMING.margin_s, TIMING)
    assert not is_working(made, NOW - 10, TIMING)
    assert not is_working(worker(A, released=True), NOW, TIMING)
    assert not is_working(worker(A, expires_at=NOW + 2 * TIMING.claim_s), NOW, TIMING)
    assert not is_working(worker(A, joined_at=NOW + 1, issued_at=NOW), NOW, TIMING)


def test_a_crew_has_no_more_peers_than_the_run_says_its_lead_among_them() -> None:
    workers = [worker(one) for one in (A, B, C, D, E)]
    assert len(peers_of(workers, set())) == CREW.peers - 1
    assert A.peer_id not in peers_of(workers, set(), lead=A.peer_id)


def test_who_contributed_comes_before_a_crowd_that_came_first() -> None:
    crowd = [worker(one, joined_at=NOW - 100, issued_at=NOW) for one in strangers(50)]
    honest = [worker(A), worker(B, joined_at=NOW + 1)]
    assert peers_of([*crowd, *honest], {A.peer_id, B.peer_id})[:2] == [A.peer_id, B.peer_id]


def test_a_crowd_that_brings_nothing_loses_its_places_to_who_comes_after_a_patience() -> None:
    long_s, many = NOW + PATIENCE_S + 100, strangers(50)
    crowd = [worker(one) for one in many]
    assert A.peer_id not in peers_of([*crowd, worker(A, joined_at=NOW + 9)], set())
    renewed = [worker(one, joined_at=NOW, issued_at=long_s) for one in many]
    assert peers_of([*renewed, worker(A, joined_at=long_s)], set(), long_s + 1)[0] == A.peer_id


def test_a_crowd_that_brings_nothing_takes_no_place_from_who_would_join() -> None:
    long_s = NOW + PATIENCE_S + 100
    crowd = [worker(one, joined_at=NOW, issued_at=long_s) for one in strangers(50)]
    heard = {one.signer: NOW for one in crowd}
    found = crew_of(crowd, (), long_s, CREW, TIMING, heard=heard, patience_s=PATIENCE_S)
    assert all(one.is_idle for one in found)
    full = SlotCrew(SlotState("expert-0", "lead", 100), found)
    assert choose_crew([full], A.peer_id, CREW) is not None
    names = {one.peer for one in found}
    working = crew_of(crowd, names, long_s, CREW, TIMING, heard=heard, patience_s=PATIENCE_S)
    assert not any(one.is_idle for one in working)
    assert choose_crew([SlotCrew(full.state, working)], A.peer_id, CREW) is None


def test_nobody_gains_by_saying_that_it_joined_before_it_was_heard() -> None:
    liar, honest = (
        worker(A, joined_at=NOW - 9000, issued_at=NOW),
        worker(B, joined_at=NOW - 60, issued_at=NOW),
    )
    assert peers_of([liar, honest], set(), heard={A.peer_id: NOW}) == [B.peer_id, A.peer_id]


@given(st.permutations(list(PEERS)), st.sets(st.sampled_from([one.peer_id for one in PEERS])))
def test_the_order_in_which_records_came_does_not_matter(order: list[Identity], good: set[str]) -> None:
    assert peers_of([worker(one) for one in order], good) == peers_of([worker(one) for one in PEERS], good)


# who joins


def test_a_free_peer_joins_the_smallest_crew_that_has_a_place() -> None:
    slots = [slot("expert-0", A, B, clips=10), slot("expert-1", C, clips=900), slot("router", D, E, F)]
    choice = choose_crew(slots, A.peer_id, CREW)
    assert choice is not None
    assert choice.slot == "expert-1"
    full = [slot("router", D, E, F)]
    assert choose_crew(full, A.peer_id, CREW) is None


@pytest.mark.parametrize("more", [{"done": True}, {"rests": True}, {"fits": False}])
def test_nobody_joins_a_crew_that_has_nothing_to_do_or_is_too_large_for_it(more: dict[str, bool]) -> None:
    assert choose_crew([slot("expert-0", **more)], A.peer_id, CREW) is None


def test_nobody_joins_a_slot_without_a_lead() -> None:
    assert choose_crew([slot("expert-0", B, lead="")], A.peer_id, CREW) is None


def test_of_crews_of_one_size_the_least_trained_is_joined_and_a_crowd_is_spread_over_similar_ones() -> None:
    slots = [slot("expert-0", clips=100), slot("expert-1", clips=95), slot("expert-2", clips=500)]
    chosen = {choice.slot for one in strangers(40) if (choice := choose_crew(slots, one.peer_id, CREW))}
    assert chosen == {"expert-0", "expert-1"}


def test_a_slot_that_a_person_names_is_joined_or_none() -> None:
    slots = [slot("expert-0", A), slot("expert-1")]
    choice = choose_crew(slots, B.peer_id, CREW, only="expert-0")
    assert choice is not None
    assert choice.slot == "expert-0"
    assert choose_crew([slot("router", D, E, F)], B.peer_id, CREW, only="router") is None


# who moves


def movers(slots: list[SlotCrew], now_s: float = NOW) -> dict[str, str]:
    every = [member.peer for one in slots for member in one.members]
    moves = {peer: choose_move(slots, peer, now_s, CREW, PATIENCE_S) for peer in every}
    return {peer: move.slot for peer, move in moves.items() if move is not None}


def test_the_newest_of_the_fullest_crew_moves_to_one_that_is_smaller_by_two_and_nobody_else() -> None:
    slots = [slot("expert-0", A, B, C), slot("expert-1", D), slot("expert-2", E, F)]
    assert movers(slots) == {C.peer_id: "expert-1"}
    assert movers([slot("expert-0", A, B), slot("expert-1", D)]) == {}


def test_of_two_fullest_crews_one_gives_a_peer() -> None:
    slots = [slot("expert-0", A, B, clips=50), slot("expert-1", C, D, clips=90), slot("expert-2")]
    assert movers(slots) == {D.peer_id: "expert-2"}


def test_nobody_moves_within_a_patience_of_joining() -> None:
    crowded = slot("expert-0", A, B, C)
    new = replace(crowded.members[-1], since_s=NOW - PATIENCE_S + 1)
    slots = [replace(crowded, members=(*crowded.members[:-1], new)), slot("expert-1")]
    assert movers(slots) == {}
    assert movers(slots, NOW + 2) == {C.peer_id: "expert-1"}


def test_a_worker_goes_to_a_slot_that_nobody_leads_or_works_on_and_not_to_one_with_workers() -> None:
    assert movers([slot("expert-0", A), slot("expert-1", lead="")]) == {A.peer_id: "expert-1"}
    assert movers([slot("expert-0", A, B, C), slot("expert-1", D, lead="")]) == {}


def test_workers_of_a_slot_without_a_lead_stay_to_lead_it() -> None:
    assert movers([slot("expert-0", A, B, C, lead=""), slot("expert-1")]) == {}


@given(st.lists(st.integers(0, 3), min_size=2, max_size=5))
def test_moves_end_and_leave_no_crew_fuller_by_two_than_another(sizes: list[int]) -> None:
    many = strangers(sum(sizes))
    slots = []
    for number, size in enumerate(sizes):
        slots.append(slot(f"expert-{number}", *(many.pop() for _ in range(size)), clips=100 + number))
    for step in range(40):
        now_s = NOW + 1e6 * (step + 1)
        moves = movers(slots, now_s)
        if not moves:
            break
        assert len(moves) == 1
        ((peer, to),) = moves.items()
        moved = CrewMember(peer, now_s)
        slots = [
            replace(
                one,
                members=tuple(member for member in one.members if member.peer != peer)
                + ((moved,) if one.state.slot == to else ()),
            )
            for one in slots
        ]
    else:
        pytest.fail("they never end")
    found = [one.size for one in slots]
    assert max(found) - min(found) <= 1
    assert sum(found) == sum(sizes) + len(sizes)
