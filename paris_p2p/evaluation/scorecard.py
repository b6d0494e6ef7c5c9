"""From what an evaluation gathered to its numbers: every metric with its interval, and those that were left
out with the reason.

Legend: N clips, S times, E experts, G clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UsageError
from paris_p2p.evaluation.evidence import BASELINE, Evidence, Side
from paris_p2p.evaluation.inspect import Inspection
from paris_p2p.progress import Progress
from paris_p2p.score.agreement import TextSimilarity, score_text_similarity
from paris_p2p.score.classifier import classifier_test
from paris_p2p.score.distances import frechet_distance, kernel_distance, score_frechet, score_kernel
from paris_p2p.score.fidelity import Fidelity, Probe, fit_probe, score_fidelity
from paris_p2p.score.figures import expected_calibration_error
from paris_p2p.score.intervals import Clips, Floats, Interval, Plan, Score, resampled, tree_of
from paris_p2p.score.motion import score_motion
from paris_p2p.score.values import Values, score_values


class Mix(NamedTuple):
    """What kinds of clips there are too many of, and distances with that put right."""

    clusters: tuple[str, ...]
    real: Floats  # the share of real clips that show each, as the probe sees them
    generated: Floats
    distances: dict[str, tuple[float, float, float, float]]  # title -> Fréchet raw, right, kernel raw, right


@dataclass
class Card:
    """One model's numbers on its clips."""

    scores: list[Score] = field(default_factory=list)
    motion: Values | None = None
    fidelity: Fidelity | None = None
    mix: Mix | None = None
    similarity: list[TextSimilarity] = field(default_factory=list)
    aesthetic: Values | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, compute: Callable[[], None]) -> None:
        """Computes one metric; if these clips cannot carry it, it is named with what it needs, and the others
        stand.
        """
        try:
            compute()
        except UsageError as error:
            self.left_out[name] = str(error)


def score_model(evidence: Evidence, side: Side, plan: Plan | None = None) -> Card:
    """Returns all that can be computed of one model's clips."""
    card, real = Card(left_out=dict(evidence.real.left_out | side.left_out)), evidence.real
    for title in [title for title in real.features if title in side.features]:
        sides = real.features[title], side.features[title]
        for name, metric in _DISTANCES.items():
            card.attempt(f"{name}, {title}", partial(metric, card, title, *sides, plan))
    if real.motion is not None and side.motion is not None:
        card.attempt("Motion", lambda: _motion(card, evidence, side, plan))
    if real.aesthetic is not None and side.aesthetic is not None:
        card.attempt("Aesthetic value", lambda: _aesthetic(card, evidence, side, plan))
    card.attempt("Prompt fidelity", lambda: _fidelity(card, evidence, side, plan))
    for title in evidence.captions.keys() & real.features.keys() & side.features.keys():
        card.attempt(
            f"Text-video similarity, {title}", partial(_similarity, card, title, evidence, side, plan)
        )
    return card


def _frechet(card: Card, title: str, real: Clips, generated: Clips, plan: Plan | None) -> None:
    card.scores.append(score_frechet(title, real, generated, plan=plan))


def _kernel(card: Card, title: str, real: Clips, generated: Clips, plan: Plan | None) -> None:
    card.scores.append(score_kernel(title, real, generated, plan=plan))


def _classify(card: Card, title: str, real: Clips, generated: Clips, plan: Plan | None) -> None:
    test = classifier_test(title, real, generated, plan)
    card.scores += [test.accuracy, test.auc]


_DISTANCES = {"Fréchet distance": _frechet, "Kernel distance": _kernel, "Classifier test": _classify}


def _motion(card: Card, evidence: Evidence, side: Side, plan: Plan | None) -> None:
    assert evidence.real.motion is not None
    assert side.motion is not None
    card.motion = score_motion(evidence.real.motion, side.motion, plan)


def _aesthetic(card: Card, evidence: Evidence, side: Side, plan: Plan | None) -> None:
    assert evidence.real.aesthetic is not None
    assert side.aesthetic is not None
    card.aesthetic = score_values(
        f"Aesthetic value, {evidence.aesthetic}", evidence.real.aesthetic, side.aesthetic, plan
    )


def _similarity(card: Card, title: str, evidence: Evidence, side: Side, plan: Plan | None) -> None:
    """Scores how well clips fit their captions, which are the same on both sides."""
    text = evidence.captions[title]
    card.similarity.append(
        score_text_similarity(title, evidence.real.features[title], text, side.features[title], text, plan)
    )


def _fidelity(card: Card, evidence: Evidence, side: Side, plan: Plan | None) -> None:
    if evidence.probe is None:
        needed = "2 clusters with train clips, of 2 source videos, --probe-clips above 0, and usable features"
        raise UsageError(f"the probe tells clusters apart: it needs {needed}")
    title = next(iter(evidence.real.features))
    labels = [f"cluster {clip.cluster}" for clip in evidence.clips]
    taught = [f"cluster {k}" for k in evidence.probe.clusters]
    probe: Probe = fit_probe("cluster", title, evidence.probe.clips, taught, plan)
    card.fidelity = score_fidelity(
        probe, evidence.real.features[title], labels, side.features[title], labels, plan
    )
    card.mix = mix_of(probe, title, evidence.real.features, side.features)


def mix_of(probe: Probe, title: str, real: Mapping[str, Clips], made: Mapping[str, Clips]) -> Mix:
    """Returns the clusters that clips show, seen by a probe on the features called `title`, and distances of
    clips weighted so that these have the real clips' shares.
    """
    shown = probe(made[title].features)
    shares = [
        np.bincount(each, minlength=len(probe.classes)) / len(each)
        for each in (probe(real[title].features), shown)
    ]
    weights = (shares[0] / np.maximum(shares[1], 1e-9))[shown]
    found = {}
    if np.count_nonzero(weights) >= 2:
        for name in [name for name in real if name in made]:
            pair = real[name].features, made[name].features
            right = frechet_distance(*pair, weights=weights), kernel_distance(*pair, weights)
            found[name] = frechet_distance(*pair), right[0], kernel_distance(*pair), right[1]
    return Mix(probe.classes, shares[0], shares[1], found)


@dataclass(frozen=True)
class RouterScore:
    """How the router does on held-out clips, over all times and at each."""

    t: NDArray[np.float64]  # [S]
    accuracy: tuple[Interval, ...]  # at each t, resampled over source videos
    cross_entropy: tuple[Interval, ...]  # at each t, likewise
    calibration_error: tuple[float, ...]  # at each t
    confusion: NDArray[np.int64]  # [G K], over all times
    confidence: Floats  # [N S], of its first choice
    right: NDArray[np.bool_]  # [N S]


class RoutedLoss(NamedTuple):
    """How well a model denoises held-out clips: told each clip's cluster, and as samples are routed."""

    losses: dict[str, Interval]  # `told`, `top_1`, `full`: those there are
    over: dict[str, Interval]  # the same less the other model's `full`, clip by clip; empty without another


class Specialisation(NamedTuple):
    """Each expert's held-out loss on the clips of each cluster."""

    clusters: list[int]  # G of them, those that have clips
    losses: list[list[Interval]]  # [E G]


@dataclass(frozen=True)
class Scored:
    """All numbers of one model: on its clips, of its router and of its experts; of a calibrated router also
    as it was before.
    """

    card: Card
    router: RouterScore | None
    special: Specialisation | None
    router_before: RouterScore | None = None
    routed: RoutedLoss | None = None


def score_all(evidence: Evidence, plan: Plan, progress: Progress) -> dict[str, Scored]:
    """Returns the numbers of every model, by its name."""
    scored = {}
    for done, side in enumerate(evidence.models):
        progress("score", done, len(evidence.models))
        seen = side.inspection
        router = score_router(seen, plan) if seen else None
        before = score_router(replace(seen, beliefs=seen.plain), plan) if seen else None
        special = specialisation_of(seen, plan) if seen else None
        routed = routed_loss(seen, _other(evidence, side), plan) if seen and seen.routed else None
        scored[side.name] = Scored(score_model(evidence, side, plan), router, special, before, routed)
    progress("score", len(evidence.models), len(evidence.models))
    return scored


def score_router(seen: Inspection, plan: Plan | None = None) -> RouterScore | None:
    """Returns how well the router tells the clusters of held-out clips apart; None where there is none."""
    if seen.beliefs is None:
        return None
    first, confidence = seen.beliefs.argmax(2), seen.beliefs.max(2)  # N S
    right = first == seen.clusters[:, None]
    size = seen.beliefs.shape[2]
    confusion = np.zeros((size, size), dtype=np.int64)
    np.add.at(confusion, (np.broadcast_to(seen.clusters[:, None], first.shape), first), 1)
    accuracy = tuple(_mean(right[:, s].astype(np.float64), seen.sources, plan) for s in range(len(seen.t)))
    own = np.take_along_axis(seen.beliefs, seen.clusters[:, None, None], 2)[:, :, 0]  # N S
    surprise = -np.log(np.maximum(own, np.finfo(np.float64).tiny))
    entropy = tuple(_mean(surprise[:, s], seen.sources, plan) for s in range(len(seen.t)))
    errors = tuple(expected_calibration_error(confidence[:, s], right[:, s]) for s in range(len(seen.t)))
    return RouterScore(seen.t, accuracy, entropy, errors, confusion, confidence, right)


def routed_loss(seen: Inspection, other: Inspection | None, plan: Plan | None = None) -> RoutedLoss:
    """Returns the mean losses of each way to route, and what they are above the other model's, where that was
    asked of the same clips at the same times.
    """
    losses = {way: _mean(each, seen.sources, plan) for way, each in seen.routed.items()}
    if other is None or "full" not in other.routed or not _same_questions(seen, other):
        return RoutedLoss(losses, {})
    base = other.routed["full"]
    return RoutedLoss(
        losses, {way: _mean(each - base, seen.sources, plan) for way, each in seen.routed.items()}
    )


def _other(evidence: Evidence, side: Side) -> Inspection | None:
    """Returns what was seen of the baseline, of which a model is told how far it is from it."""
    return next(
        (one.inspection for one in evidence.models if one.name == BASELINE and side.name != BASELINE), None
    )


def _same_questions(one: Inspection, other: Inspection) -> bool:
    return one.at is not None and other.at is not None and np.array_equal(one.at, other.at)


def specialisation_of(seen: Inspection, plan: Plan | None = None) -> Specialisation:
    """Returns each expert's loss on the clips of each cluster that has some."""
    clusters = [int(k) for k in np.unique(seen.clusters)]
    of_cluster = [seen.clusters == k for k in clusters]
    losses = [
        [_mean(seen.losses[there, e], seen.sources[there], plan) for there in of_cluster]
        for e in range(len(seen.experts))
    ]
    return Specialisation(clusters, losses)


def _mean(values: Floats, sources: NDArray[Any], plan: Plan | None) -> Interval:
    """Returns the mean with an interval over source videos; one video alone has no interval, and gets the
    mean thrice.
    """
    if len(np.unique(sources)) < 2:
        return Interval(float(values.mean()), float(values.mean()), float(values.mean()))
    clips = Clips(values[:, None], sources)
    return resampled(
        lambda rows: float(values[rows].mean()), [np.arange(len(values))], (tree_of(clips),), plan or Plan()
    )
