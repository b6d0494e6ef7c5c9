import numpy as np
import pytest

from paris_p2p.data.clusters import fit_clusters, silhouettes
from paris_p2p.errors import DataError


def blobs(sizes, rng_seed: int = 0, noise: float = 0.05):
    """Directions in 32-d with noise around them, and which is which."""
    rng = np.random.default_rng(rng_seed)
    centres = rng.normal(size=(len(sizes), 32))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return (centres[labels] + noise * rng.normal(size=(len(labels), 32))).astype(np.float32), labels


def test_separate_blobs_are_found_largest_first_and_have_high_silhouettes():
    features, truth = blobs((40, 100, 60))
    model = fit_clusters(features, 3, 0)
    reduced = model.reduce(features)
    labels = model.assign(reduced)
    assert [len(set(labels[truth == k])) for k in range(3)] == [1, 1, 1]
    assert np.bincount(labels).tolist() == [100, 60, 40]
    assert min(silhouettes(reduced, labels, 3, 0)) > 0.5


def test_the_same_seed_gives_the_same_clusters_bit_for_bit():
    features, _ = blobs((50, 50, 50), noise=0.5)
    first, second = fit_clusters(features, 3, 7), fit_clusters(features, 3, 7)
    assert np.array_equal(first.centres, second.centres)
    assert np.array_equal(first.merged, second.merged)


def test_held_out_clips_go_to_the_cluster_of_their_like():
    features, truth = blobs((60, 40))
    model = fit_clusters(features[::2], 2, 0)
    labels = model.assign(model.reduce(features[1::2]))
    assert (labels == truth[1::2]).all()


def test_one_expert_gets_everything():
    features, _ = blobs((10, 10))
    model = fit_clusters(features, 1, 0)
    assert (model.assign(model.reduce(features)) == 0).all()
    assert silhouettes(model.reduce(features), np.zeros(20, np.int64), 1, 0) == [0.0]


def test_more_experts_than_the_clips_allow_is_an_error_that_says_how_many():
    features, _ = blobs((5, 4))
    with pytest.raises(DataError, match=r"9 train clips cannot make 8 clusters.*at most 4 experts"):
        fit_clusters(features, 8, 0)
    same = np.repeat(features[:2], 10, axis=0)
    with pytest.raises(DataError, match="only 2 different ones"):
        fit_clusters(same, 3, 0)


def owners_of(labels, sources, clusters: int) -> list[int]:
    return [
        len({source for source, label in zip(sources, labels, strict=True) if label == k})
        for k in range(clusters)
    ]


@pytest.mark.parametrize("clusters", [2, 5, 8])
@pytest.mark.parametrize("rng_seed", range(4))
def test_every_cluster_has_clips_of_two_sources_however_far_off_some_lie(clusters, rng_seed):
    """Uses twenty clips alike, and three outliers that k-means makes clusters of their own."""
    features, _ = blobs((20, 1, 1, 1), rng_seed)
    sources = [f"video {i}" for i in range(23)]
    alone = fit_clusters(features, clusters, 0)
    assert clusters == 2 or min(owners_of(alone.assign(alone.reduce(features)), sources, clusters)) == 1
    model = fit_clusters(features, clusters, 0, sources)
    labels = model.assign(model.reduce(features))
    assert min(owners_of(labels, sources, clusters)) >= 2
    assert np.bincount(labels, minlength=clusters).argmax() == 0


def test_sources_that_cannot_make_so_many_clusters_say_how_many_they_make():
    features, _ = blobs((30, 30, 30), noise=0.3)
    sources = [f"film {i // 30}" for i in range(90)]
    with pytest.raises(
        DataError, match=r"fall into \d clusters of two sources each at least, not 3.*ask for \d experts"
    ):
        fit_clusters(features, 3, 0, sources)
