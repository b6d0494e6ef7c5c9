"""Draws the light that an episode is filmed in, alike for every world: exposure, colour cast and its side.

Without it a caption that says bright or green would name the world: one is always grey and bright, another
always green.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.clips.attributes import LUMA

# mean luma that the exposure aims at: the middles of the bands that a caption names
LEVELS = (0.19, 0.36, 0.56)
LEVEL_JITTER = 0.04
CASTS = (  # gains of red, green and blue
    (1.0, 1.0, 1.0),
    (1.45, 0.8, 0.75),
    (1.3, 0.98, 0.65),
    (1.15, 1.1, 0.55),
    (0.8, 1.2, 0.8),
    (0.7, 0.95, 1.55),
    (1.2, 0.75, 1.35),
)
OWN_COLOUR = (0.25, 0.6)  # how much of the scene's own colour stays, drawn between
GAMMAS = (0.15, 8.0)


@dataclass(frozen=True)
class Light:
    """Says how one episode is lit."""

    level: float
    cast: tuple[float, float, float]
    own_colour: float
    mirrored: bool

    def on(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns frames [T, H, W, 3] in this light: one gamma for the whole clip, then the cast."""
        pixels = frames[:, :, ::-1] if self.mirrored else frames
        luma = pixels @ LUMA / 255
        gamma = _gamma(luma, self.level)
        x = luma[..., None] + self.own_colour * (pixels / 255 - luma[..., None])
        cast = np.array(self.cast) / (LUMA @ self.cast)
        return np.round(255 * np.clip(np.clip(x, 0, 1) ** gamma * cast, 0, 1)).astype(np.uint8)


def draw(rng: np.random.Generator) -> Light:
    return Light(
        level=LEVELS[int(rng.integers(len(LEVELS)))] + float(rng.uniform(-LEVEL_JITTER, LEVEL_JITTER)),
        cast=CASTS[int(rng.integers(len(CASTS)))],
        own_colour=float(rng.uniform(*OWN_COLOUR)),
        mirrored=bool(rng.integers(2)),
    )


def _gamma(luma: NDArray[np.float64], level: float) -> float:
    """Finds, by bisection over a histogram, the exponent that brings the mean luma nearest to `level`."""
    counts, edges = np.histogram(luma, bins=256, range=(0, 1))
    middles, shares = (edges[:-1] + edges[1:]) / 2, counts / counts.sum()
    low, high = GAMMAS
    for _ in range(30):
        middle = (low * high) ** 0.5
        if shares @ middles**middle > level:
            low = middle
        else:
            high = middle
    return (low * high) ** 0.5
