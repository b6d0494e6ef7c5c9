"""Clusters clips by k-means in two stages, fine and then merged to K, as diffusion experts' data is parted.

Source: section 3 of DDM (arXiv 2501.05450).
Legend: N clips, F features, R reduced features, M fine centres, K clusters.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from paris_p2p.errors import DataError

MAX_FIT_CLIPS = 20_000  # more do not move the centres; the features of these are held in memory
REDUCED = 64
MAX_FINE = 1024
MINI_BATCH_FROM_CLIPS = 8192
SILHOUETTE_CLIPS = 2000

_Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ClusterModel:
    """Assigns clips to clusters by the nearest fine centre.

    Features are first brought to unit length, centred and reduced.
    """

    mean: _Floats  # [F]
    basis: _Floats  # [F, R]
    centres: _Floats  # [M, R]
    merged: Labels  # [M], the cluster of each fine centre

    @property
    def clusters(self) -> int:
        return int(self.merged.max()) + 1

    def reduce(self, features: _Floats) -> _Floats:
        """Reduces features: [N, F] -> [N, R]."""
        reduced: _Floats = ((_unit(features) - self.mean) @ self.basis).astype(np.float32)
        return reduced

    def assign(self, reduced: _Floats) -> Labels:
        """Returns the cluster of the nearest fine centre: [N, R] -> [N]."""
        # Squared distances [N, M], but for a term that is the same for all centres.
        squared = (self.centres**2).sum(1) - 2 * reduced @ self.centres.T
        labels: Labels = self.merged[squared.argmin(1)]
        return labels

    @classmethod
    def load(cls, path: Path) -> ClusterModel:
        """Reads what `save` wrote; DataError when the file is missing or damaged."""
        try:
            return cls(**load(path.read_bytes()))
        except (OSError, SafetensorError, TypeError) as error:
            raise DataError(f"{path} cannot be read ({error}); prepare the clips again") from error

    def residual(self, features: _Floats) -> _Floats:
        """Returns what `reduce` leaves out of features: [N, F] -> [N, F]."""
        centred = _unit(features) - self.mean
        residual: _Floats = (centred - (centred @ self.basis) @ self.basis.T).astype(np.float32)
        return residual

    def distances(self, features: _Floats) -> _Floats:
        """Returns how far clips lie from the nearest fine centre: [N, F] -> [N], in [0, 2].

        What the reduction leaves out counts too, or clips of another world, whose features differ along axes
        that no clip of this one has, would seem near.
        """
        centred = _unit(features) - self.mean  # [N, F]
        reduced = centred @ self.basis  # [N, R]
        nearest = ((self.centres**2).sum(1) - 2 * reduced @ self.centres.T).min(1)
        distances: _Floats = np.sqrt(np.maximum(0, (centred**2).sum(1) + nearest)).astype(np.float32)
        return distances

    def save(self, path: Path) -> None:
        """Writes the model as one safetensors file."""
        path.write_bytes(
            save({"mean": self.mean, "basis": self.basis, "centres": self.centres, "merged": self.merged})
        )


def fit_clusters(
    features: _Floats, clusters: int, rng_seed: int, sources: Sequence[str] | None = None
) -> ClusterModel:
    """Fits clusters to train clips [N, F]; cluster 0 is the largest.

    With `sources` [N], which name each clip's source, every cluster gets clips of at least two sources: one
    to train on, one to check with. DataError when N or the clips' variety does not allow K clusters.
    """
    from threadpoolctl import threadpool_limits

    count = features.shape[0]
    if count < 2 * clusters:
        raise DataError(
            f"{count} train clips cannot make {clusters} clusters; "
            f"give more clips, or ask for at most {count // 2} experts"
        )
    unit = _unit(features)
    # One thread: parallel sums come in any order, and the same clips must give the same clusters.
    with threadpool_limits(1):
        mean, basis = _reduction(unit, clusters)
        reduced: _Floats = ((unit - mean) @ basis).astype(np.float32)
        distinct = len(np.unique(reduced.round(4), axis=0))
        if distinct < clusters:
            raise DataError(
                f"the {count} train clips are only {distinct} different ones, too few for {clusters} experts"
            )
        centres, merged = _two_stages(reduced, distinct, clusters, rng_seed)
        if sources is not None and not _all_shared(
            ClusterModel(mean, basis, centres, merged).assign(reduced), clusters, sources
        ):
            fine, merged = _two_stages(reduced, distinct, clusters, rng_seed, every=True)
            centres, merged = fine, _shared_out(reduced, fine, merged, clusters, sources)
    model = ClusterModel(mean, basis, centres, merged)
    return ClusterModel(mean, basis, centres, _largest_first(model.assign(reduced), clusters)[merged])


def _reduction(unit: _Floats, clusters: int) -> tuple[_Floats, _Floats]:
    """Returns the mean [F] and the principal axes [F, R] of unit features [N, F]."""
    from sklearn.decomposition import PCA

    count, width = unit.shape
    if clusters == 1:
        return unit.mean(0).astype(np.float32), np.zeros((width, 1), np.float32)
    pca = PCA(min(REDUCED, count - 1, width), svd_solver="covariance_eigh").fit(unit)
    return pca.mean_.astype(np.float32), np.ascontiguousarray(pca.components_.T.astype(np.float32))


def fit_reduction(features: _Floats) -> tuple[_Floats, _Floats]:
    """Returns what brings features [N, F] to few numbers: their mean [F] and principal axes [F, R]."""
    return _reduction(_unit(features), 2)


def fit_centres(reduced: _Floats, centres: int, rng_seed: int) -> _Floats:
    """Returns at most so many k-means centres of clips [N, R], of those that have clips: [M, R]."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(reduced.round(4), axis=0))
    model = KMeans(min(distinct, centres), n_init=3, random_state=rng_seed % 2**32).fit(reduced)
    sizes = np.bincount(model.labels_, minlength=len(model.cluster_centers_))
    found: _Floats = model.cluster_centers_[sizes > 0].astype(np.float32)
    return found


def silhouettes(reduced: _Floats, labels: Labels, clusters: int, rng_seed: int) -> list[float]:
    """Returns each cluster's mean silhouette in [-1, 1], on a sample of clips; 0 where it is undefined."""
    from sklearn.metrics import silhouette_samples

    chosen = np.random.default_rng(rng_seed).permutation(len(labels))[:SILHOUETTE_CLIPS]
    picked = labels[chosen]
    present = len(np.unique(picked))
    if not 2 <= present < len(picked):
        return [0.0] * clusters
    scores = silhouette_samples(reduced[chosen], picked)
    return [float(scores[picked == k].mean()) if (picked == k).any() else 0.0 for k in range(clusters)]


def _all_shared(labels: Labels, clusters: int, sources: Sequence[str]) -> bool:
    return not _unshared(labels, clusters, sources)


def _unshared(labels: Labels, clusters: int, sources: Sequence[str]) -> list[int]:
    """Returns the clusters whose clips come from fewer than two sources."""
    owners: list[set[str]] = [set() for _ in range(clusters)]
    for label, source in zip(labels.tolist(), sources, strict=True):
        owners[label].add(source)
    return [k for k in range(clusters) if len(owners[k]) < 2]


def _shared_out(
    reduced: _Floats, centres: _Floats, merged: Labels, clusters: int, sources: Sequence[str]
) -> Labels:
    """Merges the fine centres [M] so that every cluster has clips of two sources.

    A cluster of one source joins its nearest, and the largest that can be cut is halved instead.
    """
    nearest = ((centres**2).sum(1) - 2 * reduced @ centres.T).argmin(1)  # [N]
    merged = merged.copy()
    for _ in range(4 * clusters):
        alone = _unshared(merged[nearest], clusters, sources)
        if not alone:
            return merged
        k = alone[0]
        others = [c for c in range(clusters) if c != k and (merged == c).any()]
        if (merged == k).any():
            mine = centres[merged == k].mean(0)
            merged[merged == k] = min(
                others, key=lambda c: float(((centres[merged == c].mean(0) - mine) ** 2).sum())
            )
        if not _halve(centres, merged, nearest, k, sources):
            break
    found = clusters - len(_unshared(merged[nearest], clusters, sources))
    raise DataError(
        f"the train clips fall into {found} clusters of two sources each at least, not {clusters}: "
        "every expert needs one to train on and another to check with; "
        f"give more clips, or ask for {max(1, found)} experts"
    )


def _halve(centres: _Floats, merged: Labels, nearest: Labels, new: int, sources: Sequence[str]) -> bool:
    """Cuts the largest cluster that can be across its longest direction; one half becomes `new`.

    Both halves have clips of two sources.
    """
    sizes = np.bincount(merged[nearest], minlength=int(merged.max()) + 1)
    for k in np.argsort(-sizes, kind="stable").tolist():
        mine = np.flatnonzero(merged == k)
        if len(mine) < 2:
            continue
        spread = centres[mine] - centres[mine].mean(0)
        along = spread @ np.linalg.svd(spread, full_matrices=False)[2][0]
        order = mine[np.argsort(along, kind="stable")]
        for cut in sorted(range(1, len(order)), key=lambda cut: abs(2 * cut - len(order))):
            before = [sources[i] for i in np.flatnonzero(np.isin(nearest, order[:cut])).tolist()]
            after = [sources[i] for i in np.flatnonzero(np.isin(nearest, order[cut:])).tolist()]
            if len(set(before)) > 1 and len(set(after)) > 1:
                merged[order[cut:]] = new
                return True
    return False


def _two_stages(
    reduced: _Floats, distinct: int, clusters: int, rng_seed: int, *, every: bool = False
) -> tuple[_Floats, Labels]:
    """Returns fine centres and the cluster of each; with `every`, as many centres as there may be."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    count = len(reduced)
    fine = min(distinct, MAX_FINE, count if every else max(clusters, count // 16))
    kind = MiniBatchKMeans if count >= MINI_BATCH_FROM_CLIPS else KMeans
    with warnings.catch_warnings():
        # Near-duplicates may leave fewer centres than asked for, which is all right at the fine stage.
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        model = kind(fine, n_init=3, random_state=rng_seed % 2**32).fit(reduced)
    sizes = np.bincount(model.labels_, minlength=fine)
    centres = model.cluster_centers_[sizes > 0].astype(np.float32)
    if len(centres) < clusters:
        raise DataError(
            f"the train clips fall into {len(centres)} groups, too few for {clusters} clusters; "
            "ask for fewer experts"
        )
    weights = sizes[sizes > 0].astype(np.float64)
    merged = (
        KMeans(clusters, n_init=20, random_state=rng_seed % 2**32).fit(centres, sample_weight=weights).labels_
    )
    return centres, merged.astype(np.int64)


def _largest_first(labels: Labels, clusters: int) -> Labels:
    """Maps old labels to new ones, so that label 0 is the largest cluster."""
    sizes = np.bincount(labels, minlength=clusters)
    new = np.empty(clusters, np.int64)
    new[np.argsort(-sizes, kind="stable")] = np.arange(clusters)
    return new


def _unit(features: _Floats) -> _Floats:
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    unit: _Floats = (features / np.maximum(norm, 1e-8)).astype(np.float32)
    return unit
