"""Splits one cluster of a run in two, and takes one out, with all other clusters as they were.

Legend: N clips of the cluster, F features, R reduced features, M fine centres of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from paris_p2p.data.clusters import ClusterModel, Labels, fit_centres, fit_reduction
from paris_p2p.errors import DataError

_CLIPS_PER_CENTRE = (16, 4, 1)  # of a cluster that is split; fewer, where it cannot be parted otherwise
_MORE_AXES = 16


@dataclass(frozen=True)
class ClusterClips:
    """Holds the clips of one cluster as they are split: what they look like, and which are trained on."""

    features: NDArray[np.float32]  # [N F]
    trained: NDArray[np.bool_]  # [N]; the others are the gate's


@dataclass(frozen=True)
class SplitClusters:
    """Holds the clusters after a split, and who got the clips that were split."""

    model: ClusterModel
    is_child: NDArray[np.bool_]  # [N]


def split_cluster(
    model: ClusterModel, parent: int, child: int, clips: ClusterClips, rng_seed: int
) -> SplitClusters:
    """Parts a cluster by 2-means of new fine centres of its train clips; DataError where no two parts can be
    trained and checked.

    Its old centres and axes are those of the clips that the run began with. What joined it later may differ
    along others, so axes of what these leave out are added first.

    The part whose mean is nearer to the whole cluster's stays the parent's, the other is the child's. Where
    2-means leaves a part without train or gate clips, the cut across the longest direction that is nearest to
    the middle is taken. Clips of other clusters stay where they are.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # parallel sums come in any order, and the same clips must give the same parts
        model, reduced = _reducible(model, clips)
        trained = reduced[clips.trained]
        if len(np.unique(trained.round(4), axis=0)) < 2:
            raise DataError(
                f"the {len(trained)} train clips of cluster {parent} look all alike and cannot be split; "
                "give more clips of its kind (paris-run prepare --into)"
            )
        for clips_per_centre in _CLIPS_PER_CENTRE:
            finer = _refitted(model, parent, trained, max(2, len(trained) // clips_per_centre), rng_seed)
            mine = np.flatnonzero(finer.merged == parent)
            nearest = _nearest(finer.centres[mine], reduced)  # [N], of M
            for is_far in _parts(finer.centres[mine], nearest[clips.trained], rng_seed):
                far = is_far[nearest]  # [N]
                if _can_be_checked(far, clips.trained):
                    if _is_nearer(trained, far[clips.trained]):
                        is_far, far = ~is_far, ~far
                    merged = finer.merged.copy()
                    merged[mine[is_far]] = child
                    return SplitClusters(replace(finer, merged=merged), far)
    gate = int((~clips.trained).sum())
    raise DataError(
        f"cluster {parent} has {len(trained)} train and {gate} gate clips, and no two parts of it would both "
        "have some of each; give more clips of its kind (paris-run prepare --into)"
    )


def without_cluster(model: ClusterModel, cluster: int) -> ClusterModel:
    """Returns the clusters less one, whose clips are then nearest to others; DataError for the last one."""
    kept = model.merged != cluster
    if not kept.any():
        raise DataError(f"cluster {cluster} is the only one; its clips would have nowhere to go")
    return replace(model, centres=model.centres[kept], merged=model.merged[kept])


def _reducible(model: ClusterModel, clips: ClusterClips) -> tuple[ClusterModel, NDArray[np.float32]]:
    """Returns the model, with more axes, and the clips reduced by it [N R]; a model of one cluster, which
    reduces all to nothing, is given principal axes first.
    """
    if not model.basis.any():
        mean, basis = fit_reduction(clips.features[clips.trained])
        model = replace(model, mean=mean, basis=basis, centres=np.zeros((1, basis.shape[1]), np.float32))
        model = replace(model, merged=model.merged[:1])
    model = _with_axes(model, clips.features[clips.trained])
    return model, model.reduce(clips.features)


def _with_axes(model: ClusterModel, features: NDArray[np.float32]) -> ClusterModel:
    """Returns the model with axes, across its own, along which these clips [N F] lie; its centres have 0
    there, as the clips that they were fitted on have on average.
    """
    left = model.residual(features)  # [N F]
    axes = np.linalg.svd(left, full_matrices=False)[2][: min(_MORE_AXES, *left.shape)].T  # [F, more]
    basis = np.concatenate([model.basis, axes], axis=1).astype(np.float32)
    centres = np.pad(model.centres, ((0, 0), (0, axes.shape[1])))
    return replace(model, basis=np.ascontiguousarray(basis), centres=centres)


def _refitted(
    model: ClusterModel, cluster: int, trained: NDArray[np.float32], centres: int, rng_seed: int
) -> ClusterModel:
    """Returns the model with so many fine centres of these clips [N R] in the place of the cluster's."""
    others = model.merged != cluster
    made = fit_centres(trained, centres, rng_seed)
    return replace(
        model,
        centres=np.concatenate([model.centres[others], made]),
        merged=np.concatenate([model.merged[others], np.full(len(made), cluster, np.int64)]),
    )


def _parts(centres: NDArray[np.float32], nearest: Labels, rng_seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yields ways to part fine centres [M R] in two, the best first; `nearest` are the train clips' own."""
    from sklearn.cluster import KMeans

    counts = np.bincount(nearest, minlength=len(centres))
    used = counts > 0
    two = KMeans(2, n_init=20, random_state=rng_seed % 2**32)
    two.fit(centres[used], sample_weight=counts[used].astype(np.float64))
    yield two.predict(centres).astype(bool)
    spread = centres - centres[used].mean(0)
    along = spread @ np.linalg.svd(spread[used], full_matrices=False)[2][0]
    order = np.argsort(along, kind="stable")
    before = np.cumsum(counts[order])
    for cut in sorted(range(1, len(order)), key=lambda cut: abs(2 * int(before[cut - 1]) - int(before[-1]))):
        is_far = np.zeros(len(centres), bool)
        is_far[order[cut:]] = True
        yield is_far


def _can_be_checked(far: NDArray[np.bool_], trained: NDArray[np.bool_]) -> bool:
    """Tells whether both parts have train and gate clips."""
    return all(bool((part & kind).any()) for part in (far, ~far) for kind in (trained, ~trained))


def _is_nearer(trained: NDArray[np.float32], far: NDArray[np.bool_]) -> bool:
    """Tells whether the part that is called far has its mean nearer to that of all."""
    mean = trained.mean(0)
    distances = [float(((trained[part].mean(0) - mean) ** 2).sum()) for part in (far, ~far)]
    return distances[0] < distances[1]


def _nearest(centres: NDArray[np.float32], reduced: NDArray[np.float32]) -> Labels:
    squared = (centres**2).sum(1) - 2 * reduced @ centres.T
    nearest: Labels = squared.argmin(1)
    return nearest
