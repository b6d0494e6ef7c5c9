import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from paris_p2p.errors import UsageError
from paris_p2p.score.classifier import auc, balanced_accuracy, classifier_test
from paris_p2p.score.intervals import Clips, Plan

QUICK = Plan(resamples=50, splits=6)


def clips(rng_seed: int, shift: float = 0.0, videos: int = 40, per_video: int = 2) -> Clips:
    rng = np.random.default_rng(rng_seed)
    features = rng.normal(size=(videos * per_video, 6)) + shift
    return Clips(features, np.repeat(np.arange(videos), per_video))


def test_equal_distributions_cannot_be_told_apart():
    scores = [classifier_test("pixels", clips(2 * i), clips(2 * i + 1), QUICK).auc for i in range(8)]
    # one alone scatters by 0.07
    assert np.mean([score.value for score in scores]) == pytest.approx(0.5, abs=0.08)
    assert sum(score.above_floor for score in scores) <= 2
    assert sum(score.low <= 0.5 <= score.high for score in scores) >= 7
    # how an AUC of 80 and 80 answers scatters (Mann and Whitney 1947)
    answers_alone = np.sqrt(161 / (12 * 80 * 80))
    assert np.mean([score.high - score.low for score in scores]) > 1.25 * 2 * 1.96 * answers_alone
    assert scores[0].name == "Classifier AUC, pixels"


def test_the_further_apart_the_better_they_are_told_apart():
    near, far = (classifier_test("pixels", clips(0), clips(1, shift), QUICK) for shift in (0.5, 3.0))
    assert near.auc.above_floor
    assert 0.6 < near.accuracy.value < far.accuracy.value
    assert far.accuracy.value > 0.99
    assert near.auc.low < near.auc.value < near.auc.high


def test_remembering_source_videos_does_not_help():
    """Gives every video a direction that both of its clips share, and a side picked by chance.

    Only remembering tells the sides apart.
    """
    rng = np.random.default_rng(0)
    videos = np.repeat(rng.normal(size=(80, 200)), 4, axis=0) + 0.01 * rng.normal(size=(320, 200))
    sources = np.repeat(np.arange(80), 4)
    real, generated = Clips(videos[:160], sources[:160]), Clips(videos[160:], sources[160:])
    result = classifier_test("pixels", real, generated, Plan(resamples=10, splits=2))
    assert 0.3 < result.auc.value < 0.7


def test_auc_and_accuracy_agree_with_independent_ones():
    rng = np.random.default_rng(0)
    real, generated = rng.integers(0, 10, 50) / 10, rng.integers(2, 12, 30) / 10
    truth = np.repeat([0, 1], [50, 30])
    assert auc(real, generated) == pytest.approx(roc_auc_score(truth, np.concatenate([real, generated])))
    assert balanced_accuracy(np.array([0.1, 0.6]), np.array([0.9])) == pytest.approx(0.75)


def test_too_few_source_videos_are_refused():
    with pytest.raises(UsageError, match="9 source videos on one side"):
        classifier_test("pixels", clips(0, videos=9), clips(1), QUICK)
