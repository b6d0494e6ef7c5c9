"""Computes the Fréchet and the kernel distance between two sets of features.

A distance is named after the features it was computed on. Fréchet: Heusel et al. 2017 (arXiv 1706.08500), Eq.
6. Kernel: Bińkowski et al. 2018 (arXiv 1801.01401), section 3.
Legend: N real clips, M generated clips, P pooled clips (real first), F features, D principal components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UsageError
from paris_p2p.score.intervals import Clips, Floats, Plan, Rows, Score, Statistic, measure

# Only with this network is the Fréchet distance called FVD (Unterthiner et al. 2018, arXiv 1812.01717).
FVD_FEATURES = "I3D"
MAX_POOLED_CLIPS = 12_000  # of the kernel distance: its matrix and one copy then take 2.3 GB


@dataclass(frozen=True)
class Components:
    """Projects both sides onto the principal components of the real side."""

    mean: Floats  # [F]
    axes: Floats  # [F D]

    @classmethod
    def fit(cls, real: NDArray[Any], count: int) -> Components:
        """Fits `count` components to real features [N F]; UsageError when there are not so many."""
        if not 1 <= count <= min(len(real) - 1, real.shape[1]):
            raise UsageError(
                f"{count} principal components of {len(real)} clips with {real.shape[1]} features: "
                "choose fewer"
            )
        x = real.astype(np.float64)  # N F
        mean = x.mean(0)
        return cls(mean, np.linalg.svd(x - mean, full_matrices=False)[2][:count].T)

    def __call__(self, features: NDArray[Any]) -> Floats:
        """Projects features: [N F] -> [N D]."""
        projected: Floats = (features.astype(np.float64) - self.mean) @ self.axes
        return projected  # N D


def frechet_distance(
    real: NDArray[Any],
    generated: NDArray[Any],
    components: int | None = None,
    weights: NDArray[Any] | None = None,
) -> float:
    """Returns |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the Gaussians fitted to [N F] and [M F].

    It is the squared distance, as everybody reports it. `weights` [M], not negative, say how much each
    generated clip counts; alike where None.
    """
    _check(real, generated)
    if components is not None:
        project = Components.fit(real, components)
        real, generated = project(real), project(generated)
    shares = None if weights is None else shares_of(weights, len(generated))
    mean1, root1 = _fit(real.astype(np.float64))
    mean2, root2 = _fit(generated.astype(np.float64), shares)
    return _frechet(mean1, root1, mean2, root2)


def kernel_distance(
    real: NDArray[Any], generated: NDArray[Any], weights: NDArray[Any] | None = None
) -> float:
    """Returns the unbiased kernel distance of [N F] and [M F], without the intervals of `score_kernel`.

    It may be negative, and values of any counts compare. `weights` [M] as in `frechet_distance`.
    """
    _check(real, generated)
    x, y = real.astype(np.float64), generated.astype(np.float64)
    u = np.full(len(x), 1 / len(x))
    v = np.full(len(y), 1 / len(y)) if weights is None else shares_of(weights, len(y))
    within = sum(
        (w @ _cubic(z, z) @ w - np.square(w) @ _cubic_itself(z)) / (1 - np.square(w).sum())
        for w, z in ((u, x), (v, y))
    )
    return float(within - 2 * u @ _cubic(x, y) @ v)


def shares_of(weights: NDArray[Any], clips: int) -> Floats:
    """Returns weights [M] as shares that sum to one; UsageError unless two clips or more count."""
    shares: Floats = weights.astype(np.float64)
    if shares.shape != (clips,) or not np.isfinite(shares).all() or (shares < 0).any():
        raise UsageError(f"weights of shape {shares.shape} for {clips} clips: each needs one, 0 or more")
    if (shares > 0).sum() < 2:
        raise UsageError(f"of {clips} clips {(shares > 0).sum()} have weight: a distance needs 2")
    shares = shares / shares.sum()
    return shares


def score_frechet(
    features_name: str,
    real: Clips,
    generated: Clips,
    *,
    components: int | None = None,
    plan: Plan | None = None,
) -> Score:
    """Scores `Fréchet distance, <features>`, on `components` principal components of the real clips if given.

    The distance is biased upwards, the more the fewer clips there are: `matched`, `floor` and `excess` are of
    one count; `value` compares only with values of the same counts, as those of papers are.
    """
    _check(real.features, generated.features)
    if components is None:
        pooled = np.concatenate([real.features, generated.features]).astype(np.float64)  # P F
    else:
        project = Components.fit(real.features, components)
        pooled = np.concatenate([project(real.features), project(generated.features)])  # P D

    def statistic(a: Rows, b: Rows) -> float:
        return _frechet(*_fit(pooled[a]), *_fit(pooled[b]))

    name = _named("Fréchet distance", features_name)
    if components is not None:
        name += f" ({components} components)"
    elif features_name == FVD_FEATURES:
        name = f"FVD ({name})"
    return measure(name, statistic, real, generated, plan)


def score_kernel(features_name: str, real: Clips, generated: Clips, *, plan: Plan | None = None) -> Score:
    """Scores `Kernel distance, <features>`; it is unbiased, so values of any counts compare."""
    _check(real.features, generated.features)
    if len(real) + len(generated) > MAX_POOLED_CLIPS:
        raise UsageError(
            f"the kernel distance of {len(real)} and {len(generated)} clips: "
            f"at most {MAX_POOLED_CLIPS} together, take fewer"
        )
    statistic = kernel_statistic(np.concatenate([real.features, generated.features]))
    return measure(_named("Kernel distance", features_name), statistic, real, generated, plan)


def kernel_statistic(pooled: NDArray[Any]) -> Statistic:
    """Returns the unbiased kernel distance as a statistic of two sets of rows of pooled features [P F]."""
    x = pooled.astype(np.float64)
    kernel = x @ (x / x.shape[1]).T  # P P
    kernel += 1
    kernel *= kernel * kernel
    itself = np.diagonal(kernel).copy()

    def statistic(a: Rows, b: Rows) -> float:
        # How often each clip was drawn, [P] for either side.
        u, v = (np.bincount(rows, minlength=len(x)).astype(np.float64) for rows in (a, b))
        ku, kv = kernel @ u, kernel @ v
        within = sum((w @ kw - w @ itself) / (w.sum() * (w.sum() - 1)) for w, kw in ((u, ku), (v, kv)))
        return float(within - 2 * (u @ kv) / (u.sum() * v.sum()))

    return statistic


def _named(distance: str, features_name: str) -> str:
    if not features_name:
        raise UsageError(f"a {distance} without the name of its features says nothing: give one")
    return f"{distance}, {features_name}"


def _check(real: NDArray[Any], generated: NDArray[Any]) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise UsageError(
            f"features of shapes {real.shape} and {generated.shape} cannot be compared: "
            "they must be [clips, features] alike"
        )
    if min(len(real), len(generated)) < 2:
        raise UsageError(
            f"{len(real)} real and {len(generated)} generated clips: a distance needs at least 2 of each"
        )


def _fit(x: Floats, shares: Floats | None = None) -> tuple[Floats, Floats]:
    """Returns (m, R) with C = R^T R; the covariance itself is never formed.

    With shares [N], which sum to one, C is unbiased where all are alike, and reliability-weighted otherwise.
    """
    if shares is None:
        mean = x.mean(0)
        centred = (x - mean) / np.sqrt(len(x) - 1)
    else:
        mean = shares @ x
        centred = (x - mean) * np.sqrt(shares / (1 - np.square(shares).sum()))[:, None]
    root: Any = np.linalg.qr(centred, mode="r")  # numpy's stubs call it a pair
    return mean, root  # F, min(N, F) F


def _frechet(mean1: Floats, root1: Floats, mean2: Floats, root2: Floats) -> float:
    """Takes tr (C1 C2)^(1/2) as the sum of the singular values of R1 R2^T.

    That is stable for covariances of any rank, where a matrix root is not.
    """
    overlap = np.linalg.svd(root1 @ root2.T, compute_uv=False).sum()
    spread = np.square(root1).sum() + np.square(root2).sum() - 2 * overlap
    return float(np.square(mean1 - mean2).sum() + spread)


def _cubic(x: Floats, y: Floats) -> Floats:
    """Returns (x . y / F + 1)^3 of all pairs: [N F], [M F] -> [N M]."""
    kernel: Floats = x @ (y / y.shape[1]).T
    kernel += 1
    kernel *= np.square(kernel)
    return kernel


def _cubic_itself(x: Floats) -> Floats:
    """Returns the kernel of each clip with itself: [N F] -> [N]."""
    itself: Floats = (np.square(x).sum(1) / x.shape[1] + 1) ** 3
    return itself
