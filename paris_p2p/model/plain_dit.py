"""Defines the layers of VideoDiT, an expert: a diffusion transformer over space and time, with velocities.

Source: DiT (arXiv 2212.09748), steered by AdaLN-Single of PixArt-alpha (arXiv 2310.00426, section 2.3): one
MLP of the time for all blocks, and a learned table per block. Unlike there, the last layer shares the MLP
too, and text keys come from the encoder's tokens without a projection.
Legend: B clips, C T H W latents, N patches, L text tokens, D width. t = 1 is noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paris_p2p.model.first_frame import first_layer, with_first
from paris_p2p.model.layers import (
    MODULATIONS,
    TIME_FEATURES,
    Block,
    Patch,
    Positions,
    initialise,
    normed,
    recomputed,
    time_features,
    with_null,
    zero,
)
from paris_p2p.model.time_skip import TimeSkip


class PlainVideoDiT(nn.Module):
    """Predicts the velocity as one expert; an image is a clip of one frame."""

    _repeated_blocks = ["Block"]

    def __init__(
        self,
        channels: int,
        text_width: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: int = 4,
        time_ratio: int = 1,
        patch_frames: int = 1,
        patch_height: int = 2,
        patch_width: int = 2,
        rotary_base: float = 100.0,
        first_frame: bool = False,
        time_skip: bool = False,
    ):
        super().__init__()
        self.gradient_checkpointing = False
        self.patch = Patch(patch_frames, patch_height, patch_width)
        self.positions = Positions(width, width // heads, rotary_base)
        self.embed = nn.Linear(channels * self.patch.volume, width)
        self.time_in = nn.Linear(TIME_FEATURES, time_ratio * width)
        self.time_out = nn.Linear(time_ratio * width, MODULATIONS * width)
        self.tables = nn.Parameter(torch.zeros(depth, MODULATIONS, width))
        self.null_token = nn.Parameter(torch.zeros(text_width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, text_width) for _ in range(depth))
        self.last_table = nn.Parameter(torch.zeros(2, width))
        self.out = nn.Linear(width, channels * self.patch.volume)
        initialise(self)
        nn.init.normal_(self.null_token, std=text_width**-0.5)
        zero(self.time_out, self.out)
        # Last, so that the other weights are drawn as without it.
        self.first_in = first_layer(channels, self.patch, width) if first_frame else None
        self.skip = TimeSkip(channels * self.patch.volume) if time_skip else None

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        tokens: Tensor,
        mask: Tensor,
        pooled: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """Returns the velocity [B C T H W] at x_t [B C T H W], t [B], for tokens [B L text_width].

        The text is where mask [B L] is True. A clip whose mask is all False is without text: it sees a
        learned token instead, and nothing of `tokens`. The pooled text, which other experts are steered by,
        is not used. `first` [B C+1 1 H W] is the first frame, if any is known.
        """
        grid = self.patch.grid(x_t)
        absolute, cos, sin = self.positions(grid, x_t.device)
        text, mask = with_null(self.null_token, tokens, mask)  # [B L text_width] [B 1 1 L]
        shared = self._shared(t)  # [B 6 D]
        steers = (shared[:, None] + self.tables).unbind(1)  # [B 6 D] for each block
        patches = self.patch.cut(x_t)  # [B N C·volume]
        x = self.embed(patches.to(self.embed.weight.dtype)) + absolute.to(shared.dtype)  # [B N D]
        x = with_first(x, self.first_in, self.patch, first)
        for block, steer in zip(self.blocks, steers, strict=True):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = recomputed(block, x, steer, (cos, sin), text, mask)
            else:
                x = block(x, steer, (cos, sin), text, mask)
        shift, scale = (shared[:, :2] + self.last_table).unsqueeze(2).unbind(1)
        answer = self.out(normed(x, shift, scale))
        if self.skip is not None:
            answer = self.skip(answer, patches, t)
        return self.patch.join(answer, grid)  # [B C T H W]

    def _shared(self, t: Tensor) -> Tensor:
        """Returns the steering that all blocks share, with the scales around one: [B] -> [B 6 D]."""
        hidden = F.silu(self.time_in(time_features(t).to(self.time_in.weight.dtype)))
        shared = self.time_out(hidden).unflatten(1, (MODULATIONS, -1)).to(self.tables.dtype)
        return around_one(shared)


def around_one(steer: Tensor) -> Tensor:
    """Adds one to the scales, every third vector from the second on: [B 6 D], or fewer vectors."""
    ones = torch.zeros(steer.shape[1], 1, dtype=steer.dtype, device=steer.device)
    ones[1::3] = 1
    return steer + ones
