"""Draws backgrounds: gradients, stripes, checks, clouds, dots and heaps of rectangles.

A ground has a look (its colours, angle and scale), which belongs to its source, and a place in it, which
each picture draws anew; only a gradient, which fills the picture, has none. Legend: S pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Ground = NDArray[np.float32]  # [S S 3], 0 to 1
Rng = np.random.Generator
APART = 0.45  # least distance of two colours of one ground, of at most sqrt 3


def draw_ground(kind: str, side_pixels: int, look: Rng, place: Rng) -> Ground:
    """Draws a ground of a kind of GROUNDS; the same look with another place is another part of it."""
    ground: Ground = np.clip(GROUNDS[kind](side_pixels, look, place), 0, 1).astype(np.float32)
    return ground


def _colours(rng: Rng, count: int) -> NDArray[np.float64]:
    """Draws colours [count 3], each well apart from the one before it."""
    found = [rng.random(3)]
    while len(found) < count:
        colour = rng.random(3)
        if np.linalg.norm(colour - found[-1]) > APART:
            found.append(colour)
    return np.stack(found)


def _turned(side: int, look: Rng, place: Rng) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns two coordinates [S S] in pixels, turned by the look's angle and moved by the place."""
    angle = look.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    across = np.cos(angle) * columns + np.sin(angle) * rows
    along = np.cos(angle) * rows - np.sin(angle) * columns
    return across + place.uniform(0, side), along + place.uniform(0, side)


def _mixed(share: NDArray[np.float64], colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the first colour where the share [S S] is 0 and the second where it is 1."""
    return colours[0] + share[..., None] * (colours[1] - colours[0])


def _gradient(side: int, look: Rng, place: Rng) -> NDArray[np.float64]:
    colours = _colours(look, 2)
    across, _ = _turned(side, look, place)
    return _mixed(np.clip((across - across.min()) / (1.2 * side), 0, 1), colours)


def _edge(wave: NDArray[np.float64], period: float) -> NDArray[np.float64]:
    """Turns a wave in -1 to 1 into nearly two values, with edges one pixel soft."""
    return np.clip(0.5 + wave * period / 6, 0, 1)


def _stripes(side: int, look: Rng, place: Rng) -> NDArray[np.float64]:
    colours, period = _colours(look, 2), side * look.uniform(0.15, 0.4)
    across, _ = _turned(side, look, place)
    return _mixed(_edge(np.sin(2 * np.pi * across / period), period), colours)


def _checks(side: int, look: Rng, place: Rng) -> NDArray[np.float64]:
    colours, period = _colours(look, 2), side * look.uniform(0.2, 0.5)
    across, along = _turned(side, look, place)
    wave = np.sin(2 * np.pi * across / period) * np.sin(2 * np.pi * along / period)
    return _mixed(_edge(wave, period), colours)


def _dots(side: int, look: Rng, place: Rng) -> NDArray[np.float64]:
    colours, period = _colours(look, 2), side * look.uniform(0.18, 0.4)
    radius = period * look.uniform(0.2, 0.4)
    across, along = _turned(side, look, place)
    off = [(x + period / 2) % period - period / 2 for x in (across, along)]
    return _mixed(np.clip(radius - np.hypot(*off) + 0.5, 0, 1), colours)


def _clouds(side: int, look: Rng, place: Rng) -> NDArray[np.float64]:
    colours, cells = _colours(look, 2), int(look.integers(3, 7))
    share = np.zeros((side, side))
    for octave in range(3):
        coarse = place.random((cells * 2**octave, cells * 2**octave))
        share += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC) / 2**octave
    share = (share - share.min()) / max(1e-6, float(share.max() - share.min()))
    return _mixed(share, colours)


def _heap(side: int, look: Rng, place: Rng) -> NDArray[np.float64]:
    colours, count = _colours(look, 4), int(look.integers(5, 12))
    picture = np.broadcast_to(colours[0], (side, side, 3)).copy()
    for number in range(count):
        height, width = place.integers(side // 6, side // 2, 2)
        top, left = place.integers(-side // 6, side, 2)
        picture[max(0, top) : top + height, max(0, left) : left + width] = colours[1 + number % 3]
    return picture


GROUNDS: dict[str, Callable[[int, Rng, Rng], NDArray[np.float64]]] = {
    "gradient": _gradient,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "clouds": _clouds,
    "heap": _heap,
}
