"""Defines MMDiT, Paris 2.0's kind of expert: FLUX's multimodal diffusion transformer on video latents.

Source: Open-Sora 2.0 (arXiv 2503.09642). Double-stream blocks keep text and video apart but for one joint
attention (Esser et al. 2024, arXiv 2403.03206, section 4); in single-stream blocks both share all weights,
with attention and MLP side by side (ViT-22B, arXiv 2302.05442, section 2). Layer by layer it has FLUX's
sizes. Unlike there, rotary pairs are those of `Positions` (a quarter for T, or `rotary_frame_pairs`: FLUX has
an eighth), padded text is masked, and a clip without text has learned stand-ins for its tokens and pooled
text.
Legend: B clips, C T H W latents, N patches, L text tokens, M = L + N, D width, A heads, E width of a head, P
pooled width. t = 1 is noise.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from paris_p2p.model.first_frame import first_layer, with_first
from paris_p2p.model.layers import (
    MODULATIONS,
    TIME_FEATURES,
    Patch,
    Positions,
    attend,
    gelu,
    initialise,
    normed,
    recomputed,
    time_features,
    turn,
    with_null,
    zero,
)
from paris_p2p.model.plain_dit import around_one
from paris_p2p.model.time_skip import TimeSkip


class PlainMMDiT(nn.Module):
    """Predicts the velocity as one expert; an image is a clip of one frame."""

    _repeated_blocks = ["DoubleBlock", "SingleBlock"]

    def __init__(
        self,
        channels: int,
        text_width: int,
        pooled_width: int,
        width: int,
        double_depth: int,
        single_depth: int,
        heads: int,
        mlp_ratio: int = 4,
        patch_frames: int = 1,
        patch_height: int = 2,
        patch_width: int = 2,
        rotary_base: float = 100.0,
        rotary_frame_pairs: int = 0,
        first_frame: bool = False,
        time_skip: bool = False,
    ):
        super().__init__()
        self.gradient_checkpointing = False
        self.patch = Patch(patch_frames, patch_height, patch_width)
        self.positions = Positions(0, width // heads, rotary_base, rotary_frame_pairs)
        self.embed = nn.Linear(channels * self.patch.volume, width)
        self.text_in = nn.Linear(text_width, width)
        self.time_in, self.time_out = nn.Linear(TIME_FEATURES, width), nn.Linear(width, width)
        self.pooled_in, self.pooled_out = nn.Linear(pooled_width, width), nn.Linear(width, width)
        self.null_token = nn.Parameter(torch.zeros(text_width))
        self.null_pooled = nn.Parameter(torch.zeros(pooled_width))
        self.double_blocks = nn.ModuleList(DoubleBlock(width, heads, mlp_ratio) for _ in range(double_depth))
        self.single_blocks = nn.ModuleList(SingleBlock(width, heads, mlp_ratio) for _ in range(single_depth))
        self.last_steer = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels * self.patch.volume)
        initialise(self)
        nn.init.normal_(self.null_token, std=text_width**-0.5)
        nn.init.normal_(self.null_pooled, std=pooled_width**-0.5)
        steered = (module for module in self.modules() if isinstance(module, Stream | SingleBlock))
        zero(self.out, self.last_steer, *(module.steer for module in steered))
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

        The text is where mask [B L] is True. A clip whose mask is all False is without text: it sees learned
        stand-ins, and nothing of `tokens` and `pooled` [B P]. `first` [B C+1 1 H W] is the first frame, if
        any is known.
        """
        grid = self.patch.grid(x_t)
        condition = self._condition(t, mask, pooled)  # [B D]
        text, seen = with_null(self.null_token, tokens, mask)  # [B L text_width] [B 1 1 L]
        where = self._joint(grid, seen, x_t.device)
        dtype = self.out.weight.dtype
        text = self.text_in(text).to(dtype)  # [B L D]
        patches = self.patch.cut(x_t)  # [B N C·volume]
        x = self.embed(patches.to(dtype)).to(dtype)  # [B N D]
        x = with_first(x, self.first_in, self.patch, first)
        for block in self.double_blocks:
            x, text = self._run(block, x, text, condition, *where)
        joint = torch.cat([text, x], 1)  # [B M D]
        for block in self.single_blocks:
            joint = self._run(block, joint, condition, *where)
        shift, scale = steers(self.last_steer, condition, 2)
        answer = self.out(normed(joint[:, text.shape[1] :], shift, scale))
        if self.skip is not None:
            answer = self.skip(answer, patches, t)
        return self.patch.join(answer, grid)  # [B C T H W]

    def _condition(self, t: Tensor, mask: Tensor, pooled: Tensor | None) -> Tensor:
        """Returns what steers every block, from time and pooled text, activated: [B D]."""
        dtype = self.out.weight.dtype
        if pooled is None:
            pooled = self.null_pooled.expand(len(t), -1)
        else:
            pooled = torch.where(mask.bool().any(1, True), pooled, self.null_pooled)
        time = self.time_out(F.silu(self.time_in(time_features(t).to(dtype))))
        return F.silu((time + self.pooled_out(F.silu(self.pooled_in(pooled.to(dtype))))).to(dtype))

    def _joint(
        self, grid: tuple[int, int, int], seen: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (cos [M E], sin [M E], seen [B 1 1 M]) of text and patches.

        Text is not turned, and all patches are seen.
        """
        _, cos, sin = self.positions(grid, device)
        still = cos.new_zeros(seen.shape[-1], *cos.shape[1:])
        everywhere = seen.new_ones(len(seen), 1, 1, len(cos))
        return torch.cat([still + 1, cos]), torch.cat([still, sin]), torch.cat([seen, everywhere], -1)

    def _run(self, block: nn.Module, *inputs: Tensor) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return recomputed(block, *inputs)
        return block(*inputs)


class DoubleBlock(nn.Module):
    """Lets text and video, each with weights of its own, meet in one attention."""

    def __init__(self, width: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.video, self.text = Stream(width, heads, mlp_ratio), Stream(width, heads, mlp_ratio)

    def forward(
        self, x: Tensor, text: Tensor, condition: Tensor, cos: Tensor, sin: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns (video [B N D], text [B L D]) after one joint attention.

        condition [B D], cos and sin [M E], seen [B 1 1 M].
        """
        video_steers, text_steers = (
            steers(stream.steer, condition, MODULATIONS) for stream in (self.video, self.text)
        )
        both = zip(self.text.attends(text, text_steers), self.video.attends(x, video_steers), strict=True)
        q, k, v = (torch.cat(pair, 2) for pair in both)  # [B A M E]
        y = attend(*_turned(q, k, cos, sin), v, seen)
        text_y, video_y = y[:, : text.shape[1]], y[:, text.shape[1] :]
        return self.video.finish(x, video_y, video_steers), self.text.finish(text, text_y, text_steers)


class Stream(nn.Module):
    """Holds a double block's weights for one kind of token."""

    def __init__(self, width: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.steer = nn.Linear(width, MODULATIONS * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.norms = HeadNorms(width // heads)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)

    def attends(self, x: Tensor, steer: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, each [B A . E]."""
        q, k, v = self.norms(self.qkv(normed(x, steer[0], steer[1])))
        return q, k, v

    def finish(self, x: Tensor, y: Tensor, steer: tuple[Tensor, ...]) -> Tensor:
        """Applies the rest of the block, given what attention answered: [B . D], [B . D] -> [B . D]."""
        _, _, gate1, shift2, scale2, gate2 = steer
        x = torch.addcmul(x, gate1, self.out(y))
        hidden = gelu(self.up(normed(x, shift2, scale2)))  # [B . 4 D]
        return torch.addcmul(x, gate2, self.down(hidden))


class SingleBlock(nn.Module):
    """Treats text and video as one sequence; attention and MLP read the same input and are added at once."""

    def __init__(self, width: int, heads: int, mlp_ratio: int):
        super().__init__()
        self.width = width
        self.steer = nn.Linear(width, 3 * width)
        self.up = nn.Linear(width, (3 + mlp_ratio) * width)
        self.norms = HeadNorms(width // heads)
        self.down = nn.Linear((1 + mlp_ratio) * width, width)

    def forward(self, joint: Tensor, condition: Tensor, cos: Tensor, sin: Tensor, seen: Tensor) -> Tensor:
        """Returns the joint sequence [B M D]; condition [B D], cos and sin [M E], seen [B 1 1 M]."""
        shift, scale, gate = steers(self.steer, condition, 3)
        x = normed(joint, shift, scale)
        # Each layer is used in two parts: splitting and joining what goes through them would cost more than
        # the products.
        rows, columns = 3 * self.width, self.width
        qkv = F.linear(x, self.up.weight[:rows], self.up.bias[:rows])  # [B M 3 D]
        hidden = gelu(F.linear(x, self.up.weight[rows:], self.up.bias[rows:]))  # [B M 4 D]
        q, k, v = self.norms(qkv)  # [B A M E]
        y = attend(*_turned(q, k, cos, sin), v, seen)
        down = F.linear(hidden, self.down.weight[:, columns:], self.down.bias)
        down = down + F.linear(y, self.down.weight[:, :columns])
        return torch.addcmul(joint, gate, down)


class HeadNorms(nn.Module):
    """Norms the queries and keys of heads by their root mean square (Esser et al. 2024, section 5.3.2)."""

    def __init__(self, head_width: int):
        super().__init__()
        self.q = nn.Parameter(torch.ones(head_width))
        self.k = nn.Parameter(torch.ones(head_width))

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # [B . 3 D] -> 3 x [B A . E]
        q, k, v = rearrange(qkv, "b n (s a e) -> s b a n e", s=3, e=len(self.q))
        q = F.rms_norm(q, self.q.shape, self.q.to(q.dtype), eps=1e-6)
        k = F.rms_norm(k, self.k.shape, self.k.to(k.dtype), eps=1e-6)
        return q.to(v.dtype), k.to(v.dtype), v


def _turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return turn(q, cos.to(q.dtype), sin.to(q.dtype)), turn(k, cos.to(k.dtype), sin.to(k.dtype))


def steers(layer: nn.Linear, condition: Tensor, count: int) -> tuple[Tensor, ...]:
    """Returns `count` shifts, scales around one, and gates: [B D] -> count x [B 1 D]."""
    vectors = layer(condition).unflatten(1, (count, -1)).to(layer.weight.dtype)  # [B count D]
    return around_one(vectors).unsqueeze(2).unbind(1)
