"""Tests what a RunSpec becomes by notices that let a run grow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.bare_run import bare_run, router_of
from paris_p2p.family import ancestors, parent_of, parents_from, silent_experts
from paris_p2p.owner_records import AddExpert, AnyChange, DropExpert, Extend, Pause
from paris_p2p.rules.growth import grown, why_not
from paris_p2p.spec import LatentShape, RunSpec, ShardRef, TextShape
from tests.made.made_growth import Split, blob, both, part

LATENT, TEXT = LatentShape(channels=4, frames=2, height=4, width=4), TextShape(tokens=5, dim=8, pooled_dim=6)


def a_run(experts: int = 2, **more: Any) -> RunSpec:
    def shards(split: str) -> tuple[ShardRef, ...]:
        return tuple(ShardRef(blob=blob(f"{split} {k}"), clips=8, cluster=k) for k in range(experts))

    return bare_run(
        LATENT,
        TEXT,
        experts=experts,
        router=router_of("nano", LATENT, TEXT, experts),
        train_shards=shards("train"),
        gate_shards=shards("gate"),
        **more,
    )


def clusters(spec: RunSpec, split: Split) -> list[int]:
    return [shard.cluster for shard in (spec.train_shards if split == "train" else spec.gate_shards)]


def test_a_split_takes_effect_once_all_its_parts_are_there_and_not_before() -> None:
    spec, changes = a_run(), both(1, 2)
    for count in range(len(changes)):
        assert grown(spec, changes[:count]) == spec
    after = grown(spec, changes)
    assert after.slots == ("expert-0", "expert-1", "expert-2", "router")
    assert after.router.config["experts"] == after.experts == 3
    assert clusters(after, "train") == clusters(after, "gate") == [0, 1, 2]
    assert blob("train 1") not in after.data_blobs  # the parent's old shards are out
    assert parent_of(after, "expert-2") == "expert-1"
    assert [parent_of(after, slot) for slot in ("expert-0", "expert-1", "router")] == ["", "", ""]


def test_a_child_may_be_split_in_turn_and_its_ancestors_are_told_in_order() -> None:
    after = grown(a_run(), [*both(1, 2, "a"), *both(2, 3, "b")])
    assert list(ancestors(after, "expert-3")) == ["expert-2", "expert-1"]
    assert [parents_from(after, experts) for experts in (0, 2, 3, 4)] == [(), (1, 2), (2,), ()]


def test_a_child_of_an_expert_that_predicts_noise_predicts_noise() -> None:
    spec = a_run()
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"ddpm_experts": (1,)})})
    assert grown(spec, both(1, 2)).training.ddpm_experts == (1, 2)
    assert grown(spec, both(0, 2)).training.ddpm_experts == (1,)


def test_other_acts_between_the_parts_disturb_nothing() -> None:
    expert, train, gate = both(0, 2)
    assert grown(a_run(), [expert, Pause(), train, Extend(total_steps=9), gate]) == grown(a_run(), both(0, 2))


def test_another_growth_before_the_last_part_gives_a_split_up() -> None:
    expert, train, _ = both(1, 2, "given up")
    assert grown(a_run(), [expert, train, *both(0, 2)]) == grown(a_run(), both(0, 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            AddExpert(parent=2, child=2, parts=1),
            "there is no expert-2 to split; the run has expert-0, expert-1",
        ),
        (AddExpert(parent=0, child=1, parts=1), "the next expert is expert-2, not expert-1"),
        (AddExpert(parent=0, child=3, parts=1), "the next expert is expert-2, not expert-3"),
        (DropExpert(expert=7, parts=1), "there is no expert-7"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing_nor_do_its_parts(
    change: AddExpert | DropExpert, words: str
) -> None:
    spec = a_run()
    assert words in why_not(spec, change)
    assert grown(spec, [change, part(("train", 0), ("gate", 0))]) == spec


def test_a_half_without_gate_clips_is_no_expert() -> None:
    spec = a_run()
    halves = part(("train", 1), ("train", 2), ("gate", 1))
    assert grown(spec, [AddExpert(parent=1, child=2, parts=1), halves]) == spec


def test_a_dropped_expert_is_out_at_once_and_its_clips_go_once_all_parts_are_there() -> None:
    spec = a_run(3)
    drop, train, gate = DropExpert(expert=1, parts=2), part(("train", 0), ("train", 2)), part(("gate", 0))
    at_once = grown(spec, [drop])
    assert at_once.slots == ("expert-0", "expert-2", "router")
    assert at_once.train_shards == spec.train_shards
    assert silent_experts(at_once) == ()  # clips are labelled with it yet
    assert grown(spec, [drop, train]) == at_once
    after = grown(spec, [drop, train, gate])
    assert clusters(after, "train") == [0, 2, 0, 2]
    assert clusters(after, "gate") == [0, 2, 0]
    assert silent_experts(after) == (1,)
    assert after.experts == after.router.config["experts"] == 3


def test_a_dropped_experts_number_is_not_used_again() -> None:
    after = grown(a_run(3), [DropExpert(expert=2), *both(0, 3)])
    assert after.slots == ("expert-0", "expert-1", "expert-3", "router")
    assert "the next expert is expert-4" in why_not(after, AddExpert(parent=0, child=2, parts=1))
    assert "no expert-2 to split" in why_not(after, AddExpert(parent=2, child=4, parts=1))


def test_the_last_expert_cannot_be_dropped() -> None:
    spec = a_run()
    one = grown(spec, [DropExpert(expert=0)])
    assert why_not(one, DropExpert(expert=1)) == "expert-1 is the only one left"
    assert grown(spec, [DropExpert(expert=0), DropExpert(expert=1)]) == one


def test_clips_for_an_expert_that_is_not_there_are_left_out_and_none_come_twice() -> None:
    spec = a_run()
    more = part(("train", 0))
    assert clusters(grown(spec, [more, more]), "train") == [0, 1, 0]
    assert grown(spec, [part(("train", 5))]) == spec
    dropped = grown(spec, [DropExpert(expert=1)])
    assert grown(spec, [DropExpert(expert=1), part(("train", 1))]) == dropped


Changes = st.lists(
    st.one_of(
        st.builds(AddExpert, parent=st.integers(0, 4), child=st.integers(1, 5), parts=st.integers(1, 2)),
        st.builds(DropExpert, expert=st.integers(0, 5), parts=st.integers(0, 2)),
        st.builds(
            part,
            st.tuples(st.just("train"), st.integers(0, 5)),
            st.tuples(st.just("gate"), st.integers(0, 5)),
            st.tuples(st.just("train"), st.integers(0, 5)),
            st.tuples(st.just("gate"), st.integers(0, 5)),
            name=st.text("abcdef", min_size=3, max_size=3),
        ),
    ),
    max_size=12,
)


@given(Changes)
def test_whatever_an_owner_says_a_run_stays_one_that_can_be_trained(changes: list[AnyChange]) -> None:
    spec = grown(a_run(), changes)
    RunSpec.model_validate(spec.model_dump())  # no cluster without a number
    assert spec.router.config["experts"] == spec.experts == 2 + len(spec.parents)
    assert all(parent < 2 + i for i, parent in enumerate(spec.parents))
    assert len(spec.slots) >= 2
    for slot in spec.slots:
        assert spec.shards_for(slot, "train")
        assert spec.shards_for(slot, "gate")
    before = grown(a_run(), changes[:-1])
    assert before.experts <= spec.experts  # numbers only go up
    assert set(before.dropped_experts) <= set(spec.dropped_experts)
