"""Draws the map: by how much experts are nearer, over size, for each number of clusters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.when_experts_win.report import FEATURES, Map, Place
from paris_p2p.score.drawing import INK, PALETTE, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

PAGE_INK = "#222222"
CLAIMED = 2.01  # Paris 2.0, arXiv 2605.26064
SHOWN = (0.18, 6)  # what lies outside is in the tables
TITLE = "One model's distance over each arm's"
ALT = "Ratios of Fréchet distances over the size of a network, with 95 % intervals; above 1 an arm is nearer"


def write_figure(found: Map, path: Path) -> Path:
    """Writes the map as SVG, on white, since a picture does not know the page it is shown on."""
    lengths = sorted({place.steps for place in found.places})

    def draw(drawing: Drawing) -> None:
        panels = drawing.subplots(len(lengths), len(FEATURES), sharex=True, sharey=True, squeeze=False)
        for row, steps in zip(panels, lengths, strict=True):
            for axes, (features, name) in zip(row, FEATURES.items(), strict=True):
                _panel(axes, found, features, steps)
                axes.set_title(f"Fréchet distance on {name}, {steps:,} steps")
            row[0].set_ylabel("the monolith's over the arm's")
        for axes in panels[-1]:
            axes.set_xlabel("parameters of one network, thousands")
        handles, labels = panels[0][0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside upper center", ncols=4)

    figure = drawn(TITLE, draw, 3.6 * len(lengths) + 0.6, ALT)
    svg = figure.svg.replace("currentColor", PAGE_INK).replace("<svg", '<svg style="background:#ffffff"', 1)
    path.write_text(svg + "\n", encoding="utf-8")
    return path


def _panel(axes: Axes, found: Map, features: str, steps: int) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.axhline(1, color=INK, linewidth=1)
    axes.axhline(CLAIMED, color=INK, linewidth=0.8, linestyle=":")
    places = [place for place in found.places if place.steps == steps]
    for number, count in enumerate(found.stage.clusters):
        rows = (
            (f"experts-{count} kept", f"{count} experts, kept", "o-", number),
            (f"told-{count} kept", f"told which of {count}", "s--", number),
            (f"random-{count} kept", f"{count} random parts", "x:", number),
            (f"experts-{count} top-1", f"{count} experts, top-1", "v-.", number + 2),
        )
        for arm, name, marks, colour in rows:
            _line(axes, found, places, (arm, features), (name, marks, PALETTE[colour]))
    sizes = [found.parameters(place) for place in places]
    axes.set_xticks(sizes, [f"{size / 1000:.1f}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(*SHOWN)
    ticks = [0.25, 0.5, 1, 2, 4]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def _line(
    axes: Axes, found: Map, places: Sequence[Place], which: tuple[str, str], look: tuple[str, str, str]
) -> None:
    """Draws one arm's ratios with their intervals."""
    arm, features = which
    name, marks, colour = look
    points = [(place, found.ratio(place, "monolith", arm, features)) for place in places]
    there = [
        (found.parameters(place), ratio)
        for place, ratio in points
        if ratio is not None and SHOWN[0] <= ratio.mean <= SHOWN[1]
    ]
    if not there:
        return
    means = [ratio.mean for _, ratio in there]
    spread = None
    if all(len(ratio.ratios) > 2 for _, ratio in there):
        ends = [ratio.interval for _, ratio in there]
        spread = [
            [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
            [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
        ]
    axes.errorbar(
        [size for size, _ in there], means, spread, fmt=marks, color=colour, label=name, markersize=4,
        linewidth=1.2, elinewidth=0.8,
    )  # fmt: skip
