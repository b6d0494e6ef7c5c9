"""Puts the results of a stage together: ratios of distances over seeds, losses, mixes, and the line of 1.

A ratio is one arm's distance over the experts' at one seed, above 1 where the experts are nearer; seeds are
put together as logarithms, with a 95 % interval by Student's t.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.crew.report import Ratio
from bench.when_experts_win.losses import TIMES
from bench.when_experts_win.settings import Stage, stage_of

BEGIN, END = "<!-- when-experts-win: made of files -->", "<!-- when-experts-win: end -->"
IN_RANGE = 256  # no images in -1 to 1 are further from others, by the Fréchet distance on 64 pixels
FEATURES = {"judge": "digit network's features", "pixels": "pixels"}


@dataclass(frozen=True)
class Place:
    """Names a place of the map, over all its seeds."""

    width: int
    steps: int


class Map:
    """Reads what is there of a stage's results."""

    def __init__(self, name: str, results: Path):
        self.stage: Stage = stage_of(name)
        self.found: dict[Place, list[dict[str, Any]]] = {}
        for cell in self.stage.cells:
            path = results / name / f"{cell.name}.json"
            if path.exists():
                place = Place(cell.width, cell.steps)
                self.found.setdefault(place, []).append(json.loads(path.read_text()))

    @property
    def places(self) -> list[Place]:
        return sorted(self.found, key=lambda place: (-place.steps, place.width))

    def parameters(self, place: Place) -> int:
        """Returns how many parameters one expert has."""
        return int(self.found[place][0]["parameters"]["monolith"])

    def ratio(self, place: Place, arm: str, over: str, features: str, which: str = "frechet") -> Ratio | None:
        """Returns distances of `arm` over those of `over`, seed by seed; None where one was not made.

        Seeds at which one of the two ran away are left out.
        """
        each = [one["distances"] for one in self.found[place]]
        if any(name not in one for name in (arm, over) for one in each):
            return None
        sound = [one for one in each if not (ran_away(one[arm]) or ran_away(one[over]))]
        ratios = tuple(one[arm][features][which] / one[over][features][which] for one in sound)
        return Ratio(ratios) if ratios else None

    def seeds(self, place: Place) -> list[str]:
        """Returns which seed each of a place's results is of."""
        return [str(one.get("job", "")).rpartition("-steps-")[2] for one in self.found[place]]

    def mean(self, place: Place, arm: str, *keys: str) -> float | None:
        """Returns the mean over seeds of one of an arm's distances."""
        values = []
        for one in self.found[place]:
            value: Any = one["distances"].get(arm)
            for key in keys:
                value = None if value is None else value.get(key)
            if value is None:
                return None
            values.append(float(value))
        return sum(values) / len(values)

    def loss(self, place: Place, row: str, over: str) -> Ratio | None:
        """Returns one row's mean loss over another's, seed by seed."""
        each = [one["losses"] for one in self.found[place]]
        if any(name not in one for name in (row, over) for one in each):
            return None
        return Ratio(tuple(sum(one[row]) / sum(one[over]) for one in each))

    def crossing(self, count: int, steps: int, features: str) -> float | None:
        """Returns the parameters at which the ratio is 1, on lines between sizes; None if nowhere."""
        points = []
        for place in self.places:
            ratio = self.ratio(place, "monolith", f"experts-{count} kept", features)
            if place.steps == steps and ratio is not None:
                points.append((math.log(self.parameters(place)), math.log(ratio.mean)))
        for (size, here), (larger, there) in pairwise(points):
            if (here > 0) != (there > 0):
                return math.exp(size + (larger - size) * here / (here - there))
        return None


def verdict(ratios: Sequence[Ratio]) -> str:
    """Returns what a place says of experts: both features must agree, and three seeds be there to say so."""
    if any(len(ratio.ratios) < 3 for ratio in ratios):
        return "too few seeds"
    if all(ratio.interval[0] > 1 for ratio in ratios):
        return "pay"
    if all(ratio.interval[1] < 1 for ratio in ratios):
        return "lose"
    if all(ratio.interval[0] <= 1 <= ratio.interval[1] for ratio in ratios):
        return "level"
    return "undecided"


def ran_away(distances: Mapping[str, Any]) -> bool:
    """Says whether some of an arm's images are far out of the range of pixels."""
    return bool(distances["pixels"]["frechet"] > IN_RANGE)


def runaways(found: Map) -> list[str]:
    """Returns a line for each arm whose images ran away, with its seed."""
    return [
        f"- {found.parameters(place) / 1000:.1f} k, {name}, {arm}: {far['pixels']['frechet']:.3g} on pixels"
        for place in found.places
        for name, one in zip(found.seeds(place), found.found[place], strict=True)
        for arm, far in one["distances"].items()
        if ran_away(far)
    ]


def report(found: Map) -> list[str]:
    """Returns all tables as lines of Markdown."""
    lines = [f"Seeds: {seeds_played(found)}.", "", *_left_out(found), ""]
    for title, table in (
        ("One model's distance over the kept experts'", _ratios(found)),
        ("What is it that helps?", _controls(found)),
        ("How are experts sampled?", _samplings(found)),
        ("Distances", _distances(found)),
        ("Losses over one model's", _losses(found)),
        ("How often the router is right", _router(found)),
    ):
        lines += [f"## {title}", "", *table, ""]
    return lines


def seeds_played(found: Map) -> str:
    """Returns how many seeds each size was played at, smallest size first."""
    counts = ((len(found.found[place]), found.parameters(place) / 1000) for place in found.places)
    return ", ".join(f"{count} at {size:.1f} k" for count, size in counts)


def in_page(found: Map, page: str) -> str:
    """Returns a page with the tables between its marks made anew; the marks stand on lines of their own."""
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    tables = [f"Seeds: {seeds_played(found)}.", "", *_left_out(found), "", *_ratios(found)]
    for title, table in (
        ("Other arms' distances over the kept experts'", _controls(found)),
        ("Other samplings' distances over the kept experts'", _samplings(found)),
        ("Losses on held-out images, means over ten times, over the monolith's", _losses(found)),
    ):
        tables += ["", f"{title}:", "", *table]
    return head + BEGIN + "\n\n" + "\n".join(tables) + "\n\n" + END + tail


def _left_out(found: Map) -> list[str]:
    lines = runaways(found)
    if not lines:
        return ["No arm's images ran away."]
    return ["Images ran away, so that a ratio with this arm is without this seed:", "", *lines]


def shown(ratio: Ratio | None) -> str:
    """Returns a ratio with its interval, or with each seed's where they are fewer than three."""
    if ratio is None:
        return ""
    if len(ratio.ratios) < 3:  # an interval of two would span decades
        return f"{ratio.mean:.2f} ({' and '.join(f'{each:.2f}' for each in ratio.ratios)})"
    return f"{ratio.mean:.2f} ({ratio.interval[0]:.2f} to {ratio.interval[1]:.2f})"


def _rows(found: Map) -> list[tuple[Place, int, str]]:
    """Returns every place and number of clusters with the first cells of its row."""
    return [
        (place, count, f"| {place.steps:,} | {found.parameters(place) / 1000:.1f} k | {count} |")
        for place in found.places
        for count in found.stage.clusters
    ]


def _head(*columns: str) -> list[str]:
    names = ["steps", "parameters", "clusters", *columns]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def _ratios(found: Map) -> list[str]:
    lines = _head("digit network's features", "with the mix put right", "pixels", "experts")
    for place, count, start in _rows(found):
        kept = f"experts-{count} kept"
        judge, pixels = (found.ratio(place, "monolith", kept, name) for name in FEATURES)
        right = found.ratio(place, "monolith", kept, "judge", "mix_right")
        word = verdict([judge, pixels]) if judge and pixels else ""
        lines.append(f"{start} {shown(judge)} | {shown(right)} | {shown(pixels)} | {word} |")
    lines.append("")
    for features, name in FEATURES.items():
        for count in found.stage.clusters:
            for steps in sorted({place.steps for place in found.places}):
                crossing = found.crossing(count, steps, features)
                said = "nowhere between these sizes" if crossing is None else f"at {crossing / 1000:.0f} k"
                lines.append(f"- {name}, {count} clusters, {steps:,} steps: the ratio crosses 1 {said}.")
    return lines


def _controls(found: Map) -> list[str]:
    """Returns arms' distances over the kept experts'."""
    lines = _head(
        "features: told model", "random partition", "total size", "pixels: told model", "random partition"
    )
    for place, count, start in _rows(found):
        kept = f"experts-{count} kept"
        cells = [
            shown(found.ratio(place, arm, kept, features))
            for features, arms in (
                ("judge", (f"told-{count} kept", f"random-{count} kept", f"total-{count}")),
                ("pixels", (f"told-{count} kept", f"random-{count} kept")),
            )
            for arm in arms
        ]
        lines.append(f"{start} {' | '.join(cells)} |")
    return lines


def _samplings(found: Map) -> list[str]:
    lines = _head("features: top-1 over kept", "full over kept", "pixels: top-1 over kept", "full over kept")
    for place, count, start in _rows(found):
        cells = [
            shown(found.ratio(place, f"experts-{count} {way}", f"experts-{count} kept", features))
            for features in FEATURES
            for way in ("top-1", "full")
        ]
        lines.append(f"{start} {' | '.join(cells)} |")
    return lines


def _distances(found: Map) -> list[str]:
    """Returns the means over seeds of every arm, and the floor."""
    lines = [
        "| steps | parameters | arm | features: Fréchet | mix right | to images trained on | kernel "
        "| pixels: Fréchet | to images trained on | kernel, thousandths | mix wrong by |",
        "|" + "---|" * 11,
    ]
    for place in found.places:
        for arm in found.found[place][0]["distances"]:
            cells = []
            for features, keys in (
                ("judge", ("frechet", "mix_right", "trained_on", "kernel")),
                ("pixels", ("frechet", "trained_on", "kernel")),
            ):
                for key in keys:
                    value = found.mean(place, arm, features, key)
                    scale = 1000 if (features, key) == ("pixels", "kernel") else 1
                    cells.append("" if value is None else f"{value * scale:.3g}")
            error = None if arm == "floor" else found.mean(place, arm, "mix_error")
            cells.append("" if error is None else f"{error:.3f}")
            size = f"{found.parameters(place) / 1000:.1f} k"
            lines.append(f"| {place.steps:,} | {size} | {arm} | {' | '.join(cells)} |")
    return lines


def _losses(found: Map) -> list[str]:
    """Returns losses, means over all times, over the monolith's."""
    lines = _head(
        "experts told",
        "experts, top-1",
        "experts, full",
        "told model told",
        "told model, full",
        "random, full",
    )
    for place, count, start in _rows(found):
        rows = (
            f"experts-{count} told",
            f"experts-{count} top-1",
            f"experts-{count} full",
            f"told-{count} told",
            f"told-{count} full",
            f"random-{count} full",
        )
        ratios = [found.loss(place, row, "monolith") for row in rows]
        lines.append(f"{start} {' | '.join('' if r is None else f'{r.mean:.3f}' for r in ratios)} |")
    return lines


def _router(found: Map) -> list[str]:
    lines = _head(*(f"t = {t:g}" for t in TIMES))
    for place, count, start in _rows(found):
        each = [one["router_right"][str(count)] for one in found.found[place]]
        means = [sum(values) / len(values) for values in zip(*each, strict=True)]
        lines.append(f"{start} {' | '.join(f'{mean:.2f}' for mean in means)} |")
    return lines
