"""Measures what can be seen in a clip, in words that every world shares, from its pixels alone.

Legend: T frames, H x W pixels; flow is in pixels a frame.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]  # [T H W 3]
Attributes = dict[str, str]

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
MOVED_PIXELS = 0.5  # a pixel that is displaced by less stands still
STILL_SHARE = 0.02  # of all pixels: fewer that move are nothing
ONE_WAY = 0.5  # |mean flow| over mean |flow| of what moves; 1 when everything goes the same way
# degrees, up to
HUES = (
    (15, "red"),
    (40, "orange"),
    (70, "yellow"),
    (165, "green"),
    (260, "blue"),
    (330, "purple"),
    (361, "red"),
)
COLOURED = 0.22  # chroma (max - min channel) of the coloured part, over 255
BANDS: dict[str, tuple[tuple[float, str], ...]] = {  # up to, and its name
    "brightness": ((0.28, "dark"), (0.45, "medium"), (2.0, "bright")),
    "contrast": ((0.12, "low"), (0.2, "medium"), (2.0, "high")),
    "pace": ((1.6, "slow"), (3.2, "medium"), (1e9, "fast")),
    "extent": ((0.2, "a part"), (0.6, "half"), (2.0, "everything")),
}
LEAN = 0.03  # difference of mean luma between two halves that is seen


def measure(frames: Frames) -> Attributes:
    """Returns every attribute of a clip, by name."""
    motion, pace, extent = _movement(frames)
    return {**look(frames), "motion": motion, "pace": pace, "extent": extent}


def look(frames: Frames) -> Attributes:
    """Returns the attributes that a single picture has too, by name."""
    pixels = frames.astype(np.float64) / 255
    luma = pixels @ LUMA  # T H W
    return {
        "brightness": _band("brightness", float(luma.mean())),
        "contrast": _band("contrast", float(luma.std(axis=(1, 2)).mean())),
        "colour": _colour(pixels),
        "lighter": _lighter(luma.mean(axis=0)),
    }


def _band(name: str, value: float) -> str:
    return next(word for limit, word in BANDS[name] if value < limit)


def _colour(pixels: NDArray[np.float64]) -> str:
    """Returns the hue that has most chroma over the clip, grey when there is little of it."""
    flat = pixels.reshape(-1, 3)
    chroma = flat.max(axis=1) - flat.min(axis=1)
    if chroma.mean() < COLOURED / 2:
        return "grey"
    hsv = cv2.cvtColor(flat[None].astype(np.float32), cv2.COLOR_RGB2HSV)[0]
    weights, _ = np.histogram(hsv[:, 0], bins=[0, *(limit for limit, _ in HUES)], weights=chroma)
    totals: dict[str, float] = {}
    for (_, name), weight in zip(HUES, weights, strict=True):
        totals[name] = totals.get(name, 0.0) + float(weight)
    return max(totals, key=totals.__getitem__)


def _lighter(picture: NDArray[np.float64]) -> str:
    """Returns which half of the mean picture is clearly lighter than the other: top, bottom, left, right,
    or neither.
    """
    rows, columns = picture.shape
    down = picture[rows // 2 :].mean() - picture[: rows // 2].mean()
    across = picture[:, columns // 2 :].mean() - picture[:, : columns // 2].mean()
    if max(abs(down), abs(across)) < LEAN:
        return "neither"
    if abs(down) >= abs(across):
        return "bottom" if down > 0 else "top"
    return "right" if across > 0 else "left"


def _movement(frames: Frames) -> tuple[str, str, str]:
    """Returns which way the moving part goes, how fast, and its share of the picture, by dense optical
    flow.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flow = np.stack(
        [
            cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 13, 3, 5, 1.1, 0)
            for a, b in itertools.pairwise(grey)
        ]
    )
    speed = np.linalg.norm(flow, axis=-1)  # T-1 H W
    moving = speed > MOVED_PIXELS
    if moving.mean() < STILL_SHARE:
        return "still", "slow", "a part"
    mean = flow[moving].mean(axis=0)
    pace, extent = _band("pace", float(speed[moving].mean())), _band("extent", float(moving.mean()))
    if np.linalg.norm(mean) < ONE_WAY * speed[moving].mean():
        return _spread(flow, moving), pace, extent
    across, down = mean
    if abs(across) >= abs(down):
        return ("right" if across > 0 else "left"), pace, extent
    return ("down" if down > 0 else "up"), pace, extent


def _spread(flow: NDArray[np.float32], moving: NDArray[np.bool_]) -> str:
    """Says whether what moves goes away from the middle (`outward`), towards it (`inward`), or neither
    (`mixed`).
    """
    _, rows, columns, _ = flow.shape
    y, x = np.mgrid[:rows, :columns]
    out = np.stack((x - (columns - 1) / 2, y - (rows - 1) / 2), axis=-1)
    out /= np.linalg.norm(out, axis=-1, keepdims=True)
    radial = (flow * out).sum(axis=-1)[moving].mean() / np.linalg.norm(flow, axis=-1)[moving].mean()
    if abs(radial) < ONE_WAY / 2:
        return "mixed"
    return "outward" if radial > 0 else "inward"
