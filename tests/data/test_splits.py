from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.data.splits import SplitOptions, assign_splits, rank_groups
from paris_p2p.errors import DataError


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 5), min_size=80, max_size=120), st.integers(0, 10))
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


def test_too_few_videos_to_hold_some_out_is_an_error_with_the_numbers():
    clips = {"a": 10, "b": 10, "c": 10}
    with pytest.raises(DataError, match="30 clips of 3 source videos are too few"):
        assign_splits(rank_groups(list(clips), 0), clips, SplitOptions())
