"""Turns and shrinks latents as pictures are, for a codec whose decoder should not see the difference.

Source: EQ-VAE (Kouzelis et al. 2025, arXiv 2502.09509): where decoding what was turned or shrunk gives the
turned or shrunk picture, latents are smoother, and easier to generate. There sides shrink to a quarter at
least, here to a half: ours have few rows.
Legend: N examples, C channels, T frames, h x w latents of H x W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SMALLEST_SIDE = 0.5  # of what sides shrink to, each by itself


def changed_alike(latents: Tensor, pixels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns both turned by the same quarters and shrunk to the same share of their sides.

    [N C h w], [N 3 H W] or [N C T h w], [N 3 T H W] -> the same with other sides.
    """
    quarters = int(torch.randint(4, (), generator=rng))
    patch = pixels.shape[-1] // latents.shape[-1]
    latents, pixels = (torch.rot90(x, quarters, (-2, -1)) for x in (latents, pixels))
    height, width = (
        int(torch.randint(max(1, round(SMALLEST_SIDE * side)), side + 1, (), generator=rng))
        for side in latents.shape[-2:]
    )
    return shrunk(latents, height, width), shrunk(pixels, patch * height, patch * width)


def shrunk(x: Tensor, height: int, width: int) -> Tensor:
    """Resizes bilinearly, over all that falls into a pixel: [N C .. H W] -> [N C .. height width]."""
    if x.shape[-2:] == (height, width):
        return x
    frames = x if x.ndim == 4 else rearrange(x, "n c t h w -> (n t) c h w")
    small = F.interpolate(frames, size=(height, width), mode="bilinear", antialias=True)
    return small if x.ndim == 4 else rearrange(small, "(n t) c h w -> n c t h w", n=len(x))
