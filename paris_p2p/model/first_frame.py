"""Adds the clean first frame as an expert's second input, beside x_t at the patch embedding.

Source: Open-Sora 2.0 (arXiv 2503.09642). As there, its channels are the clean latent where the first frame is
and a mask that says where that is. Unlike there, they have a layer of their own, which starts at zero: a
network that was trained without them answers as before until it learns.
Legend: B clips, C T H W latents, N patches, M patches of the first frames, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paris_p2p.model.layers import Patch


def first_condition(latent: Tensor, given: Tensor) -> Tensor:
    """Returns the first frames as an expert takes them, the mask last: [B C T H W], [B] -> [B C+1 1 H W].

    It is zero where `given` [B] is False.
    """
    mask = given.to(latent.dtype).reshape(-1, 1, 1, 1, 1).expand(-1, 1, 1, *latent.shape[3:])
    return torch.cat([latent[:, :, :1] * mask, mask], 1)


def first_layer(channels: int, patch: Patch, width: int) -> nn.Linear:
    """Builds the layer of the first frame, without a bias, so that a clip without one adds nothing."""
    layer = nn.Linear((channels + 1) * patch.volume, width, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def with_first(x: Tensor, layer: nn.Linear | None, patch: Patch, first: Tensor | None) -> Tensor:
    """Adds the first frame [B C+1 1 H W] to the clip's patch tokens [B N D].

    ValueError without a layer for it.
    """
    if first is None:
        return x
    if layer is None:
        raise ValueError("the network was not made for a first frame; its config says nothing of first_frame")
    whole = F.pad(first, (0, 0, 0, 0, 0, patch.frames - 1))  # [B C+1 patch H W], zeros after the first
    added = layer(patch.cut(whole).to(layer.weight.dtype))  # [B M D]
    return x + F.pad(added, (0, 0, 0, x.shape[1] - added.shape[1])).to(x.dtype)
