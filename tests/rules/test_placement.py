"""Placement: the weakest free slot, spread over a crowd, said in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.identity import Identity
from paris_p2p.rules.placement import (
    SlotState,
    card_cadence_s,
    checkpoint_interval_s,
    choose_slot,
    turns_before,
    why_none,
)

ME = Identity.from_private_bytes(b"m" * 32).peer_id
slot_states = st.lists(
    st.builds(
        SlotState,
        st.just(""),
        st.sampled_from(["", "someone"]),
        st.integers(0, 10**6),
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
).map(lambda slots: [SlotState(f"expert-{k}", s.lead, s.clips, s.done, s.fits) for k, s in enumerate(slots)])


@given(slot_states)
def test_the_choice_is_free_fits_is_not_done_and_is_among_the_least_trained(slots: list[SlotState]) -> None:
    free = [slot for slot in slots if not slot.lead and not slot.done and slot.fits]
    choice = choose_slot(slots, ME)
    if choice is None:
        assert not free
        return
    chosen = next(slot for slot in free if slot.slot == choice.slot)
    assert 0.75 * chosen.clips <= min(slot.clips for slot in free)
    assert 0 <= choice.delay < 1


@given(slot_states, st.randoms(use_true_random=False))
def test_the_order_of_slots_does_not_matter(slots: list[SlotState], rng: object) -> None:
    shuffled = list(slots)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose_slot(slots, ME) == choose_slot(shuffled, ME)


def test_a_crowd_spreads_over_the_slots_and_over_time() -> None:
    slots = [SlotState(f"expert-{k}") for k in range(4)]
    peers = [Identity.from_private_bytes(bytes([k]) * 32).peer_id for k in range(1, 60)]
    choices = [choice for peer in peers if (choice := choose_slot(slots, peer)) is not None]
    assert {choice.slot for choice in choices} == {slot.slot for slot in slots}
    assert len({choice.delay for choice in choices}) == len(peers)


def test_a_slot_chosen_by_hand_is_the_only_one_considered() -> None:
    slots = [SlotState("expert-0"), SlotState("router", clips=50)]
    choice = choose_slot(slots, ME, only="router")
    assert choice is not None
    assert choice.slot == "router"
    assert "by hand" in choice.why
    assert choose_slot([SlotState("router", lead="x")], ME, only="router") is None


def test_the_reason_says_how_weak_the_slot_is() -> None:
    choice = choose_slot([SlotState("expert-0", clips=2000), SlotState("expert-1", clips=1000)], ME)
    assert choice is not None
    assert choice.why == "the least trained of 2 slots without a lead (1,000 clips so far)"


def test_a_peer_moves_only_to_a_slot_that_is_clearly_weaker() -> None:
    mine = SlotState("expert-0", lead=ME, clips=1000)
    assert choose_slot([mine, SlotState("expert-1", clips=750)], ME, holding="expert-0") is None
    choice = choose_slot([mine, SlotState("expert-1", clips=749)], ME, holding="expert-0")
    assert choice is not None
    assert choice.slot == "expert-1"


def test_one_lead_after_the_other_goes_to_a_free_slot_the_most_trained_first() -> None:
    led = [SlotState(f"expert-{k}", lead="x", clips=1000 * k) for k in range(1, 4)]
    free = SlotState("expert-0")
    assert [turns_before([*led, free], slot.slot) for slot in led] == [2, 1, 0]
    two_free = [*led, free, SlotState("expert-4")]
    assert [turns_before(two_free, slot.slot) for slot in led] == [1, 0, 0]
    even = [SlotState("a", lead="x", clips=9), SlotState("b", lead="y", clips=9), free]
    assert [turns_before(even, slot) for slot in ("a", "b")] == [0, 1]


@given(slot_states)
def test_of_leads_that_would_go_to_one_free_slot_no_two_go_at_once(slots: list[SlotState]) -> None:
    led = [slot for slot in slots if slot.lead and not slot.done]
    slots = [*led, SlotState("router", clips=10)]
    goers = [slot.slot for slot in led if choose_slot(slots, ME, holding=slot.slot) is not None]
    turns = [turns_before(slots, slot) for slot in goers]
    assert len(set(turns)) == len(turns)
    assert not turns or min(turns) == 0


def test_uploading_takes_at_most_a_third_of_the_time() -> None:
    assert checkpoint_interval_s(600.0, 10.0) == 600.0
    assert checkpoint_interval_s(600.0, 400.0) == 1200.0


@given(st.floats(1, 3600), st.floats(0, 7200))
def test_a_death_just_before_an_attestation_costs_at_most_one_interval(
    configured_s: float, upload_s: float
) -> None:
    interval_s = checkpoint_interval_s(configured_s, upload_s)
    assert card_cadence_s(configured_s, upload_s) + upload_s <= interval_s * (1 + 1e-9)
    assert card_cadence_s(configured_s, upload_s) >= interval_s * 2 / 3 * (1 - 1e-9)


def test_a_slot_that_the_owner_took_out_is_said_to_be_gone() -> None:
    assert why_none([SlotState("expert-0"), SlotState("router")], "expert-1") == (
        "the run has no slot expert-1 any more"
    )
