"""Defines the parts of all networks: patches, positions in space and time, attention, and steered blocks.

Legend: B clips, N tokens (patches of a clip), L text tokens, D width, A heads, E width of a head, D' text
width; C T H W a clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TIME_FEATURES = 256
_PLAIN_SCORES = 1 << 18  # scores of one head; beyond, their memory matters more
MODULATIONS = 6  # shift, scale and gate of the attention, then of the MLP


@dataclass(frozen=True)
class Patch:
    """Cuts latents into blocks, each of which becomes one token, and joins them again."""

    frames: int
    height: int
    width: int

    @property
    def volume(self) -> int:
        return self.frames * self.height * self.width

    def grid(self, x: Tensor) -> tuple[int, int, int]:
        """Returns the patches along T, H and W of [B C T H W]; ValueError when they do not divide."""
        frames, height, width = x.shape[2:]
        if frames % self.frames or height % self.height or width % self.width:
            raise ValueError(
                f"latents of {frames}x{height}x{width} cannot be cut into patches "
                f"of {self.frames}x{self.height}x{self.width}"
            )
        return frames // self.frames, height // self.height, width // self.width

    def cut(self, x: Tensor) -> Tensor:
        """Cuts [B C T H W] -> [B N C·volume]."""
        sizes = {"p": self.frames, "q": self.height, "r": self.width}
        return rearrange(x, "b c (t p) (h q) (w r) -> b (t h w) (c p q r)", **sizes)

    def join(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Joins [B N C·volume] -> [B C T H W]."""
        t, h, w = grid
        sizes = {"t": t, "h": h, "w": w, "p": self.frames, "q": self.height, "r": self.width}
        return rearrange(x, "b (t h w) (c p q r) -> b c (t p) (h q) (w r)", **sizes).contiguous()


class Positions:
    """Keeps tables of where each patch is, one for each grid and device.

    Absolute, for the tokens: the sines and cosines of "Attention is all you need" (arXiv 1706.03762, section
    3.5), a third of the width per axis.
    Relative, for attention: rotary (RoFormer, arXiv 2104.09864, Eq. 34); a quarter of a head's pairs turn
    with T (or `frame_pairs`), the others half with H and half with W.
    """

    def __init__(self, width: int, head_width: int, base: float, frame_pairs: int = 0):
        side = (head_width // 2 - frame_pairs) // 2 if frame_pairs else head_width // 2 * 3 // 8
        self.pairs = (head_width // 2 - 2 * side, side, side)
        self.thirds = (width // 2 - 2 * (width // 6), width // 6, width // 6)
        self.base = base
        self._tables: dict[tuple[int, int, int, str], tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, grid: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (absolute [N D], cos [N E], sin [N E]), float32; the sine is negative in the first half."""
        key = (*grid, str(device))
        if key not in self._tables:
            absolute = self._angles(grid, self.thirds, 1e4)  # [N D/2]
            angles = self._angles(grid, self.pairs, self.base)  # [N E/2]
            sin, cos = angles.sin(), angles.cos()
            tables = (
                torch.cat([absolute.sin(), absolute.cos()], 1),  # [N D]
                torch.cat([cos, cos], 1),  # [N E]
                torch.cat([-sin, sin], 1),  # [N E]
            )
            with torch.inference_mode(False):
                self._tables[key] = tuple(table.float().to(device) for table in tables)  # type: ignore[assignment]
        return self._tables[key]

    @staticmethod
    def _angles(grid: tuple[int, int, int], pairs: tuple[int, int, int], base: float) -> Tensor:
        """Multiplies position and frequency, axis after axis: [N sum(pairs)] float64."""
        places = torch.cartesian_prod(
            *(torch.arange(size, dtype=torch.float64, device="cpu") for size in grid)
        ).reshape(-1, 3)
        frequencies = [
            base ** (-torch.arange(count, dtype=torch.float64, device="cpu") / max(1, count))
            for count in pairs
        ]
        return torch.cat([places[:, axis, None] * frequencies[axis] for axis in range(3)], 1)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns pairs (e, e + E/2) by their angles: x [... E]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def time_features(t: Tensor) -> Tensor:
    """Returns sines and cosines of flow time, as DiT has them of steps 0 ... 1000: [B] -> [B 256] float32.

    t = 1 is noise.
    """
    half = TIME_FEATURES // 2
    frequencies = torch.exp(
        torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(1e4) / half)
    )
    angles = t.float()[:, None] * 1000 * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


class SelfAttention(nn.Module):
    """Attends fully over all patches of space and time.

    Queries and keys are normed (ViT-22B, arXiv 2302.05442, section 2).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = (
            nn.LayerNorm(width // heads, eps=1e-6, bias=False),
            nn.LayerNorm(width // heads, eps=1e-6, bias=False),
        )
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attends: x [B N D], cos and sin [N E] -> [B N D]."""
        q, k, v = rearrange(self.qkv(x), "b n (s a e) -> s b a n e", s=3, a=self.heads)
        cos, sin = cos.to(v.dtype), sin.to(v.dtype)
        q, k = turn(self.q_norm(q), cos, sin), turn(self.k_norm(k), cos, sin)  # [B A N E]
        return self.out(attend(q, k, v))  # type: ignore[no-any-return]      # [B N D]


class CrossAttention(nn.Module):
    """Lets patches look at text; keys and values come straight from the text encoder's tokens."""

    def __init__(self, width: int, heads: int, text_width: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(text_width, 2 * width)
        self.q_norm, self.k_norm = (
            nn.LayerNorm(width // heads, eps=1e-6, bias=False),
            nn.LayerNorm(width // heads, eps=1e-6, bias=False),
        )
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Attends to text: x [B N D], text [B L D'], mask [B 1 1 L] -> [B N D]."""
        q = rearrange(self.q(x), "b n (a e) -> b a n e", a=self.heads)
        k, v = rearrange(self.kv(text), "b l (s a e) -> s b a l e", s=2, a=self.heads)
        return self.out(attend(self.q_norm(q), self.k_norm(k), v, mask))  # type: ignore[no-any-return]  # [B N D]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Applies softmax attention: [B A N E], [B A L E], [B A L E], True where seen [B 1 1 L] -> [B N D]."""
    if q.device.type == "cpu" and v.dtype == torch.bfloat16 and q.shape[2] * k.shape[2] <= _PLAIN_SCORES:
        # torch's own CPU kernel leaves the bfloat16 matrix units idle; plain products are five times faster.
        y = _scores(q, k, mask).softmax(-1).to(v.dtype) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B A N E]
    joined: Tensor = rearrange(y, "b a n e -> b n (a e)")
    return joined


def _scores(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Returns q k^T / sqrt(E), -inf where the mask says so, in one product.

    [B A N E], [B A L E], [B 1 1 L] -> [B A N L].
    """
    heads, scale = q.shape[:2], q.shape[-1] ** -0.5
    if mask is None:
        whole: Tensor = (q * scale) @ k.transpose(-1, -2)
        return whole
    unseen = q.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)  # [B 1 1 L]
    unseen = unseen.expand(-1, heads[1], -1, -1).flatten(0, 1)  # [B·A 1 L]
    scores: Tensor = torch.baddbmm(unseen, q.flatten(0, 1), k.flatten(0, 1).transpose(-1, -2), alpha=scale)
    return scores.reshape(*heads, q.shape[2], -1)


class Block(nn.Module):
    """Applies attention, cross-attention to text when it has a width, and an MLP.

    Six vectors per clip steer it (DiT, arXiv 2212.09748).
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, text_width: int = 0):
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.text = CrossAttention(width, heads, text_width) if text_width else None
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)

    def forward(
        self,
        x: Tensor,
        steer: Tensor,
        rotary: tuple[Tensor, Tensor],
        text: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Returns x [B N D] after the block.

        steer is [B 6 D] with scales around one, text [B L D'], mask [B 1 1 L].
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = steer.unsqueeze(2).unbind(1)
        x = torch.addcmul(x, gate1, self.attention(normed(x, shift1, scale1), *rotary))
        if self.text is not None and text is not None and mask is not None:
            x = x + self.text(x, text, mask)
        hidden = gelu(self.up(normed(x, shift2, scale2)))  # [B N 4 D]
        return torch.addcmul(x, gate2, self.down(hidden))


def normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Applies layer norm without parameters, then the clip's scale and shift: [B N D], [B 1 D], [B 1 D]."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), scale)


def gelu(x: Tensor) -> Tensor:
    """Applies GELU by its tanh approximation, as in DiT and FLUX.

    Source: Hendrycks and Gimpel 2016 (arXiv 1606.08415), section 2.
    """
    # On a CPU in bfloat16 the exact one takes a third of the time, and differs by at most 5e-4, about that
    # type's rounding.
    return F.gelu(x, approximate="none" if x.device.type == "cpu" and x.dtype == torch.bfloat16 else "tanh")


def with_null(null_token: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Puts a stand-in as the one token of clips without text, and returns what is seen too.

    [D'], [B L D'], [B L] -> [B L D'], [B 1 1 L].
    """
    mask = mask.bool()
    stands_in = F.pad(~mask.any(1, keepdim=True), (0, mask.shape[1] - 1))
    text = torch.where(stands_in[..., None], null_token, tokens.to(null_token.dtype))
    return text, (mask | stands_in)[:, None, None]


def initialise(network: nn.Module) -> None:
    """Initialises linear layers Xavier-uniform with zero biases, as in DiT; text says nothing yet.

    Whatever else starts at zero is set by the network that has it.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, CrossAttention):
            zero(module.out)


@contextmanager
def uninitialised(device: torch.device) -> Iterator[None]:
    """Lets networks be built whose numbers are set before they are used, or, on the meta device, never.

    On that one, torch's normal_ and the way from there to another device load torch's compiler, which takes
    as long as loading torch.
    """
    with device, _Uninitialised():
        yield


class _Uninitialised(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def recomputed(block: nn.Module, *inputs: Any) -> Any:
    """Returns a block's answer, whose activations are computed again for backward."""
    from torch.utils.checkpoint import checkpoint  # most processes do without

    return checkpoint(block, *inputs, use_reentrant=False)


def zero(*layers: nn.Linear) -> None:
    """Sets the weights and biases of layers to zero."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
