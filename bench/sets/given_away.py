"""Says how far a set's captions give its clusters and worlds away, by linear probes on their embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bench.when_experts_win.product_set import TEST, TRAIN, ProductSet

FITTED_CLIPS = 8000


def given_away(made: ProductSet) -> dict[str, dict[str, float]]:
    """Returns how often a caption's pooled embedding tells a test clip's cluster and world, and chance.

    Chance is the share of the most frequent among the clips that the probe is fitted on.
    """
    pooled = made.pooled.float().numpy()[made.caption.numpy()]  # N P
    return {
        name: _told(pooled, getattr(made, name).numpy().astype(np.int64), made)
        for name in ("cluster", "world")
    }


def _told(pooled: NDArray[np.float32], labels: NDArray[np.int64], made: ProductSet) -> dict[str, float]:
    train, test = made.rows(TRAIN).numpy(), made.rows(TEST).numpy()
    train = np.random.default_rng(0).permutation(train)[:FITTED_CLIPS]
    probe: Any = LogisticRegression(max_iter=300).fit(pooled[train], labels[train])
    right = float((probe.predict(pooled[test]) == labels[test]).mean())
    most = np.bincount(labels[train]).argmax()
    return {"right": round(right, 3), "chance": round(float((labels[test] == most).mean()), 3)}
