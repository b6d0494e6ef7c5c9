from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.data.film_parts import PART_CLIPS, Span, clips_in, left_out, long_from, part_clips, plan_parts
from paris_p2p.data.splits import SplitOptions, experts_for
from paris_p2p.spec import ClipShape

SHAPE = ClipShape(frames=8, height=16, width=16, fps=8.0)


@given(st.floats(1, 500), st.lists(st.floats(0.1, 500), max_size=10), st.integers(1, 16))
def test_parts_lie_in_their_scene_in_order_and_hold_a_clip_each(duration_s, cuts_s, most):
    cuts_s = sorted(set(cuts_s))
    spans = plan_parts(duration_s, cuts_s, SHAPE, most)
    assert [span.number for span in spans] == list(range(len(spans)))
    for span in spans:
        assert 1 <= clips_in(span.end_s - span.start_s, SHAPE) <= most
        assert not any(span.start_s + 1e-9 < cut_s < span.end_s - 1e-9 for cut_s in cuts_s)
    for one, two in pairwise(spans):
        assert one.end_s <= two.start_s + 1e-9


def test_a_scene_is_parted_evenly_and_one_shorter_than_a_clip_is_left():
    spans = plan_parts(40.0, [20.0, 20.5], SHAPE, 8)
    assert [(span.scene, span.start_s, span.end_s) for span in spans] == [
        (0, 0.0, 6.0), (0, 6.0, 13.0), (0, 13.0, 20.0), (2, 20.5, 26.5), (2, 26.5, 32.5), (2, 32.5, 40.0),
    ]  # fmt: skip


def limit(videos: list[int], named: tuple[int, ...] = (), experts: int = 0) -> int:
    wished = experts or experts_for(sum(videos) + sum(named))
    return long_from(videos, named, 64, wished, SplitOptions())


@pytest.mark.parametrize("videos", [[2] * 8, [4] * 8, [1] * 30, [20] * 12, [60] * 100])
def test_where_there_are_enough_videos_only_those_over_the_most_clips_are_parted(videos):
    assert limit(videos) == 64


@pytest.mark.parametrize(
    ("videos", "least"), [([30], 2), ([15, 15], 2), ([48] * 4, 16), ([60, 60], 10), ([4] * 4, 1)]
)
def test_where_there_are_too_few_videos_those_over_a_twelfth_are_parted(videos, least):
    assert limit(videos) == least


def test_the_longest_video_is_parted_first_and_short_ones_stay_whole_where_that_is_enough():
    assert limit([60, 8, 8, 8, 8]) == 8
    assert limit([60, *[2] * 8]) == 6


def test_experts_wished_for_and_sources_that_the_owner_named_count():
    assert limit([4] * 8, experts=2) == 64
    assert limit([4] * 8, experts=4) == 2
    assert limit([], named=(4,) * 8) == 64
    assert limit([60], named=(4,) * 8) == 7


@pytest.mark.parametrize(("total", "clips"), [(10, 1), (30, 2), (192, 16), (5000, PART_CLIPS)])
def test_a_part_is_as_long_as_there_is_much(total, clips):
    assert part_clips(total) == clips


def test_splits_keep_the_parts_of_a_whole_scene_together():
    spans = [Span(n, n // 2, 8.0 * n, 8.0 * n + 8, scene_whole=True) for n in range(4)]
    assert [span.group for span in spans] == ["scene 0", "scene 0", "scene 1", "scene 1"]
    assert len({Span(n, 0, 8.0 * n, 8.0 * n + 8).group for n in range(4)}) == 4


def test_clips_next_to_another_split_are_left_out_but_not_across_a_cut():
    parts = {n: Span(n, n // 3, 8.0 * n, 8.0 * n + 8) for n in range(6)}  # two scenes of three parts
    starts_s = {n: [8.0 * n + i for i in range(8)] for n in parts}
    splits = {0: "train", 1: "test", 2: "train", 3: "gate", 4: "gate", 5: "validation"}
    assert left_out(parts, splits, starts_s, clip_s=1.0) == {(0, 7), (2, 0), (4, 7)}
    assert left_out(parts, splits, starts_s, clip_s=0.5) == {(0, 6), (0, 7), (2, 0), (2, 1), (4, 6), (4, 7)}
    assert left_out(parts, dict.fromkeys(parts, "train"), starts_s, clip_s=1.0) == set()
    one = {n: starts[:1] for n, starts in starts_s.items()}
    assert left_out(parts, splits, one, clip_s=1.0) == set()
