"""Defines the router, a small diffusion transformer: which expert's cluster does a noisy clip belong to?

It is Paris 1.0's (arXiv 2510.03434), with a class token, the pooled caption of Paris 2.0 (arXiv 2605.26064)
added and, as there, a feature of the first frame where the config has a first_width; each input can be left
out.
Legend: B clips, C T H W latents, N patches, D width, P pooled width, F feature width, K experts. t = 1 is
noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paris_p2p.model.calibration import Calibration
from paris_p2p.model.layers import (
    MODULATIONS,
    TIME_FEATURES,
    Block,
    Patch,
    Positions,
    initialise,
    time_features,
    zero,
)
from paris_p2p.model.plain_dit import around_one


class PlainRouter(nn.Module):
    """Returns p(expert | x_t, t, caption), as logits."""

    _repeated_blocks = ["Block"]

    def __init__(
        self,
        channels: int,
        pooled_width: int,
        experts: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: int = 4,
        patch_frames: int = 1,
        patch_height: int = 2,
        patch_width: int = 2,
        rotary_base: float = 100.0,
        steer_per_block: bool = False,
        first_width: int = 0,
    ):
        super().__init__()
        self.calibration: Calibration | None = None  # for model/posterior.py, not in forward
        self.patch = Patch(patch_frames, patch_height, patch_width)
        self.positions = Positions(width, width // heads, rotary_base)
        self.embed = nn.Linear(channels * self.patch.volume, width)
        self.pooled_in = nn.Linear(pooled_width, width)
        self.time_in = nn.Linear(TIME_FEATURES, width)
        self.time_mid = nn.Linear(width, width)
        self.steer = nn.ModuleList(
            nn.Linear(width, MODULATIONS * width) for _ in range(depth if steer_per_block else 1)
        )
        self.tables = nn.Parameter(torch.zeros(depth, MODULATIONS, width))
        self.class_token, self.no_latent = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.no_time, self.no_pooled = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.out = nn.Linear(width, experts)
        initialise(self)
        for vector in (self.class_token, self.no_latent, self.no_time, self.no_pooled):
            nn.init.normal_(vector, std=0.02)
        zero(*self.steer, self.out)
        # Last and zero: the other weights are drawn as without it, and a router that never saw a first frame
        # is not disturbed by one.
        self.first_in = nn.Linear(first_width, width) if first_width else None
        self.no_first = nn.Parameter(torch.zeros(width)) if first_width else None
        if self.first_in is not None:
            zero(self.first_in)

    def calibrate(self, calibration: Calibration | None) -> None:
        """Sets what model/posterior.py goes by; None: as it was trained."""
        self.calibration = calibration

    def forward(
        self, x_t: Tensor | None, t: Tensor | None, pooled: Tensor | None, first: Tensor | None = None
    ) -> Tensor:
        """Returns logits [B K] for x_t [B C T H W], t [B], pooled text [B P] and first frame [B F].

        An input that is None gets a learned stand-in. ValueError when the first three are None, and for a
        first frame that the router was not made for.
        """
        given = next((value for value in (x_t, t, pooled) if value is not None), None)
        if given is None:
            raise ValueError("the router needs a latent, a time or a caption to route by")
        rows, dtype = len(given), self.out.weight.dtype
        known = self.no_pooled if pooled is None else self.pooled_in(pooled.to(dtype))
        caption = self._with_first(known.expand(rows, -1), first)  # [B D]
        time = self.no_time if t is None else self.time_mid(F.silu(self.time_in(time_features(t).to(dtype))))
        steers = self._steers((time + caption).to(dtype))  # [B 6 D] for each block
        patches, rotary = self._patches(x_t, rows)  # [B N D]
        x = torch.cat([(self.class_token + caption)[:, None].to(patches.dtype), patches], 1)  # [B 1+N D]
        for block, steer in zip(self.blocks, steers, strict=True):
            x = block(x, steer, rotary)
        return self.out(F.layer_norm(x[:, 0], x.shape[-1:], eps=1e-6))  # type: ignore[no-any-return]  # [B K]

    def _with_first(self, caption: Tensor, first: Tensor | None) -> Tensor:
        """Adds the first frame [B F] to what is known beside the latent, [B D].

        The features may be of any scale.
        """
        if self.first_in is None or self.no_first is None:
            if first is not None:
                raise ValueError("the router was not made for a first frame; its config has no first_width")
            return caption
        if first is None:
            return caption + self.no_first
        scaled = F.layer_norm(first.float(), first.shape[-1:])
        known: Tensor = caption + self.first_in(scaled.to(self.first_in.weight.dtype))
        return known

    def _patches(self, x_t: Tensor | None, rows: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Returns patch tokens and rotary tables, with a row for the class token, which is not turned."""
        if x_t is None:
            _, cos, sin = self.positions((1, 1, 1), self.no_latent.device)
            return self.no_latent.expand(rows, 1, -1), (torch.cat([cos, cos]), torch.cat([sin, sin]))
        grid = self.patch.grid(x_t)
        absolute, cos, sin = self.positions(grid, x_t.device)
        dtype = self.embed.weight.dtype
        patches = self.embed(self.patch.cut(x_t).to(dtype)) + absolute.to(dtype)
        still = torch.ones_like(cos[:1]), torch.zeros_like(sin[:1])
        return patches, (torch.cat([still[0], cos]), torch.cat([still[1], sin]))

    def _steers(self, condition: Tensor) -> list[Tensor]:
        hidden = F.silu(condition)
        made = [
            around_one(layer(hidden).unflatten(1, (MODULATIONS, -1)).to(self.tables.dtype))
            for layer in self.steer
        ]
        return [made[index % len(made)] + table for index, table in enumerate(self.tables)]
