"""Tests that a cluster splits into two that can be trained and checked, and that all others stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paris_p2p.data.cluster_splits import ClusterClips, split_cluster, without_cluster
from paris_p2p.data.clusters import ClusterModel, fit_clusters
from paris_p2p.errors import DataError

WIDTH, PER_KIND = 12, 40
KINDS = np.eye(WIDTH, dtype=np.float32)[:4]


def kinds_of(kinds: list[int], rng_seed: int = 0) -> np.ndarray:
    """Returns features of clips of some kinds, PER_KIND each, close to their kinds' own."""
    rng = np.random.default_rng(rng_seed)
    return np.concatenate(
        [KINDS[k] + 0.02 * rng.standard_normal((PER_KIND, WIDTH)).astype(np.float32) for k in kinds]
    )


def halves(count: int) -> np.ndarray:
    """Returns that every fourth clip is the gate's."""
    return np.arange(count) % 4 != 0


@pytest.fixture(scope="module")
def two() -> ClusterModel:
    """Two clusters: kinds 0 and 1 near to each other in one, 2 in the other."""
    near = np.concatenate([kinds_of([0]), kinds_of([1]) + KINDS[0] * 0.8, kinds_of([2])])
    return fit_clusters(near, 2, 0)


def near_kinds(rng_seed: int = 3) -> np.ndarray:
    return np.concatenate([kinds_of([0], rng_seed), kinds_of([1], rng_seed) + KINDS[0] * 0.8])


def label(model: ClusterModel, features: np.ndarray) -> list[int]:
    return sorted(set(model.assign(model.reduce(features)).tolist()))


def test_the_two_kinds_of_a_cluster_are_parted_and_another_clusters_clips_stay(two: ClusterModel) -> None:
    features, other = near_kinds(), kinds_of([2], 4)
    (parent,) = label(two, features)
    split = split_cluster(two, parent, 2, ClusterClips(features, halves(len(features))), 0)
    first, second = split.is_child[:PER_KIND], split.is_child[PER_KIND:]
    assert first.all() != second.all()
    assert first.any() != second.any()
    assert label(split.model, other) == label(two, other)
    # clips that come later go where the split put those like them
    assert label(split.model, features[split.is_child]) == [2]
    assert label(split.model, features[~split.is_child]) == [parent]


def test_another_world_that_joined_a_cluster_is_split_off_whole(two: ClusterModel) -> None:
    """Holds that a split sees along what the run's first clips do not differ."""
    own, joined = near_kinds(), kinds_of([3], 5)
    features = np.concatenate([own, joined])
    model = replace(two, basis=two.basis[:, :2], centres=two.centres[:, :2])
    assert abs(model.basis[3]).max() < 0.1  # it has no axis of the new world's
    split = split_cluster(model, label(model, own)[0], 2, ClusterClips(features, halves(len(features))), 0)
    assert len({bool(split.is_child[i]) for i in range(2 * PER_KIND)}) == 1
    assert split.is_child[2 * PER_KIND :].all() != split.is_child[: 2 * PER_KIND].all()
    assert len(set(split.is_child[2 * PER_KIND :].tolist())) == 1


def test_the_same_clips_make_the_same_split(two: ClusterModel) -> None:
    clips = ClusterClips(near_kinds(), halves(2 * PER_KIND))
    one, again = (split_cluster(two, 0, 2, clips, 7) for _ in range(2))
    assert np.array_equal(one.is_child, again.is_child)
    assert np.array_equal(one.model.centres, again.model.centres)


def test_the_part_nearer_to_the_whole_clusters_middle_stays_the_parents() -> None:
    many = np.concatenate([kinds_of([0], seed) for seed in range(3)])
    features = np.concatenate([many, kinds_of([1], 9)])
    model = fit_clusters(features, 1, 0)
    split = split_cluster(model, 0, 1, ClusterClips(features, halves(len(features))), 0)
    assert not split.is_child[: len(many)].any()
    assert split.is_child[len(many) :].all()


def test_a_run_of_one_cluster_which_has_no_axes_yet_can_be_split() -> None:
    features = kinds_of([0, 1])
    model = fit_clusters(features, 1, 0)
    assert not model.basis.any()
    split = split_cluster(model, 0, 1, ClusterClips(features, halves(len(features))), 0)
    assert {label(split.model, features[:PER_KIND])[0], label(split.model, features[PER_KIND:])[0]} == {0, 1}


def test_a_part_without_gate_clips_is_cut_otherwise_and_where_there_is_no_way_that_is_said(
    two: ClusterModel,
) -> None:
    features = near_kinds()
    trained = np.ones(len(features), bool)
    trained[:2] = False  # the gate's clips are all of one kind
    split = split_cluster(two, 0, 2, ClusterClips(features, trained), 0)
    for part in (split.is_child, ~split.is_child):
        assert (part & trained).any()
        assert (part & ~trained).any()
    trained[1] = True
    with pytest.raises(DataError, match=r"79 train and 1 gate clips, and no two parts .* --into"):
        split_cluster(two, 0, 2, ClusterClips(features, trained), 0)


def test_clips_that_look_all_alike_cannot_be_split(two: ClusterModel) -> None:
    features = np.repeat(KINDS[:1], 8, axis=0)
    with pytest.raises(DataError, match="look all alike"):
        split_cluster(two, 0, 2, ClusterClips(features, halves(8)), 0)


def test_a_clusters_clips_go_to_the_nearest_others_once_it_is_gone() -> None:
    features = np.concatenate([kinds_of([0]), kinds_of([1]) + KINDS[0], kinds_of([2])])
    model = fit_clusters(features, 3, 0)
    of = [int(label(model, features[i * PER_KIND : (i + 1) * PER_KIND])[0]) for i in range(3)]
    less = without_cluster(model, of[1])
    assert label(less, features[PER_KIND : 2 * PER_KIND]) == [of[0]]
    assert label(less, features[2 * PER_KIND :]) == [of[2]]
    with pytest.raises(DataError, match="the only one"):
        without_cluster(without_cluster(less, of[0]), of[2])


def test_saved_clusters_are_read_back_and_a_damaged_file_is_said_to_be(
    two: ClusterModel, tmp_path: Path
) -> None:
    path = tmp_path / "clusters.safetensors"
    two.save(path)
    read = ClusterModel.load(path)
    for name in ("mean", "basis", "centres", "merged"):
        assert np.array_equal(getattr(read, name), getattr(two, name))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"clusters\.safetensors cannot be read"):
        ClusterModel.load(path)
