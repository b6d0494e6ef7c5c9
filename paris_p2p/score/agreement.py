"""Measures how well clips agree with their own captions, beside captions dealt out anew: chance is a number.

With CLIP the agreement is the mean cosine of caption and frames.
Legend: N clips, F features of the space in which clips and captions both lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UsageError
from paris_p2p.score.intervals import Clips, Interval, Plan, Rows, Score, resampled, tree_of
from paris_p2p.score.values import score_values


@dataclass(frozen=True)
class Agreement:
    """Holds the agreement of one side, as means over its clips."""

    own: Interval  # with their own captions
    # The mean over all ways to deal the same captions out anew: what ignoring captions gives.
    shuffled: Interval
    above_chance: Interval  # own minus shuffled

    @property
    def heeded(self) -> bool:
        """Says whether clips agree with their own captions more than by chance."""
        return self.above_chance.low > 0


@dataclass(frozen=True)
class TextSimilarity:
    """Compares generated clips with real ones, whose agreement with captions is what they may reach."""

    name: str
    real: Agreement
    generated: Agreement
    difference: Score  # generated minus real, both with their own captions


def score_text_similarity(
    features_name: str,
    real: Clips,
    real_text: NDArray[Any],
    generated: Clips,
    text: NDArray[Any],
    plan: Plan | None = None,
) -> TextSimilarity:
    """Scores the clips' mean unit vectors [N F] against their captions' unit vectors [N F], clip by clip."""
    name = f"Text-video similarity, {features_name}"
    difference = score_values(
        name, own_agreement(real, real_text), own_agreement(generated, text), plan
    ).difference
    return TextSimilarity(
        name, agreement(real, real_text, plan), agreement(generated, text, plan), difference
    )


def agreement(clips: Clips, captions: NDArray[Any], plan: Plan | None = None) -> Agreement:
    """Returns the agreement of clips [N F] with captions [N F], which is their product.

    Over all N! ways to deal captions out, the mean product is that of the mean clip with the mean caption:
    nothing is drawn.
    """
    own_agreement(clips, captions)
    x, y = clips.features.astype(np.float64), captions.astype(np.float64)  # N F
    each = (x * y).sum(1)  # N

    def own(rows: Rows) -> float:
        return float(each[rows].mean())

    def shuffled(rows: Rows) -> float:
        return float(x[rows].mean(0) @ y[rows].mean(0))

    def above(rows: Rows) -> float:
        return own(rows) - shuffled(rows)

    rows, trees, plan = [np.arange(len(clips))], (tree_of(clips),), plan or Plan()
    return Agreement(*(resampled(statistic, rows, trees, plan) for statistic in (own, shuffled, above)))


def own_agreement(clips: Clips, captions: NDArray[Any]) -> Clips:
    """Returns the same clips with their agreement as their one feature, [N 1]."""
    if captions.shape != clips.features.shape:
        raise UsageError(
            f"clips of {clips.features.shape} and captions of {captions.shape}: "
            "each clip needs its own, in one space"
        )
    each = (clips.features.astype(np.float64) * captions.astype(np.float64)).sum(1, keepdims=True)
    return Clips(each, clips.sources, clips.seeds)
