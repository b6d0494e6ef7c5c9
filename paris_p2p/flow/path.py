"""The straight path between data and noise, its velocity, times and loss (RECIPE: maths; Lipman et al. 2023, arXiv 2210.02747, Eq. 20-23).

Legend: B clips, `...` the rest of a clip. t = 1 is noise, unlike in that paper, where t = 1 is data.
"""

from __future__ import annotations

import torch
from torch import Tensor


def interpolate(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t eps: [B ...], [B ...], [B] -> [B ...]."""
    t = t.to(x0.dtype).reshape(-1, *[1] * (x0.dim() - 1))
    return (1 - t) * x0 + t * eps


def velocity(x0: Tensor, eps: Tensor) -> Tensor:
    """v = d x_t / dt = eps - x0, the same for every t: [B ...]."""
    return eps - x0


def logit_normal(normal: Tensor, mean: float, std: float) -> Tensor:
    """Times t = sigmoid(mean + std n) of standard normals n (Esser et al. 2024, arXiv 2403.03206, Eq. 19): [B] -> [B]."""
    return torch.sigmoid(mean + std * normal)


def clip_losses(v: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each clip, in float32: [B ...], [B ...] -> [B]."""
    return (v.float() - target.float()).square().flatten(1).mean(1)
