"""Scores one number per clip (motion, aesthetic value): each side's mean, and their difference.

The difference stands beside that of real clips among themselves. Legend: N clips of a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paris_p2p.errors import UsageError
from paris_p2p.score.intervals import Clips, Interval, Plan, Rows, Score, measure, resampled, tree_of


@dataclass(frozen=True)
class Values:
    """Holds the means over clips and their difference."""

    real: Interval
    generated: Interval
    difference: Score  # generated minus real; the floor's is that of two halves of the real clips, around 0


def score_values(name: str, real: Clips, generated: Clips, plan: Plan | None = None) -> Values:
    """Scores a number per clip, given as [N 1] features.

    A mean is unbiased, so all its numbers compare whatever the counts are.
    """
    for side in (real, generated):
        if side.features.shape[1] != 1:
            raise UsageError(f"{name}: features of shape {side.features.shape} are not one number per clip")
    values = np.concatenate([real.features, generated.features])[:, 0].astype(np.float64)
    plan = plan or Plan()

    def statistic(a: Rows, b: Rows) -> float:
        return float(values[b].mean() - values[a].mean())

    return Values(_mean(real, plan), _mean(generated, plan), measure(name, statistic, real, generated, plan))


def _mean(clips: Clips, plan: Plan) -> Interval:
    values = clips.features[:, 0].astype(np.float64)
    return resampled(
        lambda rows: float(values[rows].mean()), [np.arange(len(clips))], (tree_of(clips),), plan
    )
