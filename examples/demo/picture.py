"""One picture: real rows beside generated ones, with the prompt above each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SCALE, GAP, LINE = 2, 16, 18  # enlargement; pixels between halves and for a line of text

Row = tuple[str, np.ndarray, np.ndarray]  # prompt, real clip and generated clip, uint8 [T, H, W, 3]


def picture(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: per row the prompt, then a real test clip's frames on the left and the generated clip's on the right."""
    halves = [(prompt, _strip(real), _strip(made)) for prompt, real, made in rows]
    width = halves[0][1].width + GAP + halves[0][2].width
    height = LINE + sum(max(real.height, made.height) + LINE for _, real, made in halves)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 3), "real test clips", fill="black")
    draw.text((halves[0][1].width + GAP + 2, 3), "generated for the prompt", fill="black")
    top = LINE
    for prompt, real, made in halves:
        draw.text((2, top + 3), prompt[: width // 6], fill=(90, 90, 90))
        sheet.paste(real, (0, top + LINE))
        sheet.paste(made, (real.width + GAP, top + LINE))
        top += LINE + max(real.height, made.height)
    sheet.save(path)


def _strip(clip: np.ndarray) -> Image.Image:
    """Frames side by side: [T H W 3] -> one image."""
    strip = Image.fromarray(np.concatenate(list(clip), axis=1))
    return strip.resize((strip.width * SCALE, strip.height * SCALE), Image.Resampling.NEAREST)
