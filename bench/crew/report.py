"""Makes the tables of results: `python -m bench.crew report`.

A comparison is the ratio of two losses at one seed; seeds are put together as logarithms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.crew.plans import EMA_DECAYS

MAIN = f"average {EMA_DECAYS[0]}"
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantiles of t, by how many seeds
Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Ratio:
    """Holds the ratios of two rows' losses, one for each seed."""

    ratios: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.exp(sum(map(math.log, self.ratios)) / len(self.ratios))

    @property
    def interval(self) -> tuple[float, float]:
        """Returns the 95 % interval of the geometric mean, by Student's t on the logarithms."""
        count = len(self.ratios)
        if count < 2:
            return math.nan, math.nan
        logs = [math.log(ratio) for ratio in self.ratios]
        middle = sum(logs) / count
        error = math.sqrt(sum((log - middle) ** 2 for log in logs) / (count - 1) / count)
        return math.exp(middle - STUDENT[count] * error), math.exp(middle + STUDENT[count] * error)

    def __str__(self) -> str:
        if len(self.ratios) == 1:
            return f"{self.mean:.3f} | one seed"
        low, high = self.interval
        each = ", ".join(f"{ratio:.3f}" for ratio in self.ratios)
        return f"{self.mean:.3f} ({low:.3f} to {high:.3f}) | {each}"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns every result by its plan's name."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {name: one for name, one in found.items() if "loss" in one}


def seeds_of(results: Results, row: str) -> list[int]:
    """Returns the seeds at which a row was played."""
    named = (name.rpartition("-seed-") for name in results)
    return sorted(int(seed) for stem, _, seed in named if stem == row and seed.isdigit())


def compare(results: Results, row: str, other: str, which: str = MAIN) -> Ratio | None:
    """Returns a row's loss against another's, at every seed that both were played at; None at none."""
    seeds = sorted(set(seeds_of(results, row)) & set(seeds_of(results, other)))
    found = [
        results[f"{row}-seed-{seed}"]["loss"][which] / results[f"{other}-seed-{seed}"]["loss"][which]
        for seed in seeds
    ]
    return Ratio(tuple(found)) if found else None


def times_less(result: Mapping[str, Any]) -> float:
    """Returns how many times less than float32 an update weighed, as the mean of all rounds."""
    size = result["update_bytes"]
    return 4 * result["parameters"] / size if size else 0.0


def table(results: Results, rows: Sequence[tuple[str, str, str, float | None]]) -> list[str]:
    """Returns lines of (title, row, other, bar)."""
    lines = ["| what | mean ratio (95 % interval) | each seed | bar |", "|---|---|---|---|"]
    for title, row, other, bar in rows:
        if (found := compare(results, row, other)) is not None:
            lines.append(f"| {title} | {found} | {'' if bar is None else _verdict(found, bar)} |")
    return lines


def _verdict(found: Ratio, bar: float) -> str:
    low, high = found.interval
    word = "reached" if found.mean <= bar else "missed"
    sure = "" if not low <= bar < high else ", within noise of it"
    return f"{bar:g}: {word}{sure}"


def explored_table(results: Results) -> list[str]:
    """Returns the exploration's table, the lowest loss first."""
    lines = ["| setting | times less than float32 | loss | against every step |", "|---|---|---|---|"]
    found = {
        name.removeprefix("explore-"): one for name, one in results.items() if name.startswith("explore-")
    }
    by_loss: Callable[[str], float] = lambda name: float(found[name]["loss"][MAIN])  # noqa: E731
    for name in sorted(found, key=by_loss):
        less = times_less(found[name])
        loss, every = by_loss(name), by_loss("every-step")
        lines.append(f"| {name} | {f'{less:.1f}' if less else ''} | {loss:.4f} | {loss / every:.3f} |")
    return lines


EVERY_ROW = (
    ("dense float32 DiLoCo against every step averaged", "exact", "every-step", None),
    ("the same in whole steps, 32 times less, against dense float32 DiLoCo", "at-once", "exact", 1.01),
    ("the same against every step averaged", "at-once", "every-step", 1.02),
    ("with the default's momentum, against dense float32 DiLoCo", "at-once-less", "exact", 1.01),
    ("the same against every step averaged", "at-once-less", "every-step", 1.02),
    ("the default, merges late, against every step averaged", "default", "every-step", 1.02),
    ("the same against dense float32 DiLoCo", "default", "exact", 1.01),
    ("a fifth of the chunks a round, against every step averaged", "lean", "every-step", 1.02),
    ("the same against dense float32 DiLoCo", "lean", "exact", 1.01),
    ("a seventh of the chunks a round, against every step averaged", "leanest", "every-step", 1.02),
    ("the same against dense float32 DiLoCo", "leanest", "exact", 1.01),
    ("at the crews' inner rate: dense float32 DiLoCo", "exact", "every-step-same-rate", 1.02),
    ("at the crews' inner rate: the default", "default", "every-step-same-rate", 1.02),
    ("at the crews' inner rate: a fifth of the chunks a round", "lean", "every-step-same-rate", 1.02),
    ("every step averaged against one peer alone", "every-step", "alone", None),
    ("crew of 2 against one peer alone", "crew-2", "alone", 1.0),
    ("crew of 4 against one peer alone", "default", "alone", 1.0),
    ("crew of 8 against one peer alone", "crew-8", "alone", 1.0),
    ("a peer leaves and one joins every other round, against the quiet crew", "churn", "quiet", 1.03),
    ("20 % of updates come a round late, against the quiet crew", "late", "quiet", 1.03),
    ("the same, their work sent again within the next update", "late-folded", "quiet", 1.03),
    ("one peer 4 times slower, against the quiet crew", "slow", "quiet", 1.02),
    ("one peer on a tenth of the line, against the quiet crew", "thin", "quiet", 1.02),
    ("one peer turns its updates round, against the quiet crew", "flip", "checked", 1.02),
    ("one peer sends noise of the right length", "noise", "checked", 1.02),
    ("one peer trains on other data", "other-data", "checked", 1.02),
    ("one peer is refused every time: a crew of three", "refused", "quiet", 1.02),
)


def rounds_until(result: Mapping[str, Any], loss: float) -> float:
    """Returns the rounds after which a curve was as low as `loss` first, between points along a line."""
    steps, before = result["plan"]["inner_steps"], None
    for at, value in result["curve"]:
        if value <= loss:
            if before is None:
                return float(at) / steps
            share = (before[1] - loss) / (before[1] - value)
            return float(before[0] + share * (at - before[0])) / steps
        before = (at, value)
    return math.inf


def worth_table(results: Results, rows: Sequence[tuple[str, str]], alone: str = "alone") -> list[str]:
    """Returns after how many rounds rows of (title, row) are as good as one peer alone is at its end, by
    curves of few clips, and how many peers that makes.
    """
    lines = ["| what | rounds until as good as one peer alone | so many peers' worth |", "|---|---|---|"]
    for title, row in rows:
        found, worth = [], []
        for seed in sorted(set(seeds_of(results, row)) & set(seeds_of(results, alone))):
            one = results[f"{alone}-seed-{seed}"]
            found.append(rounds_until(results[f"{row}-seed-{seed}"], one["curve"][-1][1]))
            worth.append(one["plan"]["rounds"] / found[-1])
        if found:
            rounds = ", ".join(f"{each:.0f}" for each in found)
            lines.append(f"| {title} | {rounds} | {math.exp(sum(map(math.log, worth)) / len(worth)):.1f} |")
    return lines


WORTH_ROWS = (
    ("four peers, every step averaged", "every-step"),
    ("four peers, dense float32 DiLoCo", "exact"),
    ("two peers, the default", "crew-2"),
    ("four peers, the default", "default"),
    ("eight peers, the default", "crew-8"),
    ("four peers, a fifth of the chunks a round", "lean"),
    ("four peers, a seventh of the chunks a round", "leanest"),
)


def report(results: Results) -> list[str]:
    """Returns all tables."""
    lines = ["## Three seeds", "", *table(results, EVERY_ROW), "", *worth_table(results, WORTH_ROWS)]
    lines += ["", "## Checks", "", *refusals(results, ("checked", "flip", "noise", "other-data"))]
    return [*lines, "", "## The exploration: one seed", "", *explored_table(results)]


def distances_table(folder: Path) -> list[str]:
    """Returns how far sampled clips are from held-out ones, of every row that was sampled."""
    lines = ["| row | network | Fréchet distance | kernel distance | clips |", "|---|---|---|---|---|"]
    for path in sorted(folder.glob("distances-*.json")):
        row = path.stem.removeprefix("distances-")
        for network, scores in json.loads(path.read_text())["distances"].items():
            cells = [f"{one['value']:.4g} ({one['low']:.4g} to {one['high']:.4g})" for one in scores.values()]
            lines.append(
                f"| {row} | {network} | {' | '.join(cells)} | {scores['kernel']['generated_clips']} |"
            )
    return lines


def refusals(results: Results, rows: Sequence[str]) -> list[str]:
    """Returns, for each row, how often which check refused honest updates and the last peer's."""
    lines = [
        "| row | updates of honest peers | refused | the last peer's refused, by reason |",
        "|---|---|---|---|",
    ]
    for row in rows:
        honest = refused = 0
        reasons: dict[str, int] = {}
        for seed in seeds_of(results, row):
            one = results[f"{row}-seed-{seed}"]
            last = f"peer-{one['plan']['peers'] - 1:03d}" if one["plan"]["attack"] else ""
            honest += sum(count for maker, count in one["counted"].items() if maker != last)
            for told, count in one["refused"].items():
                code, maker = told.split(" ")
                if maker == last:
                    reasons[code] = reasons.get(code, 0) + count
                else:
                    refused += count
        if honest:
            told_ = ", ".join(f"{code} {count}" for code, count in sorted(reasons.items()))
            lines.append(f"| {row} | {honest + refused} | {refused} | {told_} |")
    return lines
