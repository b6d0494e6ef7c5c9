from itertools import permutations

import numpy as np
import pytest

from paris_p2p.errors import UsageError
from paris_p2p.score.agreement import agreement, score_text_similarity
from paris_p2p.score.intervals import Clips, Plan, Score
from paris_p2p.score.values import score_values

QUICK = Plan(resamples=100, splits=20)


def units(count: int, rng_seed: int, features: int = 8) -> np.ndarray:
    x = np.random.default_rng(rng_seed).normal(size=(count, features))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def own(features: np.ndarray, first: int = 0) -> Clips:
    return Clips(features, np.arange(first, first + len(features)))


def test_chance_is_the_mean_over_every_way_to_deal_captions_out():
    clips, captions = units(5, 0), units(5, 1)
    dealt = [
        np.mean([clips[i] @ captions[j] for i, j in enumerate(order)]) for order in permutations(range(5))
    ]
    result = agreement(own(clips), captions, QUICK)
    assert result.shuffled.value == pytest.approx(np.mean(dealt))
    assert result.own.value == pytest.approx(dealt[0])
    assert result.above_chance.value == pytest.approx(dealt[0] - np.mean(dealt))


def test_one_caption_for_all_clips_cannot_be_heeded():
    clips = units(40, 0)
    result = agreement(own(clips), np.repeat(clips.mean(0, keepdims=True), 40, axis=0), QUICK)
    assert result.own.value > 0
    assert result.above_chance.value == pytest.approx(0)
    assert not agreement(own(units(200, 1)), units(200, 2), QUICK).heeded


def test_clips_that_follow_their_captions_are_above_chance_and_below_the_real_ones():
    captions = units(120, 0)
    real, generated = (
        own(0.3 * captions + noise * units(120, 1 + i), 1000 * i) for i, noise in enumerate((0.1, 0.5))
    )
    weaker = Clips(0.7 * generated.features, generated.sources)
    result = score_text_similarity("CLIP", real, captions, weaker, captions, QUICK)
    assert result.name == result.difference.name == "Text-video similarity, CLIP"
    assert result.real.heeded
    assert result.generated.heeded
    assert result.generated.own.high < result.real.own.low
    assert result.difference.value == pytest.approx(result.generated.own.value - result.real.own.value)
    assert result.difference.matched < result.difference.floor.low


def test_intervals_cover_the_truth_at_about_their_level_where_clips_share_a_source_video():
    rng = np.random.default_rng(0)
    covered = []
    for i in range(150):
        each = 0.3 + 0.1 * np.repeat(rng.normal(size=30), 3) + 0.05 * rng.normal(size=90)
        clips = Clips(each[:, None], np.repeat(np.arange(30), 3))
        interval = agreement(
            clips, np.ones((90, 1)), Plan(resamples=100, splits=2, level=0.9, rng_seed=i)
        ).own
        covered.append(interval.low <= 0.3 <= interval.high)
    assert 0.82 <= np.mean(covered) <= 0.97


def leaves_the_floor(score: Score) -> int:
    return int(score.matched > score.floor.high) - int(score.matched < score.floor.low)


def test_a_difference_is_reported_in_both_directions():
    rng = np.random.default_rng(0)
    real, same, less, more = (
        own(rng.normal(mean, 1, (100, 1)), 1000 * i) for i, mean in enumerate((0, 0, -1, 1))
    )
    assert leaves_the_floor(score_values("aesthetics", real, same, QUICK).difference) == 0
    assert leaves_the_floor(score_values("aesthetics", real, less, QUICK).difference) == -1
    assert leaves_the_floor(score_values("aesthetics", real, more, QUICK).difference) == 1


def test_clips_without_their_captions_and_values_that_are_vectors_are_refused():
    with pytest.raises(UsageError, match="each clip needs its own"):
        agreement(own(units(5, 0)), units(4, 0))
    with pytest.raises(UsageError, match="not one number per clip"):
        score_values("motion", own(units(5, 0)), own(units(5, 1)))
