from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.data.splits import (
    SplitOptions,
    assign_splits,
    can_split,
    check_enough,
    experts_for,
    give_gate_clips,
    rank_groups,
    wanted_clips,
)
from paris_p2p.errors import DataError


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 5), min_size=80, max_size=120),
    st.integers(0, 10),
)
def test_every_source_is_in_one_split_and_each_split_has_its_share(clips, rng_seed):
    splits = assign_splits(rank_groups(list(clips), rng_seed), clips, SplitOptions())
    assert splits.keys() == clips.keys()
    got = Counter()
    for group, split in splits.items():
        got[split] += clips[group]
    total = sum(clips.values())
    for split, share, least in (("gate", 0.06, 8), ("validation", 0.04, 2), ("test", 0.1, 4)):
        wanted = max(least, round(share * total))
        assert wanted <= got[split] < wanted + 5


def test_the_ranking_depends_on_names_and_seed_only():
    names = [f"video {i}" for i in range(50)]
    assert rank_groups(names, 1) == rank_groups(names[::-1], 1) != rank_groups(names, 2)


def test_a_new_video_leaves_the_others_order_as_it_was():
    names = [f"video {i}" for i in range(50)]
    assert [name for name in rank_groups([*names, "new"], 0) if name != "new"] == rank_groups(names, 0)


def test_sources_too_large_to_part_are_an_error_with_the_numbers():
    clips = {"a": 10, "b": 10, "c": 10}
    with pytest.raises(DataError, match="30 clips of 3 sources cannot be split without parting one"):
        assign_splits(rank_groups(list(clips), 0), clips, SplitOptions())


@pytest.mark.parametrize(
    ("clips", "held"),
    [(12, (2, 1, 1)), (24, (4, 1, 2)), (30, (5, 1, 2)), (60, (8, 2, 6)), (1000, (60, 40, 100))],
)
def test_the_held_out_parts_shrink_with_the_folder_and_leave_two_thirds(clips, held):
    wanted = wanted_clips(clips, SplitOptions())
    assert (wanted["gate"], wanted["validation"], wanted["test"]) == held
    assert 3 * sum(wanted.values()) <= clips


@pytest.mark.parametrize(("clips", "experts"), [(12, 1), (30, 2), (60, 2), (200, 3), (1000, 4), (20_000, 8)])
def test_so_many_clips_carry_so_many_experts(clips, experts):
    assert experts_for(clips) == experts
    check_enough(clips, 4, experts)


def test_too_few_clips_say_how_many_more_are_needed():
    with pytest.raises(
        DataError,
        match=r"20 clips are too few for 8 experts: the least is 28 .*give 8 more, or ask for 5 experts",
    ):
        check_enough(20, 20, 8)
    with pytest.raises(DataError, match=r"40 clips of 3 sources are too few.*give clips of 1 more"):
        check_enough(40, 3, 2)
    check_enough(30, 30, 8)


def test_a_source_larger_than_all_that_is_wanted_is_not_held_out_where_smaller_ones_are():
    clips = {"film": 40, **{f"shot {i}": 1 for i in range(40)}}
    splits = assign_splits(["film", *sorted(clips.keys() - {"film"})], clips, SplitOptions())
    assert splits["film"] == "train"


@given(st.lists(st.integers(1, 30), max_size=30), st.integers(1, 4))
def test_sources_that_can_be_split_whole_leave_half_to_train_on(clips, experts):
    if can_split(clips, experts, SplitOptions()):
        counts = {str(i): count for i, count in enumerate(clips)}
        ranked = rank_groups(list(counts), 0)
        splits = assign_splits(ranked, counts, SplitOptions(), set(ranked[-max(1, len(ranked) // 4) :]))
        assert 2 * sum(counts[group] for group, split in splits.items() if split == "train") >= sum(clips)
        assert len(clips) >= 3 * experts + 2
        assert 4 * max(clips) <= sum(clips)


def test_too_few_sources_or_one_too_large_cannot_be_split_whole():
    assert can_split([2] * 8, 1, SplitOptions())
    assert not can_split([], 1, SplitOptions())
    assert not can_split([2] * 4, 1, SplitOptions())
    assert not can_split([2] * 8, 3, SplitOptions())
    assert not can_split([80, *[2] * 20], 1, SplitOptions())


@given(st.integers(1, 6), st.integers(0, 1000))
def test_every_cluster_gets_a_gate_clip_and_keeps_a_train_clip(clusters, rng_seed):
    groups = [f"video {i}" for i in range(30)]
    ranked = rank_groups(groups, rng_seed)
    splits = assign_splits(ranked, dict.fromkeys(groups, 1), SplitOptions(), set(ranked[-7:]))
    train = [group for group in ranked if splits[group] == "train"]
    labels = {group: {rng_seed % clusters: 1} for group in groups}
    labels.update({group: {i % clusters: 1} for i, group in enumerate(train)})
    moved, lacking = give_gate_clips(splits, ranked, labels, clusters, ranked[-7:])
    assert lacking == []
    for k in range(clusters):
        for split in ("train", "gate"):
            assert any(moved[group] == split and labels[group].get(k) for group in groups)
    assert all(moved[group] == splits[group] for group in groups if splits[group] not in ("train", "gate"))


def test_a_cluster_of_one_source_cannot_be_given_a_gate_clip():
    labels = {"a": {0: 3}, "b": {0: 1}, "c": {1: 4}}
    moved, lacking = give_gate_clips(dict.fromkeys(labels, "train"), ["a", "b", "c"], labels, 2, ["b"])
    assert lacking == [1]
    assert moved == {"a": "gate", "b": "train", "c": "train"}
