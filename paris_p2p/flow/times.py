"""Where on the path training looks: flow times for velocity and noise predictors. t = 1 is noise. Legend:
B clips.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paris_p2p.flow.ddpm import flow_time
from paris_p2p.flow.path import logit_normal, shifted


def flow_times(normal: Tensor, mean: float, std: float, shift: float, *, predicts_noise: bool) -> Tensor:
    """Logit-normal, then shifted: [B] float64 -> [B] float32.

    For a noise predictor s is uniform (Ho et al. 2020, arXiv 2006.11239, Algorithm 1) before the run's shift,
    which multiplies the noise-to-data ratio as for the others: the shifted cosine schedule of Hoogeboom et
    al. 2023 (arXiv 2301.11093).
    """
    if predicts_noise:
        uniform = torch.special.ndtr(normal)
        return shifted(flow_time(uniform), shift).float()
    return shifted(logit_normal(normal, mean, std), shift).float()
