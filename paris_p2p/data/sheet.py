"""Draws a contact sheet: some clips of every cluster in one picture, to see what each expert will learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from paris_p2p.disk import replacing

COLUMNS = 16
ROWS = 2  # for each cluster
TITLE_PIXELS = 16
GAP_PIXELS = 2
MAX_SIDE_PIXELS = 96

SheetPicture = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class SheetBlock:
    """Holds a cluster's title and pictures, all of one size."""

    title: str
    pictures: Sequence[SheetPicture]


def thumbnail(picture: SheetPicture) -> SheetPicture:
    """Scales a picture to at most 96 pixels on the longer side."""
    height, width = picture.shape[:2]
    if max(height, width) <= MAX_SIDE_PIXELS:
        return picture
    scale = MAX_SIDE_PIXELS / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def contact_sheet(blocks: Sequence[SheetBlock], path: Path) -> None:
    """Writes a PNG with a block of at most `ROWS` x `COLUMNS` pictures for each cluster."""
    height, width = next(block.pictures[0].shape[:2] for block in blocks if block.pictures)
    cell_h, cell_w = height + GAP_PIXELS, width + GAP_PIXELS
    block_h = TITLE_PIXELS + ROWS * cell_h
    sheet = Image.new("RGB", (max(COLUMNS * cell_w, 320), block_h * len(blocks)), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for number, block in enumerate(blocks):
        top = number * block_h
        draw.text((4, top + 2), block.title, fill=(230, 230, 230))
        for i, picture in enumerate(block.pictures[: COLUMNS * ROWS]):
            sheet.paste(
                Image.fromarray(picture), (i % COLUMNS * cell_w, top + TITLE_PIXELS + i // COLUMNS * cell_h)
            )
    with replacing(path) as file:
        sheet.save(file, "PNG")
