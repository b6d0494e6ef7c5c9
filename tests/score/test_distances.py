import numpy as np
import pytest
import scipy.linalg

from paris_p2p.errors import UsageError
from paris_p2p.score.distances import (
    Components,
    frechet_distance,
    kernel_distance,
    score_frechet,
    score_kernel,
)
from paris_p2p.score.intervals import Clips, Plan

QUICK = Plan(resamples=40, splits=10)


def normal(clips: int, features: int = 4, rng_seed: int = 0) -> np.ndarray:
    return np.random.default_rng(rng_seed).normal(size=(clips, features))


def own(features: np.ndarray, first: int = 0) -> Clips:
    """Gives every clip its own source video."""
    return Clips(features, np.arange(first, first + len(features)))


def scored_kernel(a: np.ndarray, b: np.ndarray) -> float:
    return score_kernel("x", own(a), own(b, 1000), plan=Plan(2, 10)).value


def test_frechet_distance_of_samples_with_exactly_known_moments_is_the_closed_form():
    x = normal(50)
    white = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    assert frechet_distance(white, 3 * white + 2) == pytest.approx(4 * (4 + 4))


def test_frechet_distance_agrees_with_a_matrix_square_root():
    mix = normal(6, 6, rng_seed=3)
    a, b = normal(60, 6), normal(80, 6, rng_seed=1) @ mix + 0.3
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    trace = np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(np.square(a.mean(0) - b.mean(0)).sum() + trace, rel=1e-9)


def test_frechet_distance_stays_exact_with_fewer_clips_than_features():
    a = normal(10, 40)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, a + 1) == pytest.approx(40)


def test_principal_components_are_those_of_the_real_side():
    real = normal(200, 5) * [10, 5, 0.1, 0.1, 0.1]
    generated = real + np.array([0, 0, 0, 0, 7])
    assert frechet_distance(real, generated, components=2) < 0.1 < 40 < frechet_distance(real, generated)
    assert frechet_distance(real, generated, components=5) == pytest.approx(frechet_distance(real, generated))
    axes = Components.fit(real, 2).axes
    assert np.abs(axes[:2]).sum() == pytest.approx(2, abs=0.1)


def test_kernel_distance_is_the_double_loop():
    a, b = normal(7, 3), normal(9, 3, rng_seed=1) + 0.5

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    within_a = np.mean([kernel(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    within_b = np.mean([kernel(b[i], b[j]) for i in range(9) for j in range(9) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert scored_kernel(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-10)


def test_kernel_distance_is_zero_in_expectation_for_equal_distributions_and_its_closed_form_for_others():
    pairs = [(normal(40, 1, rng_seed=2 * i), normal(30, 1, rng_seed=2 * i + 1)) for i in range(400)]
    same = np.array([scored_kernel(a, b) for a, b in pairs])
    assert abs(same.mean()) < 4 * same.std() / 20
    moved = np.array([scored_kernel(a, b + 1) for a, b in pairs])
    moments = np.square([0 - 1, 1 - 2, 0 - 4])  # of N(0, 1) and N(1, 1): x, x^2, x^3, weighted by 3, 3, 1
    assert abs(moved.mean() - moments @ [3, 3, 1]) < 4 * moved.std() / 20


@pytest.mark.parametrize("score", [score_frechet, score_kernel])
def test_real_clips_are_at_the_floor_and_others_above_it(score):
    real, fresh = own(normal(120)), own(normal(120, rng_seed=1), 1000)
    at_floor = score("pixels", real, fresh, plan=QUICK)
    assert not at_floor.above_floor
    assert at_floor.floor.low <= at_floor.matched <= at_floor.floor.high
    moved = score("pixels", real, own(normal(120, rng_seed=1) + 0.6, 1000), plan=QUICK)
    assert moved.above_floor
    assert moved.low < moved.value < moved.high


@pytest.mark.parametrize("score", [score_frechet, score_kernel])
def test_missing_classes_raise_the_distance_the_more_the_more_are_missing(score):
    centres = 3 * normal(4, 4, rng_seed=9)

    def clips(classes: int, first: int) -> Clips:
        return own(normal(160, rng_seed=first) + centres[np.arange(160) % classes], first)

    all_four, three, one = (
        score("pixels", clips(4, 0), clips(count, 1000), plan=QUICK) for count in (4, 3, 1)
    )
    assert not all_four.above_floor
    assert three.above_floor
    assert one.above_floor
    assert all_four.value < three.value < one.value


def test_a_distance_carries_the_name_of_its_features():
    a, b = own(normal(20)), own(normal(20, rng_seed=1), 100)
    assert score_frechet("TransNetV2", a, b, plan=QUICK).name == "Fréchet distance, TransNetV2"
    assert (
        score_frechet("TransNetV2", a, b, components=2, plan=QUICK).name
        == "Fréchet distance, TransNetV2 (2 components)"
    )
    assert score_kernel("EfficientNet-lite0", a, b, plan=QUICK).name == "Kernel distance, EfficientNet-lite0"
    with pytest.raises(UsageError, match="without the name of its features"):
        score_kernel("", a, b)


def test_what_cannot_be_compared_is_refused_with_its_values():
    with pytest.raises(UsageError, match=r"\(5, 4\) and \(5, 3\)"):
        frechet_distance(normal(5), normal(5, 3))
    with pytest.raises(UsageError, match="at least 2"):
        frechet_distance(normal(5), normal(1))
    with pytest.raises(UsageError, match="9 principal components of 5 clips"):
        frechet_distance(normal(5), normal(5), components=9)


def test_only_the_frechet_distance_of_all_features_of_i3d_is_called_fvd():
    a, b = own(normal(20)), own(normal(20, rng_seed=1), 100)
    assert score_frechet("I3D", a, b, plan=QUICK).name == "FVD (Fréchet distance, I3D)"
    assert score_frechet("I3D", a, b, components=2, plan=QUICK).name == "Fréchet distance, I3D (2 components)"
    assert score_kernel("I3D", a, b, plan=QUICK).name == "Kernel distance, I3D"
    assert "FVD" not in score_frechet("VideoMAE", a, b, plan=QUICK).name


def test_the_excess_of_a_frechet_distance_hardly_depends_on_the_count_though_its_value_does():
    def means(clips: int) -> tuple[float, float]:
        pairs = [
            (own(normal(clips, 12, 2 * i)), own(normal(clips, 12, 2 * i + 1) + 0.5, 10_000))
            for i in range(12)
        ]
        scores = [score_frechet("pixels", real, moved, plan=Plan(2, 10)) for real, moved in pairs]
        return float(np.mean([score.value for score in scores])), float(
            np.mean([score.matched - score.floor.value for score in scores])
        )

    (few, few_excess), (many, many_excess) = means(60), means(600)
    truth = 12 * 0.5**2
    assert few > 1.3 * truth
    assert many == pytest.approx(truth, rel=0.1)
    assert few_excess == pytest.approx(truth, rel=0.15)
    assert many_excess == pytest.approx(truth, rel=0.1)


def test_the_kernel_distance_alone_is_the_scored_one():
    a, b = normal(40, 3), normal(50, 3, rng_seed=1) + 0.5
    assert kernel_distance(a, b) == pytest.approx(scored_kernel(a, b), rel=1e-9)
    assert kernel_distance(a, b, np.full(50, 7.0)) == pytest.approx(kernel_distance(a, b), rel=1e-9)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_weights_put_a_wrong_mix_right(distance):
    worlds = normal(4000), normal(4000, rng_seed=1) + 4
    real = np.concatenate([worlds[0][:2000], worlds[1][:2000]])
    made = np.concatenate([worlds[0][2000:2500], worlds[1][2000:]])  # one world in five instead of in two
    weights = np.repeat([4.0, 1.0], [500, 2000])
    assert distance(real, made, weights=weights) < distance(real, made) / 50


def test_equal_weights_change_nothing_and_weightless_clips_do_not_count():
    a, b = normal(60), normal(50, rng_seed=1) + 1
    assert frechet_distance(a, b, weights=np.full(50, 0.1)) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    some = np.repeat([1.0, 0.0], [30, 20])
    for distance in (frechet_distance, kernel_distance):
        assert distance(a, b, weights=some) == pytest.approx(distance(a, b[:30]), rel=1e-9)


@pytest.mark.parametrize(
    "weights",
    [np.ones(4), np.array([1, 1, -1, 1, 1]), np.array([1, np.nan, 1, 1, 1]), np.array([0, 0, 3, 0, 0])],
    ids=["too few", "negative", "no number", "one clip"],
)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(UsageError, match="weight"):
        frechet_distance(normal(5), normal(5), weights=weights)
    with pytest.raises(UsageError, match="weight"):
        kernel_distance(normal(5), normal(5), weights)
