"""Films stamps that move over a drawn ground: the third world of the clips.

Legend: T frames, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.sets.grounds import GROUNDS, draw_ground
from bench.sets.stamps import Stamp, paste
from examples.gameplay import FRAMES, SIDE_PIXELS

CLIPS_AN_EPISODE = 4  # of one ground
SPEED_PIXELS = (0.8, 4.0)  # a frame
STILL_SHARE, TOGETHER_SHARE = 0.12, 0.6  # of the clips: nothing moves; all stamps move the same way
SIZES = (0.22, 0.5)  # of a stamp's longer side, as a share of the picture's
MOST_STAMPS = 3
SCENES = tuple(GROUNDS)
Rng = np.random.Generator


@dataclass(frozen=True)
class Mover:
    """Holds a scaled stamp [h w 4], where its middle is at first, and how far it goes each frame (x, y)."""

    cut: NDArray[np.float32]
    at: NDArray[np.float64]
    step: NDArray[np.float64]

    def on(self, picture: NDArray[np.float32], frame: int) -> None:
        """Pastes it where it is at a frame, in place; what leaves on one side comes back on the other."""
        side, (height, width) = len(picture), self.cut.shape[:2]
        x, y = (self.at + frame * self.step) % (side + max(height, width)) - max(height, width) / 2
        paste(picture, self.cut, round(y - height / 2), round(x - width / 2))


def filmed(
    scene: str, stamps: list[Stamp], look_seed: tuple[int, ...]
) -> Generator[NDArray[np.uint8], None, None]:
    """Yields clips [T S S 3] on one ground, each with other stamps that move in another way."""
    for number in range(CLIPS_AN_EPISODE):
        rng = np.random.default_rng((*look_seed, number))
        ground = draw_ground(scene, SIDE_PIXELS, np.random.default_rng(look_seed), rng)
        movers = _movers(stamps, rng)
        clip = np.repeat(ground[None], FRAMES, axis=0)
        for frame, picture in enumerate(clip):
            for mover in movers:
                mover.on(picture, frame)
        yield np.round(255 * np.clip(clip, 0, 1)).astype(np.uint8)


def _movers(stamps: list[Stamp], rng: Rng) -> list[Mover]:
    together, still = rng.random() < TOGETHER_SHARE, rng.random() < STILL_SHARE
    shared = _step(rng)
    movers = []
    for _ in range(int(rng.integers(1, MOST_STAMPS + 1))):
        cut = stamps[int(rng.integers(len(stamps)))].scaled(SIDE_PIXELS * rng.uniform(*SIZES))
        at = rng.uniform(0.3, 1.0, 2) * SIDE_PIXELS
        step = np.zeros(2) if still else shared if together else _step(rng)
        movers.append(Mover(cut, at, step))
    return movers


def _step(rng: Rng) -> NDArray[np.float64]:
    """Draws a step in pixels: mostly along the rows or the columns, so that a caption can say which way."""
    angle = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.25)
    return rng.uniform(*SPEED_PIXELS) * np.array([np.cos(angle), np.sin(angle)])
