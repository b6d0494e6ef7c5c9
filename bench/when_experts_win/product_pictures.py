"""Puts what ways made for the same captions side by side, from the pictures that a played stage keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from bench.when_experts_win.product_stages import ProductStage
from paris_p2p.errors import UsageError

PICTURES = "pictures"  # the folder of a stage's work
REAL = "real through the codec"
TITLE_PIXELS, GAP_PIXELS = 16, 8
QUALITY = 88


def picture_name(title: str, guidance: float) -> str:
    """Returns the file's name of a way's pictures."""
    return f"{title} {guidance:g}.png"


def put_side_by_side(
    stage: ProductStage, folder: Path, titles: Sequence[str], height: int, out: Path
) -> Path:
    """Writes a JPEG with a column for real clips and for each way, by its title, at its own guidance.

    Each row is one caption, of a clip its frames from left to right; so many pixels are taken from the top.
    UsageError where a way is not known or has no pictures.
    """
    columns = []
    for title in (REAL, *titles):
        name = f"{REAL}.png" if title == REAL else picture_name(stage.way(title).title, 0.0)
        if not (folder / name).is_file():
            raise UsageError(f"{folder / name} is not there: the first seed's samplings write it")
        with Image.open(folder / name) as kept:
            columns.append((title, kept.convert("RGB")))
    height = min(height, *(picture.height for _, picture in columns))
    widths = [picture.width for _, picture in columns]
    sheet = Image.new("RGB", (sum(widths) + GAP_PIXELS * (len(widths) - 1), height + TITLE_PIXELS), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for title, picture in columns:
        draw.text((left, 2), title, fill="black")
        sheet.paste(picture.crop((0, 0, picture.width, height)), (left, TITLE_PIXELS))
        left += picture.width + GAP_PIXELS
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, quality=QUALITY)
    return out
