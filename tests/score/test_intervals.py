import numpy as np
import pytest

from paris_p2p.errors import UsageError
from paris_p2p.score.distances import score_kernel
from paris_p2p.score.intervals import Clips, Plan, measure, resampled, tree_of


def grouped(rng: np.random.Generator, sources: int, per_source: int, mean: float = 0.0) -> Clips:
    """Makes clips that are alike within a source video: most of the variance lies between videos."""
    values = (
        mean + np.repeat(rng.normal(size=sources), per_source) + 0.3 * rng.normal(size=sources * per_source)
    )
    return Clips(values[:, None], np.repeat(np.arange(sources), per_source))


def mean_interval(clips: Clips, rng_seed: int):
    values = clips.features[:, 0]
    plan = Plan(resamples=100, level=0.9, rng_seed=rng_seed)
    return resampled(
        lambda rows: float(values[rows].mean()), [np.arange(len(clips))], (tree_of(clips),), plan
    )


def covers(interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_intervals_cover_the_truth_at_about_their_level_where_clips_of_a_video_are_alike():
    rng = np.random.default_rng(0)
    drawn = [grouped(rng, 30, 4) for _ in range(200)]
    covered = np.mean([covers(mean_interval(clips, i), 0) for i, clips in enumerate(drawn)])
    assert 0.83 <= covered <= 0.96
    # as if each clip were a video of its own
    alone = [Clips(clips.features, np.arange(len(clips))) for clips in drawn]
    assert np.mean([covers(mean_interval(clips, i), 0) for i, clips in enumerate(alone)]) < 0.75


def test_intervals_over_seeds_cover_what_differs_between_seeds():
    rng = np.random.default_rng(0)
    covered = []
    for i in range(150):
        seeds = np.repeat(np.arange(12), 20)
        values = rng.normal(size=12)[seeds] + 0.5 * rng.normal(size=240)
        clips = Clips(values[:, None], np.tile(np.arange(20), 12), seeds)
        covered.append(covers(mean_interval(clips, i), 0))
    assert 0.8 <= np.mean(covered) <= 0.97


def test_intervals_of_a_distance_cover_its_closed_form_at_about_their_level():
    rng = np.random.default_rng(0)
    truth = np.square([0 - 1, 1 - 2, 0 - 4]) @ [3, 3, 1]  # the kernel distance of N(0, 1) and N(1, 1)
    covered = []
    for i in range(120):
        real = Clips(rng.normal(size=(80, 1)), np.arange(80))
        generated = Clips(rng.normal(size=(80, 1)) + 1, np.arange(80))
        score = score_kernel(
            "pixels", real, generated, plan=Plan(resamples=100, splits=2, level=0.9, rng_seed=i)
        )
        covered.append(score.low <= truth <= score.high)
    assert 0.78 <= np.mean(covered) <= 0.97


def test_intervals_of_something_fitted_cover_the_truth_only_with_what_refitting_changes():
    """Takes the difference of two means, one of which was fitted once and is kept."""
    rng = np.random.default_rng(0)
    covered, kept_only = [], []
    for i in range(120):
        real, generated = (Clips(rng.normal(size=(60, 1)), np.arange(60)) for _ in range(2))
        values = np.concatenate([real.features, generated.features])[:, 0]
        fitted, plan = values[:60].mean(), Plan(resamples=100, splits=20, level=0.9, rng_seed=i)

        def kept(a, b, values=values, fitted=fitted):
            return float(values[b].mean() - fitted)

        def refitted(a, b, values=values):
            return float(values[b].mean() - values[a].mean())

        covered.append(covers(measure("fitted", kept, real, generated, plan, refitted=refitted), 0))
        kept_only.append(covers(measure("fitted", kept, real, generated, plan), 0))
    assert 0.82 <= np.mean(covered) <= 0.97
    assert np.mean(kept_only) < 0.8


def mean_difference(real: Clips, generated: Clips, plan: Plan):
    values = np.concatenate([real.features, generated.features])[:, 0]
    return measure(
        "difference", lambda a, b: float(values[b].mean() - values[a].mean()), real, generated, plan
    )


def test_a_score_says_its_counts_and_the_floors():
    rng = np.random.default_rng(0)
    real, generated = grouped(rng, 10, 4), grouped(rng, 6, 2)
    generated = Clips(generated.features, generated.sources, np.arange(12) % 3)
    score = mean_difference(real, generated, Plan(resamples=20, splits=5))
    assert (score.real_clips, score.real_sources) == (40, 10)
    assert (score.generated_clips, score.generated_sources, score.seeds) == (12, 6, 3)
    assert (score.floor.clips, score.level) == (12, 0.95)


def test_the_floors_halves_share_no_source_video_and_are_matched_in_number():
    rng = np.random.default_rng(0)
    real = grouped(rng, 9, 5)
    generated = grouped(rng, 30, 1)
    seen = []
    measure("spy", lambda a, b: float(seen.append((a, b)) or 0), real, generated, Plan(resamples=2, splits=5))
    halves = [(a, b) for a, b in seen if b.max() < len(real)]
    assert len(halves) == 5
    for a, b in halves:
        assert len(a) == len(b) == 20
        assert not set(real.sources[a]) & set(real.sources[b])


def test_a_score_is_the_same_again_with_the_same_seed_and_another_with_another():
    rng = np.random.default_rng(0)
    real, generated = grouped(rng, 20, 2), grouped(rng, 20, 2, mean=1.0)
    first, again, other = (
        mean_difference(real, generated, Plan(20, 5, rng_seed=rng_seed)) for rng_seed in (1, 1, 2)
    )
    assert first == again
    assert first.value == other.value
    assert first.low != other.low


def test_clips_that_say_nothing_are_refused():
    with pytest.raises(UsageError, match="fewer than 2 source videos"):
        Clips(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(UsageError, match="not finite"):
        Clips(np.array([[np.nan], [0.0]]), np.arange(2))
    with pytest.raises(UsageError, match="3 clips have 2 sources"):
        Clips(np.zeros((3, 1)), np.arange(2))
    with pytest.raises(UsageError, match="1 resamples"):
        Plan(resamples=1)
