"""Reads the cut-outs of Debian's tuxpaint-stamps-default, and pastes them on pictures.

They are GPL-2: installed on a machine, and copied into no repository. Legend: H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.clips.errors import WorldError

LEFT_OUT = "symbols"  # letters and signs, whose thin strokes are lost in small pictures
STORED_PIXELS = 64  # of the longer side
SEEN = 0.02  # alpha from which a pixel belongs to the stamp
DEAL_SEED = 0
SHARES = {"test": 0.1, "validation": 0.05}  # of the stamps; the rest is trained on
Picture = NDArray[np.float32]  # [H W 3], 0 to 1


@dataclass(frozen=True)
class Stamp:
    """Holds one cut-out: colours times alpha, and alpha, [H W 4] in 0 to 1, cropped to what is seen."""

    name: str
    pixels: NDArray[np.float32]

    def scaled(self, longer_pixels: float) -> NDArray[np.float32]:
        """Returns it with its longer side that long, [h w 4]."""
        height, width = self.pixels.shape[:2]
        scale = longer_pixels / max(height, width)
        size = max(2, round(width * scale)), max(2, round(height * scale))
        smaller: NDArray[np.float32] = cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA)
        return smaller


def load_stamps(folder: Path) -> list[Stamp]:
    """Reads all stamps in the order of their names; WorldError when they are not installed."""
    paths = sorted(path for path in folder.rglob("*.png") if path.relative_to(folder).parts[0] != LEFT_OUT)
    if not paths:
        raise WorldError(
            f"there are no stamps in {folder}: install them with `apt install tuxpaint-stamps-default`, "
            "or name the folder that holds them with --stamps"
        )
    return [Stamp(str(path.relative_to(folder).with_suffix("")), _read(path)) for path in paths]


def dealt_stamps(stamps: list[Stamp]) -> dict[str, list[Stamp]]:
    """Deals stamps to splits, the same ones every time: what is tested on is drawn with no train stamp."""
    order = np.random.default_rng(DEAL_SEED).permutation(len(stamps))
    dealt: dict[str, list[Stamp]] = {}
    begin = 0
    for split, share in SHARES.items():
        end = begin + max(1, round(share * len(stamps)))
        dealt[split], begin = [stamps[i] for i in order[begin:end]], end
    return {"train": [stamps[i] for i in order[begin:]], **dealt}


def paste(picture: Picture, cut: NDArray[np.float32], top: int, left: int) -> None:
    """Lays a scaled stamp [h w 4] over a picture, in place; what lies outside is cut off."""
    (first_row, last_row), (first_column, last_column) = (
        (max(0, at), min(side, at + size))
        for at, side, size in zip((top, left), picture.shape, cut.shape, strict=False)
    )
    if first_row < last_row and first_column < last_column:
        part = cut[first_row - top : last_row - top, first_column - left : last_column - left]
        under = picture[first_row:last_row, first_column:last_column]
        under[:] = part[..., :3] + (1 - part[..., 3:]) * under


def _read(path: Path) -> NDArray[np.float32]:
    with Image.open(path) as image:
        rgba = image.convert("RGBA")
    rgba.thumbnail((4 * STORED_PIXELS, 4 * STORED_PIXELS))
    pixels = np.asarray(rgba, np.float32) / 255
    rows, columns = (np.flatnonzero((pixels[..., 3] > SEEN).any(axis=axis)) for axis in (1, 0))
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else pixels
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)
    return Stamp("", np.ascontiguousarray(pixels)).scaled(min(STORED_PIXELS, max(pixels.shape)))
