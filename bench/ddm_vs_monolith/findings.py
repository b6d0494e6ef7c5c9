"""Computes everything that a report says once, for both of its forms, from result files alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.ddm_vs_monolith.compare import Comparison, Hypothesis, Judged, Side, name_of
from bench.ddm_vs_monolith.jobs import ROUTER_SLOT, slots
from bench.ddm_vs_monolith.settings import Arm, Sampling
from paris_p2p.errors import UsageError
from paris_p2p.score.intervals import Interval, Score
from paris_p2p.score.page import number

HEADLINE = (("experts", "top-1"), ("monolith", "one"))
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Findings:
    """Holds everything computed once, for both forms of the report."""

    comparison: Comparison

    @cached_property
    def rows(self) -> list[Sampling]:
        rows = self.comparison.done()
        missing = [
            f"{arm}, {name}"
            for arm, name in HEADLINE
            if (arm, name) not in {(row.arm, row.name) for row in rows}
        ]
        if missing:
            raise UsageError(
                f"{' and '.join(missing)} is not sampled yet; run `python -m bench.ddm_vs_monolith run` first"
            )
        return rows

    @cached_property
    def sides(self) -> dict[str, Side]:
        return {name_of(row): self.comparison.side(row) for row in self.rows}

    @cached_property
    def judged(self) -> dict[str, Judged]:
        """Returns the numbers by name, the codec alone first."""
        coded = self.comparison.coded
        return {
            coded.name: self.comparison.judge(coded),
            **{name: self.comparison.judge(side) for name, side in self.sides.items()},
        }

    @cached_property
    def hypothesis(self) -> Hypothesis:
        experts, monolith = (self.sides[f"{arm}, {name}"] for arm, name in HEADLINE)
        return self.comparison.hypothesis(experts, monolith)

    def best(self, row: Sampling) -> Side:
        """Returns the experts, routed top-1, of the seeds that a sampling has."""
        scale = self.comparison.scale
        return self.comparison.side(scale.sampling(*HEADLINE[0]), scale.seeds_of(row))

    def plans(self) -> dict[str, dict[str, Any]]:
        """Returns what each arm trained, by its name."""
        seed = self.comparison.scale.rng_seeds[0]
        done = {arm.name: f"networks/{arm.name}/{seed}" for arm in self.comparison.scale.arms}
        return {
            arm: self.comparison.results.values(job)["plan"]
            for arm, job in done.items()
            if self.comparison.results.has(job)
        }


def arm_curve(findings: Findings, arm: str) -> tuple[Floats, Floats]:
    """Returns (clips seen by all experts, validation loss): a cluster by its own expert, or by random
    parts' mean.
    """
    comparison = findings.comparison
    seed, of = comparison.scale.rng_seeds[0], comparison.scale.arm(arm)
    done = [
        comparison.results.values(f"train/{arm}/{seed}/{slot}")
        for slot in slots(comparison.scale, of)
        if slot != ROUTER_SLOT
    ]
    shares = np.array(done[0]["shares"])
    losses = np.array([[row["loss"] for row in one["curve"]] for one in done])  # expert, point, cluster
    clips = np.array([row["clips"] for row in done[0]["curve"]], dtype=np.float64) * len(done)
    return clips, _by_own(of, losses) @ shares


def _by_own(arm: Arm, losses: Floats) -> Floats:
    if arm.partition == "clusters":
        return np.stack([losses[k, :, k] for k in range(losses.shape[2])], axis=1)
    return np.asarray(losses.mean(0))


def with_interval(value: Interval | Score) -> str:
    return f"{number(value.value)} ({number(value.low)} to {number(value.high)})"


def as_factor(ratio: Interval) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
