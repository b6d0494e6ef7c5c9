"""Makes numbers of result files: distances, fidelity and motion, and the ratio that the protocol judges.

Legend: N clips of one seed, F networks' components, K classes. Row r of pooled seeds is clip r mod N of seed
r div N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.ddm_vs_monolith.results import Results
from bench.ddm_vs_monolith.settings import Sampling, Scale
from paris_p2p.errors import UsageError
from paris_p2p.score.classifier import ClassifierTest, classifier_test
from paris_p2p.score.distances import frechet_distance, score_frechet, score_kernel
from paris_p2p.score.fidelity import FOLDS, Probe, fit_probe
from paris_p2p.score.intervals import Clips, Interval, Plan, Rows, Score, resampled, tree_of
from paris_p2p.score.motion import score_motion
from paris_p2p.score.values import Values, score_values

TITLES = {"transnetv2": "TransNetV2", "efficientnet-lite0": "EfficientNet-lite0"}
PLAN = Plan()
CLASSIFIER_PLAN = Plan(resamples=200, splits=5)  # a split trains ten classifiers
WANTED_RATIO = 2.0
Verdict = Literal["confirmed", "better, but not as claimed", "not confirmed"]


@dataclass(frozen=True)
class Side:
    """Holds clips of one kind: features by network, and motion where clips move."""

    name: str
    features: dict[str, NDArray[np.float64]]  # network -> [seeds N, F]
    motion: NDArray[np.float64] | None
    sources: NDArray[np.int64]
    seeds: NDArray[np.int64]

    def clips(self, values: NDArray[Any]) -> Clips:
        return Clips(values, self.sources, self.seeds)

    def of(self, network: str) -> Clips:
        return self.clips(self.features[network])

    @property
    def everything(self) -> NDArray[np.float64]:
        """Returns all networks' components side by side: [seeds N, F]."""
        return np.concatenate([self.features[name] for name in sorted(self.features)], axis=1)


@dataclass(frozen=True)
class Judged:
    """Holds one sampling's numbers."""

    side: Side
    distances: dict[str, tuple[Score, Score, ClassifierTest]]  # network -> Fréchet, kernel, classifier
    motion: Values | None
    fidelity: Values | None


@dataclass(frozen=True)
class Comparison:
    """Measures all that is asked of a scale, out of its results folder alone."""

    scale: Scale
    results: Results
    plan: Plan = PLAN

    @property
    def classifier_plan(self) -> Plan:
        """Returns the plan of classifiers: no more of anything than the comparison's own asks for."""
        return replace(
            self.plan,
            resamples=min(self.plan.resamples, CLASSIFIER_PLAN.resamples),
            splits=min(self.plan.splits, CLASSIFIER_PLAN.splits),
        )

    @cached_property
    def test(self) -> dict[str, Any]:
        return self.results.values("test")

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return self.results.arrays("test")

    @cached_property
    def sources(self) -> NDArray[np.int64]:
        return np.unique(self.test["test"]["sources"], return_inverse=True)[1].astype(np.int64)

    @cached_property
    def real(self) -> Side:
        return self._side("real clips", [_under(self._arrays, "real.")])

    @cached_property
    def coded(self) -> Side:
        return self._side("real clips through the codec", [_under(self._arrays, "codec.")])

    def done(self) -> list[Sampling]:
        """Returns the samplings that all their seeds have."""
        return [
            row
            for row in self.scale.samplings
            if all(self.results.has(_job(row, seed)) for seed in self.scale.seeds_of(row))
        ]

    def side(self, row: Sampling, rng_seeds: Sequence[int] = ()) -> Side:
        """Returns a sampling's clips, of all its seeds or some of them."""
        return self._side(
            name_of(row),
            [self.results.arrays(_job(row, seed)) for seed in rng_seeds or self.scale.seeds_of(row)],
        )

    def values(self, row: Sampling) -> list[dict[str, Any]]:
        """Returns a sampling's values, seed by seed."""
        return [self.results.values(_job(row, seed)) for seed in self.scale.seeds_of(row)]

    def judge(self, side: Side) -> Judged:
        """Measures distances to the real clips, motion and fidelity.

        The classifier needs source videos enough.
        """
        distances = {}
        for network in self.scale.features:
            title = f"{TITLES[network]}, {self.real.features[network].shape[1]} components"
            pair = self.real.of(network), side.of(network)
            frechet, kernel = (
                score_frechet(title, *pair, plan=self.plan),
                score_kernel(title, *pair, plan=self.plan),
            )
            distances[network] = frechet, kernel, classifier_test(title, *pair, self.classifier_plan)
        motion = None
        if side.motion is not None and self.real.motion is not None:
            pair = self.real.clips(self.real.motion[:, None]), side.clips(side.motion[:, None])
            motion = score_motion(*pair, self.plan)
        return Judged(side, distances, motion, self.fidelity(side))

    # fidelity

    @cached_property
    def probe_clips(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Returns the train clips that probes are fitted on: all networks' components, and source videos."""
        table = _features(_under(self._arrays, "probe."))
        features = np.concatenate([table[name] for name in sorted(table)], axis=1)
        sources = self.results.values("known")["probe"]["sources"]
        # other videos than the test's
        return features, np.unique(sources, return_inverse=True)[1].astype(np.int64) + 1_000_000

    @cached_property
    def probes(self) -> dict[str, Probe]:
        """Returns the probes that count: those above chance on train clips that they were not fitted on."""
        known = self.results.values("known")["probe"]
        features, sources = self.probe_clips
        found = {}
        for attribute, values in known["attributes"].items():
            rows = _frequent(np.asarray(values), sources)
            if len(set(np.asarray(values)[rows])) < 2:
                continue
            probe = fit_probe(
                attribute,
                "all components",
                Clips(features[rows], sources[rows]),
                list(np.asarray(values)[rows]),
                self.plan,
            )
            if probe.held_out.heeded:
                found[attribute] = probe
        return found

    def right(self, side: Side) -> NDArray[np.float64]:
        """Returns, for each clip, the share of its mentioned attributes that the probes find: [seeds N].

        It is NaN where none is mentioned.
        """
        hits, asked = np.zeros(len(side.sources)), np.zeros(len(side.sources))
        labels, repeat = self.test["test"], len(side.sources) // len(self.sources)
        for attribute, probe in self.probes.items():
            wanted = np.tile(np.asarray(labels["attributes"][attribute]), repeat)
            mentioned = np.tile(np.array([attribute in row for row in labels["mentioned"]]), repeat)
            known = mentioned & np.isin(wanted, probe.classes)
            shown = np.asarray(probe.classes)[probe(side.everything)]
            hits += known & (shown == wanted)
            asked += known
        return np.where(asked > 0, hits / np.maximum(asked, 1), np.nan)

    def fidelity(self, side: Side) -> Values | None:
        """Scores clips against real ones through the codec, which is what generated ones may reach."""
        reference, right = self.right(self.coded), self.right(side)
        kept, own = ~np.isnan(reference), ~np.isnan(right)
        if not own.any():
            return None
        pair = (
            Clips(reference[kept, None], self.coded.sources[kept]),
            Clips(right[own, None], side.sources[own], side.seeds[own]),
        )
        return score_values("Prompt fidelity, probes on all components", *pair, self.plan)

    # what the codec hides: not asked in the protocol

    def coded_distance(self, network: str, side: Side) -> Interval:
        """Returns the Fréchet distance to the real clips as the codec gives them back, the nearest one can
        come.
        """
        coded, made = self.coded.features[network], side.features[network]
        return self.paired(lambda rows: frechet_distance(coded[rows % len(coded)], made[rows]), side)

    # the hypothesis

    def paired(self, statistic: Callable[[Rows], float], side: Side) -> Interval:
        """Resamples a statistic of pooled rows: seeds, then source videos, the same ones on every side."""
        return resampled(
            statistic,
            [np.arange(len(side.sources))],
            (tree_of(side.clips(side.sources[:, None])),),
            self.plan,
        )

    def ratio(self, network: str, worse: Side, better: Side, reference: Side | None = None) -> Interval:
        """Returns how many times as far from the real clips, or another reference, `worse` is as `better`."""
        real, far, near = (
            (reference or self.real).features[network],
            worse.features[network],
            better.features[network],
        )

        def statistic(rows: Rows) -> float:
            seen = real[rows % len(real)]
            return frechet_distance(seen, far[rows]) / frechet_distance(seen, near[rows])

        return self.paired(statistic, better)

    def gain(self, worse: NDArray[np.float64], better: NDArray[np.float64], side: Side) -> Interval:
        """Returns the mean of better minus worse, clip by clip; clips that are NaN are left out."""
        difference = better - worse
        return self.paired(lambda rows: float(np.nanmean(difference[rows])), side)

    def hypothesis(self, experts: Side, monolith: Side) -> Hypothesis:
        """Answers the protocol's question."""
        ratios = {network: self.ratio(network, monolith, experts) for network in self.scale.features}
        motion = None
        if experts.motion is not None and monolith.motion is not None and self.real.motion is not None:
            real, mine, theirs = self.real.motion, experts.motion, monolith.motion

            def nearer(rows: Rows) -> float:
                wanted = real[rows % len(real)].mean()
                return float(abs(theirs[rows].mean() - wanted) - abs(mine[rows].mean() - wanted))

            motion = self.paired(nearer, experts)
        fidelity = self.gain(self.right(monolith), self.right(experts), experts) if self.probes else None
        return Hypothesis(ratios, fidelity, motion, len(self.scale.rng_seeds))

    def _side(self, name: str, seeds: Sequence[dict[str, NDArray[Any]]]) -> Side:
        tables = [_features(arrays) for arrays in seeds]
        features = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
        motion = (
            np.concatenate([arrays["motion"] for arrays in seeds]).astype(np.float64)
            if "motion" in seeds[0]
            else None
        )
        count = len(self.sources)
        if any(len(table) != count * len(seeds) for table in features.values()):
            raise UsageError(
                f"{name} has other clips than the {count} test clips; its result is of another run: delete it"
            )
        return Side(
            name, features, motion, np.tile(self.sources, len(seeds)), np.repeat(np.arange(len(seeds)), count)
        )


@dataclass(frozen=True)
class Hypothesis:
    """Holds the monolith against the experts, as PROTOCOL.md asks."""

    ratios: dict[str, Interval]  # network -> monolith's distance over the experts'
    fidelity: Interval | None  # experts minus monolith
    motion: Interval | None  # how much nearer to the real clips' motion the experts are, px/frame
    seeds: int

    @property
    def no_worse(self) -> bool:
        """Says whether neither fidelity nor motion is worse by more than its interval."""
        return all(interval is None or interval.high >= 0 for interval in (self.fidelity, self.motion))

    @property
    def verdict(self) -> Verdict:
        if (
            all(ratio.low > WANTED_RATIO for ratio in self.ratios.values())
            and self.no_worse
            and self.seeds >= 3
        ):
            return "confirmed"
        if all(ratio.low > 1 for ratio in self.ratios.values()):
            return "better, but not as claimed"
        return "not confirmed"


def name_of(row: Sampling) -> str:
    return f"{row.arm}, {row.name}"


def _job(row: Sampling, rng_seed: int) -> str:
    return f"sample/{row.arm}/{rng_seed}/{row.name}"


def _under(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def _features(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    return {
        key.removeprefix("features."): value.astype(np.float64)
        for key, value in arrays.items()
        if key.startswith("features.")
    }


def _frequent(values: NDArray[Any], sources: NDArray[np.int64]) -> Rows:
    """Returns the rows of classes that enough source videos have for a probe to be cross-validated."""
    kept = [value for value in np.unique(values) if len(np.unique(sources[values == value])) >= FOLDS]
    return np.flatnonzero(np.isin(values, kept))
