"""Renders a report as one HTML file without scripts or outside links; all text in it is foreign and escaped.

Legend: T frames, H height, W width.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from numpy.typing import NDArray
from PIL import Image

from paris_p2p.errors import UsageError
from paris_p2p.score.intervals import Interval, Score
from paris_p2p.shown import shown_lines

MAX_FPS = 50.0  # browsers slow down animations of less than 20 ms a frame
WEBP_QUALITY = 80


@dataclass(frozen=True)
class Table:
    """Holds cells of text; those right of the first `text_columns` are set as numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text_columns: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise UsageError(
                    f"the table {self.title!r} has {len(self.columns)} columns "
                    f"and a row of {len(row)} cells: {row}"
                )


@dataclass(frozen=True)
class Figure:
    """Holds an SVG drawn in this room, which is set as it is; `alt` says in words what it shows."""

    title: str
    svg: str
    alt: str
    note: str = ""


@dataclass(frozen=True)
class LoopingClip:
    """Holds a looping clip as a data URI, made by `looping`."""

    uri: str
    alt: str


@dataclass(frozen=True)
class ClipRow:
    """Holds one caption's clips, one for each column of its wall; None where there is none."""

    caption: str
    clips: tuple[LoopingClip | None, ...]


@dataclass(frozen=True)
class ClipWall:
    """Shows looping clips side by side: real, experts, monolith."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[ClipRow, ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.clips) != len(self.columns):
                raise UsageError(
                    f"{self.title!r} has {len(self.columns)} columns "
                    f"and {len(row.clips)} clips of {row.caption!r}"
                )


Part = Table | Figure | ClipWall


@dataclass(frozen=True)
class Section:
    """Holds a heading, plain words, and the parts they are about."""

    title: str
    text: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Report:
    """Holds a whole report; `made` says how it was made (command, versions, date) as (name, value)."""

    title: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]
    made: tuple[tuple[str, str], ...] = ()


def render(report: Report) -> str:
    """Returns the whole page; the same report gives the same text."""
    return _template().render(report=report, kind=lambda part: type(part).__name__)


def score_table(title: str, scores: Mapping[str, Sequence[Score]], note: str = "") -> Table:
    """Tabulates the scores of each model with interval, floor and counts.

    The models of one metric stand beneath one another.
    """
    names = list(dict.fromkeys(score.name for group in scores.values() for score in group))
    rows = [
        _score_row(model, score)
        for name in names
        for model, group in scores.items()
        for score in group
        if score.name == name
    ]
    columns = (
        "metric", "model", "value", "interval", "at the floor's counts", "floor (real against real)", "",
        "real clips", "generated",
    )  # fmt: skip
    return Table(title, columns, tuple(rows), note or FLOOR_NOTE, text_columns=2)


FLOOR_NOTE = (
    "The interval resamples RNG seeds, then source videos, then takes all their clips. "
    "The floor is what the same estimator says of two halves of the real clips: nothing can be told apart "
    "from real there. As a distance also depends on how many clips it is computed from, "
    "“at the floor's counts” is the number to hold against it. Clips are given as clips / source videos."
)


def number(value: float) -> str:
    """Formats four significant figures, without an exponent where that is readable."""
    if not np.isfinite(value):
        return "not finite"
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:#.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.2e}"


def interval(value: Interval | Score) -> str:
    """Formats the ends of an interval."""
    return f"{number(value.low)} to {number(value.high)}"


def looping(video: NDArray[np.uint8], fps: float, alt: str) -> LoopingClip:
    """Encodes uint8 [T H W 3] as an animated WebP that loops for ever; one frame makes a picture."""
    if video.ndim != 4 or video.shape[3] != 3 or video.dtype != np.uint8 or not len(video) or fps <= 0:
        raise UsageError(
            f"a clip of shape {video.shape}, type {video.dtype} at {fps} frames/s cannot be shown: "
            "uint8 [T H W 3] is needed"
        )
    pictures = [Image.fromarray(frame) for frame in video]
    buffer, frame_ms = io.BytesIO(), round(1000 / min(fps, MAX_FPS))
    more: dict[str, Any] = {}
    if len(pictures) > 1:
        more = {"save_all": True, "append_images": pictures[1:], "duration": frame_ms, "loop": 0}
    pictures[0].save(buffer, "WEBP", quality=WEBP_QUALITY, method=4, **more)
    return LoopingClip(f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}", alt)


def _score_row(model: str, score: Score) -> tuple[str, ...]:
    verdict = "above" if score.above_floor else "at the floor"
    clips = f"{score.generated_clips} / {score.generated_sources}" + (
        f" of {score.seeds} seeds" if score.seeds > 1 else ""
    )
    floor = (
        f"{number(score.floor.value)} ({number(score.floor.low)} to {number(score.floor.high)}, "
        f"{score.floor.clips} a side)"
    )
    given = (
        score.name,
        model,
        number(score.value),
        f"{interval(score)} ({score.level:.0%})",
        number(score.matched),
        floor,
        verdict,
    )
    return (*given, f"{score.real_clips} / {score.real_sources}", clips)


@cache
def _template() -> Template:
    # `finalize` comes before escaping and sees values only, never the template's own text.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown_lines(value) if type(value) is str else value,
    )
    text = resources.files("paris_p2p.score").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(text)
