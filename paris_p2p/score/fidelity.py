"""Measures whether generated clips show what the prompt asked for, with a probe fitted on real clips.

The probe is a logistic regression from a clip's features to a label of its caption (a class, a colour, a
direction). What it recognises on real clips that it never saw is the ceiling; prompts dealt out anew are
chance.
Legend: N clips, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paris_p2p.errors import UsageError
from paris_p2p.score.agreement import Agreement, agreement, own_agreement
from paris_p2p.score.intervals import Clips, Plan, Rows, Score
from paris_p2p.score.values import score_values

FOLDS = 5
STRENGTH = 0.01  # sklearn's C: features are often more than clips
MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class Probe:
    """Recognises one attribute of clips; it is frozen once fitted."""

    attribute: str
    features_name: str
    classes: tuple[str, ...]
    # On the clips it was fitted on, each answered by a classifier that saw nothing of its source video.
    held_out: Agreement
    sources: frozenset[Any]  # the source videos it was fitted on
    model: Any

    def __call__(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """Returns the class that each clip shows: [N F] -> [N]."""
        answers: NDArray[np.int64] = self.model.predict(features.astype(np.float64))
        return answers


@dataclass(frozen=True)
class ClassShare:
    """Says which share of the clips of one class shows it."""

    label: str
    clips: int
    recognised: float


@dataclass(frozen=True)
class Fidelity:
    """Holds the shares of clips recognised as prompted.

    The probe is taken as given: intervals resample only the clips that it judges.
    """

    name: str
    probe: Agreement  # held-out, on the clips it was fitted on
    real: Agreement  # on other real clips: what generated ones may reach
    generated: Agreement
    difference: Score  # generated minus real
    by_class: tuple[ClassShare, ...]  # of the generated clips


def fit_probe(
    attribute: str, features_name: str, clips: Clips, labels: Sequence[str], plan: Plan | None = None
) -> Probe:
    """Fits a probe on real clips that no score uses: the training split.

    UsageError when a class has fewer source videos than folds.
    """
    classes = tuple(sorted(set(labels)))
    if len(labels) != len(clips) or len(classes) < 2:
        raise UsageError(
            f"{len(clips)} clips have {len(labels)} labels of {len(classes)} classes: "
            "a probe needs one each, of 2 classes"
        )
    answers = np.searchsorted(classes, labels)  # N
    for index, label in enumerate(classes):
        videos = len(np.unique(clips.sources[answers == index]))
        if videos < FOLDS:
            raise UsageError(
                f"{attribute} {label!r} is in {videos} source videos: "
                f"the probe needs {FOLDS} of each class, merge rare ones"
            )
    x, groups = clips.features.astype(np.float64), np.unique(clips.sources, return_inverse=True)[1]
    guessed = np.empty(len(clips), dtype=np.int64)
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(x, answers, groups):
        guessed[test] = _fit(x[train], answers[train]).predict(x[test])
    held_out = agreement(_shown(clips, guessed, len(classes)), _one_hot(answers, len(classes)), plan)
    return Probe(
        attribute, features_name, classes, held_out, frozenset(clips.sources.tolist()), _fit(x, answers)
    )


def score_fidelity(
    probe: Probe,
    real: Clips,
    real_labels: Sequence[str],
    generated: Clips,
    prompted: Sequence[str],
    plan: Plan | None = None,
) -> Fidelity:
    """Scores the share of generated clips recognised as prompted, beside that of real clips.

    UsageError when the probe was fitted on a source video of these real clips.
    """
    seen = probe.sources & set(real.sources.tolist())
    if seen:
        raise UsageError(
            f"the probe was fitted on {len(seen)} of these source videos ({min(map(str, seen))} …): "
            "score it on other clips"
        )
    name = f"Prompt fidelity, {probe.attribute}, probe on {probe.features_name}"
    real_shown, real_asked = _judged(probe, real, real_labels)
    shown, asked = _judged(probe, generated, prompted)
    return Fidelity(
        name=name,
        probe=probe.held_out,
        real=agreement(real_shown, real_asked, plan),
        generated=agreement(shown, asked, plan),
        difference=score_values(
            name, own_agreement(real_shown, real_asked), own_agreement(shown, asked), plan
        ).difference,
        by_class=_by_class(probe, own_agreement(shown, asked).features[:, 0], asked),
    )


def _fit(x: NDArray[np.float64], answers: Rows) -> Any:
    classifier = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=MAX_ITERATIONS)
    return make_pipeline(StandardScaler(), classifier).fit(x, answers)


def _judged(probe: Probe, clips: Clips, labels: Sequence[str]) -> tuple[Clips, NDArray[np.float64]]:
    """Returns what each clip shows and what it should show, both [N K]."""
    unknown = sorted(set(labels) - set(probe.classes))
    if len(labels) != len(clips):
        raise UsageError(f"{len(clips)} clips have {len(labels)} labels of {probe.attribute}: give one each")
    if unknown:
        raise UsageError(
            f"no real clip showed {probe.attribute} {', '.join(map(repr, unknown[:5]))} to the probe: "
            "leave such clips out"
        )
    asked = np.searchsorted(probe.classes, labels).astype(np.int64)
    return _shown(clips, probe(clips.features), len(probe.classes)), _one_hot(asked, len(probe.classes))


def _shown(clips: Clips, answers: Rows, classes: int) -> Clips:
    return Clips(_one_hot(answers, classes), clips.sources, clips.seeds)


def _one_hot(answers: Rows, classes: int) -> NDArray[np.float64]:
    """Returns unit vectors, whose product is 1 for equal answers and 0 otherwise: [N] -> [N K]."""
    vectors: NDArray[np.float64] = np.eye(classes)[answers]
    return vectors


def _by_class(probe: Probe, right: NDArray[np.float64], asked: NDArray[np.float64]) -> tuple[ClassShare, ...]:
    counts, hits = asked.sum(0), right @ asked  # K
    return tuple(
        ClassShare(label, int(n), float(hit / n))
        for label, n, hit in zip(probe.classes, counts, hits, strict=True)
        if n
    )
