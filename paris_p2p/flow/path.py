"""Defines the straight path between data and noise: its velocity, times and loss.

Source: Lipman et al. 2023 (arXiv 2210.02747), Eq. 20-23.
Legend: B clips, `...` the rest of a clip. t = 1 is noise, unlike in that paper, where t = 1 is data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BASE_TOKENS = 256  # an image of 256 x 256 pixels at 16 x 16 a patch, where FLUX and Open-Sora start as well


def interpolate(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Returns x_t = (1 - t) x0 + t eps: [B ...], [B ...], [B] -> [B ...]."""
    t = t.to(x0.dtype).reshape(-1, *[1] * (x0.dim() - 1))
    return (1 - t) * x0 + t * eps


def velocity(x0: Tensor, eps: Tensor) -> Tensor:
    """Returns v = d x_t / dt = eps - x0, which is the same for every t: [B ...]."""
    return eps - x0


def logit_normal(normal: Tensor, mean: float, std: float) -> Tensor:
    """Returns times t = sigmoid(mean + std n) for standard normals n: [B] -> [B].

    Source: Esser et al. 2024 (arXiv 2403.03206), Eq. 19.
    """
    return torch.sigmoid(mean + std * normal)


def shifted(t: Tensor, shift: float) -> Tensor:
    """Returns times whose noise-to-data ratio t / (1 - t) is `shift` times that of t: [B] -> [B].

    Source: Esser et al., Eq. 23. Logit-normal times, shifted, are logit-normal with a mean higher by
    log(shift).
    """
    return shift * t / (1 + (shift - 1) * t)


def shift_for(tokens: int) -> float:
    """Returns the shift for clips of `tokens` patches: sqrt(tokens / BASE_TOKENS), and never below 1.

    It keeps what is left to see of a clip at time t alike for all sizes (Esser et al., section 5.3.2, with
    pixels for tokens). At 256 tokens a frame it is the sqrt(frames) of Open-Sora 2.0 (arXiv 2503.09642,
    opensora/utils/sampling.py), whose spatial part is linear: 3 where this is 4, at 4096 tokens. Below the
    base, which no source tried, nothing is shifted.
    """
    return max(1.0, math.sqrt(tokens / BASE_TOKENS))


def clip_losses(v: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared error of each clip, in float32: [B ...], [B ...] -> [B]."""
    return (v.float() - target.float()).square().flatten(1).mean(1)
