"""Draws digits: 1,797 real 8 x 8 images (scikit-learn's), each time under a fresh random affine map.

Legend: N images, B drawn images, K clusters. Pixels are in -1 (background) to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from paris_p2p.data.clusters import fit_clusters

SIDE = 8
PIXELS = SIDE * SIDE
HELD_OUT_EVERY = 3  # of the images one in three is never trained on
CLUSTER_SEED = 0
TURN_DEGREES, SCALE, SHEAR, SHIFT_PIXELS = 20.0, 0.15, 0.2, 1.0  # the largest of each, either way


@dataclass(frozen=True)
class Digits:
    """Holds the images of one split, and which digit each shows."""

    images: Tensor  # [N 1 8 8]
    digits: Tensor  # [N], 0 to 9

    def drawn(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Returns the images `rows` [B], each under a map of its own: [B 64]."""
        maps = affine_maps(len(rows), rng)
        grid = F.affine_grid(maps, [len(rows), 1, SIDE, SIDE], align_corners=False)
        # Outside of an image lies background: grid_sample pads with 0.
        moved = F.grid_sample(self.images[rows] + 1, grid, align_corners=False) - 1
        return moved.flatten(1)

    def any(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns images [B 64] drawn evenly from all, and their rows [B]."""
        rows = torch.randint(len(self.images), (count,), generator=rng)
        return self.drawn(rows, rng), rows


def affine_maps(count: int, rng: torch.Generator) -> Tensor:
    """Returns maps [B 2 3] that turn, scale, shear and shift, each drawn evenly up to its largest."""
    turn, wide, high, shear, right, down = (2 * torch.rand(6, count, generator=rng) - 1).unbind(0)
    angle = turn * math.radians(TURN_DEGREES)
    wide, high, shear = 1 + SCALE * wide, 1 + SCALE * high, SHEAR * shear
    cos, sin = angle.cos(), angle.sin()
    shift = 2 * SHIFT_PIXELS / SIDE  # of a grid that is 2 wide
    first = torch.stack([wide * cos, shear * cos - high * sin, shift * right], 1)
    second = torch.stack([wide * sin, shear * sin + high * cos, shift * down], 1)
    return torch.stack([first, second], 1)


@cache
def splits() -> tuple[Digits, Digits]:
    """Returns the images to train on and those held out."""
    data, digits = load_digits(return_X_y=True)
    images = torch.from_numpy(data.astype(np.float32)).view(-1, 1, SIDE, SIDE) / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.from_numpy(digits.astype(np.int64))[order]
    held = torch.arange(len(images)) % HELD_OUT_EVERY == 0
    return Digits(images[~held], labels[~held]), Digits(images[held], labels[held])


def clusters(clusters: int) -> tuple[Tensor, Tensor]:
    """Returns the cluster of each image to train on and of each held out: ten are the digits.

    Other numbers are found by the two stages of k-means that parts a run's clips, on pixels.
    """
    train, held_out = splits()
    if clusters == 10:
        return train.digits, held_out.digits
    pixels, others = (_pixels(split) for split in (train, held_out))
    model = fit_clusters(pixels, clusters, CLUSTER_SEED)
    return tuple(torch.from_numpy(model.assign(model.reduce(x))) for x in (pixels, others))  # type: ignore[return-value]


def dealt_out(labels: Tensor, seed: int) -> Tensor:
    """Returns a random partition [N] whose parts are as large as the clusters [N] are."""
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def shares(labels: Tensor, clusters: int) -> Tensor:
    """Returns each cluster's share of the images: [N] -> [K]."""
    return torch.bincount(labels, minlength=clusters) / len(labels)


class Parts:
    """Draws images evenly from one part of a partition at a time."""

    def __init__(self, labels: Tensor, clusters: int):
        order = labels.argsort(stable=True)
        self.counts = torch.bincount(labels, minlength=clusters)
        self.order, self.starts = order, self.counts.cumsum(0) - self.counts

    def rows(self, count: int, rng: torch.Generator) -> Tensor:
        """Returns rows of `count` images of each part: [K B]."""
        drawn = torch.rand(len(self.counts), count, generator=rng)
        within = (drawn * self.counts[:, None]).long().clamp(max=self.counts[:, None] - 1)
        return self.order[self.starts[:, None] + within]


def _pixels(split: Digits) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = (split.images.flatten(1) + 1).numpy()
    return pixels
