"""Draws the figures of a report: arrays in, SVG out.

Legend: K experts, G groups (clusters), S denoising steps, N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UsageError
from paris_p2p.score.drawing import INK, PALETTE, WIDTH_IN, colours, drawn, label, legend
from paris_p2p.score.intervals import Floats, Score
from paris_p2p.score.page import Figure, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

BINS = 10


@dataclass(frozen=True)
class Curve:
    """Holds one line: x [N] and y [N]."""

    name: str
    x: NDArray[Any]
    y: NDArray[Any]

    def __post_init__(self) -> None:
        if self.x.shape != self.y.shape or self.x.ndim != 1 or not len(self.x):
            raise UsageError(
                f"the curve {self.name!r} has x of shape {self.x.shape} and y of {self.y.shape}: "
                "they must be [N] alike"
            )


def loss_curves(
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    y_label: str = "held-out loss",
    *,
    logarithmic: bool = False,
) -> Figure:
    """Draws a line for each model over training."""

    def draw(drawing: Drawing) -> None:
        axes = drawing.subplots()
        for curve, colour in zip(curves, colours(len(curves)), strict=True):
            axes.plot(
                curve.x,
                curve.y,
                color=colour,
                label=label(curve.name),
                linewidth=1.8,
                marker="." if len(curve.x) <= 40 else "",
            )
        axes.set(xlabel=label(x_label), ylabel=label(y_label), yscale="log" if logarithmic else "linear")
        legend(drawing, axes)

    ends = "; ".join(
        f"{curve.name} from {number(float(curve.y[0]))} to {number(float(curve.y[-1]))}" for curve in curves
    )
    return drawn(title, draw, 3.6, f"{y_label} over {x_label}: {ends}.")


def distances(title: str, scores: Mapping[str, Sequence[Score]]) -> Figure:
    """Draws each metric in a panel of its own.

    A panel shows every model's value with its interval, and its value at the floor's counts beside the
    floor's band.
    """
    names = list(dict.fromkeys(score.name for group in scores.values() for score in group))
    by_name = {
        name: [(model, s) for model, group in scores.items() for s in group if s.name == name]
        for name in names
    }

    def draw(drawing: Drawing) -> None:
        heights = [len(rows) + 1.2 for rows in by_name.values()]
        panels = drawing.subplots(len(names), squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, rows) in zip(panels, by_name.items(), strict=True):
            _score_panel(axes, name, rows)
        legend(drawing, panels[0])

    said = [
        f"{name}: " + ", ".join(f"{model} {number(s.value)}" for model, s in rows)
        for name, rows in by_name.items()
    ]
    return drawn(
        title, draw, 0.5 + sum(0.34 * len(rows) + 0.75 for rows in by_name.values()), "; ".join(said) + "."
    )


def routing_over_time(
    title: str, t: Floats, weights: Floats, groups: Sequence[str], experts: Sequence[str]
) -> Figure:
    """Draws which experts denoise, from noise (t = 1, left) on, as shares stacked to 1.

    t [S], weights [G S K]; each group has a panel.
    """
    if weights.shape != (len(groups), len(t), len(experts)) or not len(t):
        raise UsageError(
            f"routing of shape {weights.shape} for {len(groups)} groups, "
            f"{len(t)} steps and {len(experts)} experts"
        )

    def draw(drawing: Drawing) -> None:
        across = min(4, len(groups))
        panels = drawing.subplots(
            -(-len(groups) // across), across, sharex=True, sharey=True, squeeze=False
        ).ravel()
        for axes, group, shares in zip(panels, groups, weights, strict=False):
            # A choice holds until the next one.
            until = np.append(t, min(float(t.min()), 0.0)), np.append(shares, shares[-1:], 0)
            labels = [label(name) for name in experts]
            axes.stackplot(
                until[0], until[1].T, colors=colours(len(experts)), labels=labels, step="post", linewidth=0
            )
            axes.set(title=label(group), xlim=(float(t.max()), float(min(t.min(), 0.0))), ylim=(0, 1))
            axes.grid(visible=False)
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
        drawing.supxlabel("t (1 is noise; denoising runs to the right)", fontsize=10)
        panels[0].set_ylabel("share")
        legend(drawing, panels[0])

    said = "; ".join(
        f"{group}: {experts[int(shares.mean(0).argmax())]} most"
        for group, shares in zip(groups, weights, strict=True)
    )
    return drawn(
        title, draw, 0.9 + 1.9 * -(-len(groups) // 4), f"Share of each expert over denoising time. {said}."
    )


def confusion(title: str, counts: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Draws which share of each cluster's answers (row) goes to each expert (column): counts [K K]."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = np.diagonal(counts).sum() / max(1, counts.sum())
    rows = [f"{name} ({total})" for name, total in zip(names, counts.sum(1), strict=True)]
    alt = (
        "Rows are clusters, columns the router's first choice; "
        f"{right:.0%} of {counts.sum()} answers lie on the diagonal."
    )
    axes_labels = ("the router's first choice", "cluster (answers)")
    return _heat(title, _Matrix(shares, rows, names, axes_labels), lambda value: f"{value:.0%}", alt)


def specialisation(title: str, losses: Floats, experts: Sequence[str], clusters: Sequence[str]) -> Figure:
    """Draws each expert's held-out loss on each cluster's clips, [K G].

    The colour says how far a loss lies above that of the cluster's best expert.
    """
    above = losses / losses.min(0, keepdims=True) - 1  # K G
    best = [experts[int(k)] for k in losses.argmin(0)]
    said = "; ".join(f"{cluster}: best by {name}" for cluster, name in zip(clusters, best, strict=True))
    matrix = _Matrix(above, experts, clusters, ("clips of", "expert"))
    alt = f"Held-out loss. {said}."
    return _heat(title, matrix, lambda value: f"+{value:.0%}", alt, shown=losses, top=None)


def expected_calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """Returns the expected calibration error over ten equal bins: [N], [N].

    Source: Guo et al. 2017 (arXiv 1706.04599), Eq. 3.
    """
    return float(
        sum(
            len(rows) * abs(confidence[rows].mean() - right[rows].mean())
            for rows in _bins(confidence)
            if len(rows)
        )
        / len(right)
    )


def calibration(title: str, confidence: Floats, right: NDArray[np.bool_]) -> Figure:
    """Draws how often the router is right at each confidence, and how many clips there are: [N], [N]."""
    if confidence.shape != right.shape or not len(right):
        raise UsageError(
            f"calibration needs one confidence for each answer: {confidence.shape} and {right.shape}"
        )
    error = expected_calibration_error(confidence, right)
    bins = [rows for rows in _bins(confidence) if len(rows)]

    def draw(drawing: Drawing) -> None:
        left, below = drawing.subplots(1, 2, width_ratios=(1, 1))
        left.plot(
            [0, 1], [0, 1], color=INK, alpha=0.4, linewidth=1, linestyle="--", label="perfectly calibrated"
        )
        points = [(confidence[rows].mean(), right[rows].mean()) for rows in bins]
        left.plot(*zip(*points, strict=True), color=PALETTE[0], marker="o", linewidth=1.6, label="router")
        left.set(
            xlim=(0, 1),
            ylim=(0, 1.02),
            xlabel="confidence",
            ylabel="share right",
            title=f"expected calibration error {error:.3f}",
        )
        left.legend(loc="upper left")
        below.hist(confidence, bins=np.linspace(0, 1, BINS + 1), color=PALETTE[0], alpha=0.8)
        below.set(xlim=(0, 1), xlabel="confidence", ylabel="answers", title=f"{len(right)} answers")

    said = (
        f"{right.mean():.0%} of {len(right)} answers are right at a mean confidence "
        f"of {confidence.mean():.0%}"
    )
    return drawn(title, draw, 3.4, f"{said}; expected calibration error {error:.3f}.")


def _score_panel(axes: Axes, name: str, rows: Sequence[tuple[str, Score]]) -> None:
    places = np.arange(len(rows))
    for place, (_, score) in zip(places, rows, strict=True):
        height = 0.42 if len(rows) > 1 else 0.3
        axes.fill_betweenx(
            [place - height, place + height],
            score.floor.low,
            score.floor.high,
            color=INK,
            alpha=0.16,
            linewidth=0,
            label="floor: real against real" if place == 0 else None,
        )
        axes.plot([score.low, score.high], [place - 0.12] * 2, "|-", color=PALETTE[0], linewidth=1.8)
        named = f"value and {score.level:.0%} interval" if place == 0 else None
        axes.plot(score.value, place - 0.12, "o", color=PALETTE[0], label=named)
        named = "at the floor's counts" if place == 0 else None
        axes.plot(score.matched, place + 0.16, "D", color=PALETTE[3], markersize=4.5, label=named)
    axes.set_yticks(places, [label(model) for model, _ in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5))
    axes.set_title(label(name, 70), loc="left")
    axes.grid(visible=False, axis="y")


@dataclass(frozen=True)
class _Matrix:
    values: Floats  # [rows columns]
    rows: Sequence[str]
    columns: Sequence[str]
    labels: tuple[str, str]  # below the columns, beside the rows


def _heat(
    title: str,
    matrix: _Matrix,
    word: Callable[[float], str],
    alt: str,
    *,
    shown: Floats | None = None,
    top: float | None = 1.0,
) -> Figure:
    """Draws a matrix in blues, with its numbers where it has at most 24 columns."""

    values, rows, columns = matrix.values, matrix.rows, matrix.columns

    def draw(drawing: Drawing) -> None:
        axes = drawing.subplots()
        most = top if top is not None else max(float(values.max()), 1e-9)
        axes.pcolormesh(values, cmap="Blues", vmin=0, vmax=most)
        axes.invert_yaxis()
        axes.set_xticks(
            np.arange(len(columns)) + 0.5,
            [label(name) for name in columns],
            rotation=45 if len(columns) > 8 else 0,
        )
        axes.set_yticks(np.arange(len(rows)) + 0.5, [label(name) for name in rows])
        axes.set(xlabel=matrix.labels[0], ylabel=matrix.labels[1])
        axes.grid(visible=False)
        for (row, column), value in np.ndenumerate(values if len(columns) <= 24 else values[:0]):
            text = word(value) if shown is None else f"{number(float(shown[row, column]))}\n{word(value)}"
            ink = "#ffffff" if value > 0.6 * most else "#10181f"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8.5, color=ink)

    height = 1.1 + len(rows) * (0.34 if shown is None else 0.5)
    return drawn(title, draw, min(12.0, height), alt, width_in=min(WIDTH_IN, 2.6 + 0.85 * len(columns)))


def _bins(confidence: Floats) -> list[NDArray[np.int64]]:
    places = np.clip((confidence * BINS).astype(np.int64), 0, BINS - 1)
    return [np.flatnonzero(places == place) for place in range(BINS)]
