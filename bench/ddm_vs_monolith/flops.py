"""Counts the FLOPs of a network over one clip, as torch counts them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from paris_p2p.flow.path import clip_losses
from paris_p2p.model.presets import build_expert, build_router
from paris_p2p.spec import LatentShape, TextShape


@lru_cache(maxsize=64)
def clip_flops(
    config: tuple[tuple[str, int | float | str | bool], ...],
    latent: LatentShape,
    text: TextShape,
    *,
    router: bool = False,
) -> tuple[int, int]:
    """Returns (forward, forward and backward) FLOPs of one clip, as torch counts them: matrix products,
    attention included.
    """
    network = build_router(dict(config)) if router else build_expert(dict(config))
    x, t = torch.zeros(1, *latent.shape), torch.zeros(1)
    tokens, mask = torch.zeros(1, text.tokens, text.dim), torch.ones(1, text.tokens, dtype=torch.bool)
    pooled = torch.zeros(1, text.pooled_dim)

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):  # the path whose attention torch can count
            answer: Tensor = network(x, t, pooled) if router else network(x, t, tokens, mask, pooled)
        return answer

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    only_forward = counter.get_total_flops()
    # also where a caller samples, without gradients
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        answer = forward().float()
        torch.autograd.backward(clip_losses(answer[..., None], torch.zeros_like(answer[..., None])).sum())
    return int(only_forward), int(counter.get_total_flops())
