"""Gives a number with what it is worth: a resampled interval, sample counts and a real-against-real floor.

Resampling is hierarchical: RNG seeds first, then source videos within each, then all clips of those videos;
clips of one video are not independent (the cluster bootstrap, Davison and Hinkley 1997, section 3.8).
Legend: N clips of a side, P pooled clips of both, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UsageError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Tree = tuple[tuple[Rows, ...], ...]  # seed -> source video -> rows of its clips
Statistic = Callable[[Rows, Rows], float]  # of two sets of pooled rows, the first standing for real clips

MAX_RESAMPLES = 100_000


@dataclass(frozen=True)
class Clips:
    """Holds one side's clips: features, source videos and seeds.

    A source has one name on both sides when a generated clip has its caption or first frame from that video.
    """

    features: NDArray[Any]  # [N F]
    sources: NDArray[Any]  # [N], the source video of each clip
    seeds: NDArray[Any] | None = None  # [N], the training run of each clip; None: one

    def __post_init__(self) -> None:
        count = len(self.features)
        if self.features.ndim != 2 or self.features.shape[1] < 1:
            raise UsageError(f"features of shape {self.features.shape}: they must be [clips, features]")
        if self.sources.shape != (count,) or (self.seeds is not None and self.seeds.shape != (count,)):
            raise UsageError(
                f"{count} clips have {len(self.sources)} sources "
                f"and {count if self.seeds is None else len(self.seeds)} seeds"
            )
        if not np.isfinite(self.features).all():
            raise UsageError("some features are not finite: look at the clips they were computed from")
        if len(np.unique(self.sources)) < 2:
            raise UsageError(
                f"{count} clips of fewer than 2 source videos say nothing about others: "
                "give clips of more videos"
            )

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Plan:
    """Says how often everything is computed again."""

    resamples: int = 200
    # Halvings of the real clips for the floor, and refittings of what was fitted for its interval.
    splits: int = 20
    level: float = 0.95
    rng_seed: int = 0

    def __post_init__(self) -> None:
        if not (
            2 <= self.resamples <= MAX_RESAMPLES and 2 <= self.splits <= MAX_RESAMPLES and 0 < self.level < 1
        ):
            given = f"{self.resamples} resamples, {self.splits} splits, level {self.level}"
            raise UsageError(f"{given}: choose 2 to {MAX_RESAMPLES} of both, and a level between 0 and 1")


@dataclass(frozen=True)
class Interval:
    """Holds a value and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Floor:
    """Holds real against real: the mean over random halves of the real source videos.

    `low` to `high` is the range in which a share `Plan.level` of the halves lies.
    """

    value: float
    low: float
    high: float
    clips: int  # on each side


@dataclass(frozen=True)
class Score:
    """Compares generated with real clips by one number.

    The interval is that of the estimator at these sample counts. Where an estimator is biased by its counts
    (Fréchet distance), `value` and `floor.value` are not comparable; `matched` is: generated clips against
    half of the real ones, both as many as in the floor.
    """

    name: str
    value: float
    low: float
    high: float
    level: float
    real_clips: int
    real_sources: int
    generated_clips: int
    generated_sources: int
    seeds: int
    matched: float
    floor: Floor

    @property
    def above_floor(self) -> bool:
        """Says whether generated clips differ from real ones more than halves of real ones do."""
        return self.matched > self.floor.high


def measure(
    name: str,
    statistic: Statistic,
    real: Clips,
    generated: Clips,
    plan: Plan | None = None,
    *,
    refitted: Statistic | None = None,
) -> Score:
    """Measures a statistic of the pooled rows (real first) as a Score.

    Where `statistic` keeps something that was fitted once (a classifier), `refitted` fits it anew on the rows
    it is given: the floor is computed with it, and the interval is widened by what refitting a few resamples
    changes.
    """
    plan = plan or Plan()
    trees = tree_of(real), tree_of(generated, first=len(real))
    rows = [np.concatenate([group for seed in tree for group in seed]) for tree in trees]
    floor, matched = _floor(refitted or statistic, trees, plan)
    interval = resampled(statistic, rows, trees, plan)
    if refitted is not None:
        interval = _widened(interval, statistic, refitted, trees, plan)
    return Score(
        name=name,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        level=plan.level,
        real_clips=len(real),
        real_sources=len(np.unique(real.sources)),
        generated_clips=len(generated),
        generated_sources=len(np.unique(generated.sources)),
        seeds=len(trees[1]),
        matched=matched,
        floor=floor,
    )


def resampled(
    statistic: Callable[..., float], rows: list[Rows], trees: tuple[Tree, ...], plan: Plan
) -> Interval:
    """Returns the percentile interval of a statistic, moved so that the resamples' mean lies on the value.

    Resamples repeat clips, which lifts every distance, so only their scatter is used. With S seeds the
    scatter between seeds is seen sqrt(1 - 1/S) as wide as it is: intervals over three seeds are about a fifth
    too narrow there.
    """
    rng = np.random.default_rng([plan.rng_seed, 1])
    value = statistic(*rows)
    values = np.array([statistic(*(_resample(tree, rng) for tree in trees)) for _ in range(plan.resamples)])
    low, high = np.quantile(values - values.mean(), _tails(plan.level))
    return Interval(value, value + float(low), value + float(high))


def _widened(
    interval: Interval, statistic: Statistic, refitted: Statistic, trees: tuple[Tree, Tree], plan: Plan
) -> Interval:
    """Moves both ends out by the scatter of what refitting changes.

    That scatter is taken as normal and independent of the rest.
    """
    rng = np.random.default_rng([plan.rng_seed, 3])
    drawn = [[_resample(tree, rng) for tree in trees] for _ in range(plan.splits)]
    changes = [refitted(*rows) - statistic(*rows) for rows in drawn]
    extra = NormalDist().inv_cdf(_tails(plan.level)[1]) * float(np.std(changes, ddof=1))
    low, high = (float(np.hypot(end - interval.value, extra)) for end in (interval.low, interval.high))
    return Interval(interval.value, interval.value - low, interval.value + high)


def tree_of(clips: Clips, first: int = 0) -> Tree:
    """Groups rows by seed and source video, counted from `first`."""
    seeds = np.zeros(len(clips), dtype=np.int64) if clips.seeds is None else clips.seeds
    return tuple(_groups(np.flatnonzero(seeds == seed), clips.sources, first) for seed in np.unique(seeds))


def _groups(rows: Rows, sources: NDArray[Any], first: int) -> tuple[Rows, ...]:
    order = rows[np.argsort(sources[rows], kind="stable")]
    _, starts = np.unique(sources[order], return_index=True)
    return tuple(np.split(order + first, starts[1:]))


def _resample(tree: Tree, rng: np.random.Generator) -> Rows:
    """Draws as many seeds, and as many source videos of each, with replacement."""
    seeds = (tree[i] for i in rng.integers(len(tree), size=len(tree)))
    return np.concatenate(
        [groups[i] for groups in seeds for i in rng.integers(len(groups), size=len(groups))]
    )


def _tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]


def _floor(statistic: Statistic, trees: tuple[Tree, Tree], plan: Plan) -> tuple[Floor, float]:
    """Returns (floor, mean of generated against half of the real clips at the floor's counts)."""
    rng = np.random.default_rng([plan.rng_seed, 2])
    floors, matched, clips = [], [], []
    for _ in range(plan.splits):
        left, right = _halves(trees[0], rng)
        generated = _shuffled(trees[1], rng)
        count = min(len(left), len(right), len(generated))
        if count < 2:
            raise UsageError(
                f"half of {len(left) + len(right)} real clips against {len(generated)} generated ones: "
                "a floor needs 2 a side"
            )
        floors.append(statistic(left[:count], right[:count]))
        matched.append(statistic(left[:count], generated[:count]))
        clips.append(count)
    low, high = np.quantile(floors, _tails(plan.level))
    return Floor(float(np.mean(floors)), float(low), float(high), min(clips)), float(np.mean(matched))


def _halves(tree: Tree, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Cuts all rows into two halves that share no source video."""
    groups = [group for seed in tree for group in seed]
    order = rng.permutation(len(groups))
    sizes = np.cumsum([len(groups[i]) for i in order])
    cut = int(np.clip(np.searchsorted(sizes, sizes[-1] / 2) + 1, 1, len(groups) - 1))
    return np.concatenate([groups[i] for i in order[:cut]]), np.concatenate([groups[i] for i in order[cut:]])


def _shuffled(tree: Tree, rng: np.random.Generator) -> Rows:
    groups = [group for seed in tree for group in seed]
    return np.concatenate([groups[i] for i in rng.permutation(len(groups))])
