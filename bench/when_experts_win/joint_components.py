"""Fits principal components on real and generated clips together, so that neither side's odd directions are
out of sight.

Fitted on real clips alone, components do not see what only generated clips do: where these are wrong in a way
that no real clip is, a distance on such components is blind to it.
Legend: N real clips, M generated clips, F features, D components.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UsageError
from paris_p2p.score.distances import Components


def joint_components(real: NDArray[Any], generated: NDArray[Any], count: int) -> Components:
    """Fits `count` components to [N F] and [M F], where each side weighs a half whatever its count is.

    UsageError when there are not so many.
    """
    if not 1 <= count <= min(len(real) + len(generated) - 1, real.shape[1]):
        raise UsageError(
            f"{count} components of {len(real)} and {len(generated)} clips with {real.shape[1]} features: "
            "choose fewer"
        )
    sides = [side.astype(np.float64) for side in (real, generated)]
    mean = sum(side.mean(0) for side in sides) / 2
    covariance = sum((side - mean).T @ (side - mean) / len(side) for side in sides) / 2
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :count]  # the largest first
    return Components(mean, np.ascontiguousarray(axes))
