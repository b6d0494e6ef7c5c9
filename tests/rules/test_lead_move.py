"""What a leadership does when the owner speaks: go on, start again, end with a checkpoint, or drop all."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.owner_records import (
    AddClips,
    AddedShard,
    Admit,
    AnyChange,
    End,
    Extend,
    Pause,
    Resume,
    Revoke,
    RevokeCard,
)
from paris_p2p.records import BlobRef
from paris_p2p.rules.lead_move import Footing, LeadMove, lead_move, taken_back_by
from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.standing import standing

from .made import A, B
from .made_notices import chain_of, made_run, state_of

RUN = made_run()
ME, SLOT, OTHER = A.peer_id, "expert-0", "expert-1"
FOOTING = Footing(SLOT, epoch=3, notices=0, places=frozenset({(2, 6), (3, 7)}))


def added(cluster: int) -> AddClips:
    shard = AddedShard(split="train", cluster=cluster, blob=BlobRef(id="77" * 32, size_bytes=5), clips=2)
    return AddClips(shards=(shard,))


def taken_back(place: int, floor: int, slot: str = SLOT) -> RevokeCard:
    return RevokeCard(slot=slot, card="cd" * 32, place=place, floor=floor)


def move(footing: Footing, *changes: AnyChange) -> LeadMove:
    state = state_of(RUN, *changes)
    return lead_move(state, footing, standing(state, ME))


def test_nothing_said_and_what_changes_no_training_lets_a_lead_go_on() -> None:
    assert move(FOOTING).action == "go on"
    said = (Admit(peer=B.peer_id, rights=("train",)), Pause(), Resume(), Revoke(peer=B.peer_id))
    assert move(FOOTING, *said).action == "go on"
    assert move(FOOTING, Extend(tolerance=0.5)).action == "go on"  # the gate's alone


def test_a_lead_starts_again_for_numbers_and_clips_of_its_own_slot_once() -> None:
    for change in (Extend(total_steps=99), Extend(decay_steps=5), Extend(checkpoint_s=7.0), added(0)):
        assert move(FOOTING, change).action == "renew"
        assert move(Footing(SLOT, 3, notices=1), change).action == "go on"  # its trainer knows that
    assert move(FOOTING, added(1)).action == "go on"  # another cluster's
    assert move(Footing("router", 3, notices=0), added(1)).action == "renew"  # the router learns from all


def test_a_lead_whose_base_or_claim_was_taken_back_drops_everything() -> None:
    for back in (taken_back(7, 4), taken_back(6, 3), taken_back(99, 4)):
        found = move(FOOTING, back)
        assert found.action == "abandon"
        assert "notice 1" in found.why
    assert move(FOOTING, taken_back(7, 4, slot=OTHER)).action == "go on"
    assert move(FOOTING, taken_back(8, 3)).action == "go on"  # it neither stands there nor lies below


def test_a_pause_ends_with_a_checkpoint_but_what_was_taken_back_never_goes_out() -> None:
    assert move(FOOTING, Pause(reason="night")).action == "end"
    assert move(FOOTING, Pause(), taken_back(7, 4)).action == "abandon"
    assert move(FOOTING, End()).action == "abandon"
    assert move(FOOTING, Revoke(peer=ME)).action == "abandon"


def test_a_contradiction_of_the_owner_stops_a_lead_without_a_word_to_others() -> None:
    one, other = chain_of(RUN.id, [Pause()])[0], chain_of(RUN.id, [End()])[0]
    state = state_of(RUN)
    assert lead_move(state, FOOTING, standing(state, ME, (one, other))).action == "abandon"


places = st.frozensets(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=4)
floors = st.lists(st.builds(taken_back, st.integers(1, 9), st.integers(1, 9)), max_size=4)


@settings(max_examples=80, deadline=None)
@given(places, st.integers(1, 9), floors)
def test_what_a_lead_drops_is_what_counts_no_more_on_every_board(
    stands_on: frozenset[tuple[int, int]], epoch: int, changes: list[RevokeCard]
) -> None:
    state: RunState = state_of(RUN, *changes)
    floor = state.floor_epoch(SLOT)
    void = any(one.voids(*place) for one in state.floors.get(SLOT, ()) for place in stands_on)
    assert (taken_back_by(state, SLOT, epoch, stands_on) is not None) == (void or epoch < floor)
