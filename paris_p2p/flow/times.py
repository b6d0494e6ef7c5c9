"""Draws the flow times at which training looks, for velocity and for noise predictors.

Legend: B clips. t = 1 is noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paris_p2p.flow.ddpm import flow_time
from paris_p2p.flow.path import logit_normal, shifted


def flow_times(normal: Tensor, mean: float, std: float, shift: float, *, predicts_noise: bool) -> Tensor:
    """Turns standard normals into logit-normal times, then shifts them: [B] float64 -> [B] float32.

    For a noise predictor s is uniform (Ho et al. 2020, arXiv 2006.11239, Algorithm 1) before the shift of the
    run, which multiplies the noise-to-data ratio as for the others: this is the shifted cosine schedule of
    Hoogeboom et al. 2023 (arXiv 2301.11093).
    """
    if predicts_noise:
        uniform = torch.special.ndtr(normal)
        return shifted(flow_time(uniform), shift).float()
    return shifted(logit_normal(normal, mean, std), shift).float()
