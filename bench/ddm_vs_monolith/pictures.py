"""Draws pictures for docs/experiments.md from result files alone: clips side by side, distances, losses,
routing.

Legend: T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench.ddm_vs_monolith.findings import Findings
from bench.ddm_vs_monolith.report import curve_parts, distance_parts, routing_parts, shown_clips
from paris_p2p.score.page import Figure

FRAMES = 3  # of each clip: the first, one in the middle, the last
LABEL_PIXELS, GAP_PIXELS = 190, 6
INK = "#222222"


def write_pictures(findings: Findings, folder: Path) -> list[Path]:
    """Writes `<scale>-clips.jpg`, and an SVG for each drawing of the report."""
    folder.mkdir(parents=True, exist_ok=True)
    scale = findings.comparison.scale.name
    sheet = folder / f"{scale}-clips.jpg"
    contact_sheet(shown_clips(findings)).save(sheet, quality=88, subsampling=0)
    return [sheet, *(_save(folder / f"{scale}-{name}.svg", figure) for name, figure in _drawings(findings))]


def contact_sheet(rows: dict[str, NDArray[np.uint8]]) -> Image.Image:
    """Draws a row for each name, with some frames of each of its clips [N T H W 3]."""
    clips, frames, height, width, _ = next(iter(rows.values())).shape
    taken = np.unique(np.linspace(0, frames - 1, FRAMES).round().astype(int))
    clip_width = width * len(taken) + GAP_PIXELS
    sheet = Image.new("RGB", (LABEL_PIXELS + clips * clip_width, (height + GAP_PIXELS) * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, videos) in enumerate(rows.items()):
        top = row * (height + GAP_PIXELS)
        pen.text((4, top + height // 2 - 6), name.replace(", through", ",\nthrough"), fill=INK)
        for clip, video in enumerate(videos):
            strip = np.concatenate(list(video[taken]), axis=1)  # H x T W
            sheet.paste(Image.fromarray(strip), (LABEL_PIXELS + clip * clip_width, top))
    return sheet


def _drawings(findings: Findings) -> Iterator[tuple[str, Figure]]:
    parts: list[tuple[str, Any]] = [("distances", part) for part in distance_parts(findings)]
    parts += [("losses", part) for part in curve_parts(findings)]
    parts += [("routing", part) for part in routing_parts(findings)]
    seen: dict[str, int] = {}
    for name, part in parts:
        if isinstance(part, Figure):
            seen[name] = seen.get(name, 0) + 1
            yield name if seen[name] == 1 else f"{name}-{seen[name]}", part


def _save(path: Path, figure: Figure) -> Path:
    """Saves a drawing on white, since a picture does not know the page it is shown on."""
    svg = figure.svg.replace("currentColor", INK).replace("<svg", '<svg style="background:#ffffff"', 1)
    path.write_text(svg + "\n", encoding="utf-8")
    return path
