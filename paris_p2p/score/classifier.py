"""Tests whether a linear classifier can tell generated from real clips.

This is the two-sample test of Lopez-Paz and Oquab 2017 (arXiv 1610.06545): a logistic regression on the
features, cross-validated; clips of one source video, real and generated alike, are never on both sides of a
fold. 0.5 means that it cannot tell.
Legend: P pooled clips, real first, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paris_p2p.errors import UsageError
from paris_p2p.score.intervals import Clips, Floats, Plan, Rows, Score, measure

FOLDS = 5
STRENGTH = 0.01  # sklearn's C: features are often more than clips
MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class ClassifierTest:
    """Holds both scores with intervals that include what other clips would change in the training.

    Held-out answers alone scatter less: their intervals are too narrow by a third.
    """

    accuracy: Score  # of each side, averaged
    auc: Score


def classifier_test(
    features_name: str, real: Clips, generated: Clips, plan: Plan | None = None
) -> ClassifierTest:
    """Returns held-out accuracy and area under the ROC curve; UsageError below 10 source videos a side."""
    features = np.concatenate([real.features, generated.features]).astype(np.float64)  # P F
    sources = np.unique(np.concatenate([real.sources, generated.sources]), return_inverse=True)[1]  # P
    fewest = min(len(np.unique(side.sources)) for side in (real, generated))
    if fewest < 2 * FOLDS:
        raise UsageError(
            f"{fewest} source videos on one side: "
            f"the classifier test needs {2 * FOLDS}, as the floor halves them"
        )
    rows = np.arange(len(features))
    answers = np.concatenate(_held_out(features, sources, rows[: len(real)], rows[len(real) :]))  # P
    halves = _remembered(features, sources)

    def score(title: str, rate: Callable[[Floats, Floats], float]) -> Score:
        def held_out(a: Rows, b: Rows) -> float:
            return rate(answers[a], answers[b])

        def refitted(a: Rows, b: Rows) -> float:
            return rate(*halves(a, b))

        found = measure(f"{title}, {features_name}", held_out, real, generated, plan, refitted=refitted)
        return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))

    return ClassifierTest(score("Classifier accuracy", balanced_accuracy), score("Classifier AUC", auc))


def balanced_accuracy(real: Floats, generated: Floats) -> float:
    """Returns the share of each side that is answered rightly (real below 0.5), averaged over both."""
    return float(((real < 0.5).mean() + (generated >= 0.5).mean()) / 2)


def auc(real: Floats, generated: Floats) -> float:
    """Returns the chance that a generated clip's answer lies above a real one's; ties count half."""
    ordered = np.sort(real)
    below = np.searchsorted(ordered, generated, "left") + np.searchsorted(ordered, generated, "right")
    return float(below.mean() / (2 * len(real)))


def _held_out(features: Floats, sources: NDArray[np.int64], a: Rows, b: Rows) -> tuple[Floats, Floats]:
    """Returns P(generated) of each clip, from a classifier that saw no clip of its source video."""
    rows = np.concatenate([a, b])
    x, groups = features[rows], sources[rows]
    y = np.repeat([0, 1], [len(a), len(b)])
    answers = np.empty(len(rows))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(x, y, groups):
        classifier = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=MAX_ITERATIONS)
        answers[test] = (
            make_pipeline(StandardScaler(), classifier).fit(x[train], y[train]).predict_proba(x[test])[:, 1]
        )
    return answers[: len(a)], answers[len(a) :]


def _remembered(
    features: Floats, sources: NDArray[np.int64]
) -> Callable[[Rows, Rows], tuple[Floats, Floats]]:
    """Keeps the answers of each split, so that accuracy and AUC train a classifier once for both."""
    known: dict[bytes, tuple[Floats, Floats]] = {}

    def answers(a: Rows, b: Rows) -> tuple[Floats, Floats]:
        key = a.tobytes() + b"|" + b.tobytes()
        if key not in known:
            known[key] = _held_out(features, sources, a, b)
        return known[key]

    return answers
