"""Makes tables of the results of a stage with the product's networks, from its files alone.

A ratio is a way's distance over the kept experts' at one seed, above 1 where the experts are nearer; seeds
are put together as logarithms, with a 95 % interval by Student's t.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.crew.report import Ratio
from bench.when_experts_win.product_jobs import sample_name
from bench.when_experts_win.product_stages import ProductStage, Way, product_stage_of
from bench.when_experts_win.report import shown
from paris_p2p.errors import UsageError

KEPT, TODAYS = "experts kept", "experts top-1"
DISTANCES = {"frechet": "Fréchet", "kernel": "kernel", "mix_right": "mix right"}
LEAST_SEEDS = 3


class Played:
    """Reads what is there of a stage's results."""

    def __init__(self, name: str, results: Path):
        self.stage: ProductStage = product_stage_of(name)
        self.folder = results / name
        if not any(self.folder.glob("sample-*.json")):
            raise UsageError(f"{self.folder} has no samples yet; run the stage first")

    def values(self, job: str) -> dict[str, Any] | None:
        """Returns what came of a job; None where it was not done."""
        path = self.folder / f"{job}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def samples(self, way: Way) -> dict[int, dict[str, Any]]:
        """Returns a way's results by seed."""
        found = {seed: self.values(sample_name(seed, way.title, way.guidance)) for seed in self.stage.seeds}
        return {seed: values for seed, values in found.items() if values is not None}

    def ratio(self, way: Way, network: str, which: str) -> Ratio | None:
        """Returns a way's distances over the kept experts', at the same guidance if it is the paper's."""
        over = self.stage.way(KEPT, way.guidance if way.guidance > 1 else 0.0)
        return None if way.title == KEPT else self.ratio_over(way, over, network, which)

    def ratio_over(self, way: Way, over: Way, network: str, which: str) -> Ratio | None:
        """Returns a way's distances over another's at the seeds that both have; None where there is none."""
        mine, others = self.samples(way), self.samples(over)
        both = sorted(mine.keys() & others.keys())
        if not both:
            return None
        return Ratio(tuple(mine[seed][network][which] / others[seed][network][which] for seed in both))


def product_report(played: Played) -> list[str]:
    """Returns all tables as lines of Markdown."""
    lines: list[str] = []
    for title, table in (
        ("The width", _pilots(played)),
        ("Distances, means over seeds", _distances(played)),
        ("Distances over the kept experts'", _ratios(played)),
        (
            "Routings over the default (top-1 at each step)",
            _routings(played),
        ),
        ("Losses on held-out clips, means over ten times", _losses(played)),
        ("What real clips reach", _floors(played)),
    ):
        if table:
            lines += [f"{title}:", "", *table, ""]
    return [*lines, *_verdict(played)]


def _pilots(played: Played) -> list[str]:
    lines = []
    for width in played.stage.widths:
        small, large = (played.values(f"pilot-{width}-{times}") for times in (1, 3))
        if small is None or large is None:
            continue
        gain = 1 - large["loss"] / small["loss"]
        sizes = f"{small['parameters'] / 1000:.0f} k | {large['parameters'] / 1000:.0f} k"
        lines.append(f"| {width} | {sizes} | {small['loss']:.3f} | {large['loss']:.3f} | {gain:.1%} |")
    head = "| width | parameters | of three times | loss | of three times | lower by |"
    return [head, "|" + "---|" * 6, *lines] if lines else []


def _distances(played: Played) -> list[str]:
    networks = played.stage.networks
    columns = [f"{network}: {name}" for network in networks for name in DISTANCES.values()]
    lines = _head("way", "guidance", "seeds", *columns, "mix wrong by", "captions followed")
    for way in played.stage.ways:
        found = [*played.samples(way).values()]
        if not found:
            continue
        cells = [
            _mean([one[network].get(which) for one in found]) for network in networks for which in DISTANCES
        ]
        mix = _mean([one.get("mix_error") for one in found])
        fidelity = _mean([one.get("fidelity", {}).get("mean") for one in found])
        start = f"| {way.title} | {found[0]['guidance']:g} | {len(found)} |"
        lines.append(f"{start} {' | '.join([*cells, mix, fidelity])} |")
    return lines


def _ratios(played: Played) -> list[str]:
    networks = played.stage.networks
    lines = _head("way", *(f"{network}: {name}" for network in networks for name in DISTANCES.values()))
    for way in played.stage.ways:
        cells = []
        for network in networks:
            for which in DISTANCES:
                has_all = all(which in one[network] for one in played.samples(way).values())
                cells.append(shown(played.ratio(way, network, which) if has_all else None))
        if any(cells):
            title = f"{way.title} at {way.guidance:g}" if way.guidance else way.title
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _routings(played: Played) -> list[str]:
    """Returns how near each routing is over today's default, each at its own guidance, nearest first."""
    networks, todays = played.stage.networks, played.stage.way(TODAYS)
    before = played.samples(todays)
    rows = []
    for way in played.stage.ways:
        if way.arm != "experts" or way.guidance or way == todays:
            continue
        ratios = [played.ratio_over(way, todays, network, "frechet") for network in networks]
        known = [ratio for ratio in ratios if ratio is not None]
        if len(known) < len(networks):
            continue
        mean = math.exp(sum(math.log(ratio.mean) for ratio in known) / len(known))
        followed = [
            one["fidelity"]["mean"] - before[seed]["fidelity"]["mean"]
            for seed, one in played.samples(way).items()
            if seed in before
        ]
        cells = [way.name, *map(shown, known), f"{mean:.2f}", f"{sum(followed) / len(followed):+.3f}"]
        rows.append((mean, f"| {' | '.join(cells)} |"))
    head = _head("routing", *networks, "of all", "captions followed, more")
    return [*head, *(line for _, line in sorted(rows))] if rows else []


def _losses(played: Played) -> list[str]:
    found = [one for seed in played.stage.seeds if (one := played.values(f"losses-{seed}")) is not None]
    if not found:
        return []
    lines = _head("row", "loss", "minus the monolith's, by seed", "error over clips")
    for name in found[0]["losses"]:
        rows = [one["losses"][name] for one in found]
        apart = ", ".join(f"{row['over']:+.4f}" for row in rows)
        error = max(row["over_error"] for row in rows)
        lines.append(f"| {name} | {_mean([row['mean'] for row in rows])} | {apart} | {error:.4f} |")
    return lines


def _floors(played: Played) -> list[str]:
    names = [f"floors-{seed}" for seed in played.stage.seeds] if played.stage.set_each_seed else ["floors"]
    found = [one for name in names if (one := played.values(name)) is not None]
    if not found:
        return []
    lines = _head("real clips", "features", *DISTANCES.values())
    for kind, name in (("codec", "through the codec"), ("floor", "others, of those trained on")):
        for network in played.stage.networks:
            cells = [_mean([one[kind][network].get(which) for one in found]) for which in DISTANCES]
            lines.append(f"| {name} | {network} | {' | '.join(cells)} |")
    return lines


def _verdict(played: Played) -> list[str]:
    """Returns what the stage says of experts and one model, as the protocol has it."""
    monolith = played.stage.main_way("monolith")
    which = ("frechet", "kernel") if len(played.stage.networks) == 1 else ("frechet",)
    ratios = [played.ratio(monolith, network, name) for network in played.stage.networks for name in which]
    sound = [ratio for ratio in ratios if ratio is not None]
    return [f"Experts against one model: **{product_verdict(sound)}**."] if sound else []


def product_verdict(ratios: Sequence[Ratio]) -> str:
    """Returns pay, lose, level or undecided of the monolith's distances over the kept experts'."""
    if any(len(ratio.ratios) < LEAST_SEEDS for ratio in ratios):
        return "too few seeds"
    words = set()
    for ratio in ratios:
        low, high = ratio.interval
        words.add("pay" if low > 1 else "lose" if high < 1 else "level")
    return words.pop() if len(words) == 1 else "undecided"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3g}" if len(known) == len(values) and known else ""


def _head(*columns: str) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
