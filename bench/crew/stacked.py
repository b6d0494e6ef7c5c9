"""Trains many small networks at once, their parameters stacked, so that small matrices cost little each.

A row is one network: its flattened parameters in the order of their names, as updates have them. A row's
step is the step of `paris_p2p.training.learner.Learner` to rounding (a test says so).
Legend: M rows, B clips, N tokens, L text tokens, D width, A heads, E width of a head, n parameters of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from paris_p2p.flow.path import interpolate, velocity
from paris_p2p.model.checkpoint import BETAS
from paris_p2p.model.layers import MODULATIONS, Block, time_features, turn
from paris_p2p.model.plain_dit import PlainVideoDiT
from paris_p2p.training.optimizers import EPSILON

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Seen:
    """Holds what a step of M rows sees."""

    latent: Tensor  # [M B C T H W] float32
    noise: Tensor  # [M B C T H W] float32
    t: Tensor  # [M B] float32, 1 is noise
    tokens: Tensor  # [M B L text width] float32
    mask: Tensor  # [M B L] bool


class Stacked:
    """Computes a PlainVideoDiT's loss for many rows of parameters."""

    def __init__(self, network: PlainVideoDiT):
        shapes = {name: tuple(weight.shape) for name, weight in network.named_parameters()}
        self.shapes = {name: shapes[name] for name in sorted(shapes)}
        self.patch, self.positions = network.patch, network.positions
        self.depth, self.width = len(network.blocks), network.embed.out_features
        self.heads = cast(Block, network.blocks[0]).attention.heads
        self.parameters = sum(weight.numel() for weight in network.parameters())
        self._fused: Callable[[Parameters, Seen], Tensor] = torch.compile(self.losses, dynamic=False)

    def flat(self, network: PlainVideoDiT) -> Tensor:
        """Returns a network's parameters as one row: [n]."""
        weights = dict(network.named_parameters())
        return torch.cat([weights[name].detach().flatten() for name in self.shapes])

    def named(self, rows: Tensor) -> dict[str, Tensor]:
        """Returns views of rows [M n] by name, each [M …]."""
        found, start = {}, 0
        for name, shape in self.shapes.items():
            size = torch.Size(shape).numel()
            found[name] = rows[:, start : start + size].view(len(rows), *shape)
            start += size
        return found

    def losses(self, weights: Parameters, seen: Seen) -> Tensor:
        """Returns the mean squared error of the velocity of every clip: [M B]."""
        clips = seen.t.shape
        x0, noise = seen.latent.flatten(0, 1), seen.noise.flatten(0, 1)
        x_t = interpolate(x0, noise, seen.t.flatten()).view(seen.latent.shape)
        answer = self.velocity(weights, x_t, seen)
        return (answer.flatten(0, 1) - velocity(x0, noise)).square().flatten(1).mean(1).view(clips)

    def gradients(self, rows: Tensor, seen: Seen, *, fused: bool = False) -> tuple[Tensor, Tensor]:
        """Returns (losses [M], gradients [M n]) of the batches' mean losses.

        `fused` compiles the network for this shape first, which takes a minute and saves a fifth of the time.
        """
        named = {name: part.detach().requires_grad_() for name, part in self.named(rows).items()}
        losses = (self._fused if fused else self.losses)(named, seen).mean(1)
        found = torch.autograd.grad(losses.sum(), list(named.values()))
        return losses.detach(), torch.cat([part.flatten(1) for part in found], 1)

    def velocity(self, weights: Parameters, x_t: Tensor, seen: Seen) -> Tensor:
        """Returns the velocities at x_t [M B C T H W]."""
        rows, clips = seen.t.shape
        grid = self.patch.grid(x_t[0])
        absolute, cos, sin = self.positions(grid, x_t.device)  # [N D] [N E] [N E]
        text, unseen = self._text(weights, seen)
        shared = self._shared(weights, seen.t)  # [M B 6 D]
        steers = shared[:, :, None] + weights["tables"][:, None]  # [M B depth 6 D]
        patches = self.patch.cut(x_t.flatten(0, 1)).view(rows, -1, weights["embed.weight"].shape[2])
        x = linear(weights, "embed", patches).view(rows, clips, -1, self.width) + absolute  # [M B N D]
        for block in range(self.depth):
            x = self._block(weights, f"blocks.{block}.", x, steers[:, :, block], (cos, sin), text, unseen)
        shift, scale = (shared[:, :, :2] + weights["last_table"][:, None]).unsqueeze(3).unbind(2)
        out = linear(weights, "out", normed(x, shift, scale).flatten(1, 2))
        return self.patch.join(out.view(rows * clips, x.shape[2], -1), grid).view(x_t.shape)

    def _text(self, weights: Parameters, seen: Seen) -> tuple[Tensor, Tensor]:
        """Returns the text [M B·L D'] with the stand-in, and 0 or -inf where it is not seen [M·B·A 1 L]."""
        length = seen.mask.shape[2]
        stands_in = F.pad(~seen.mask.any(2, keepdim=True), (0, length - 1))
        text = torch.where(stands_in[..., None], weights["null_token"][:, None, None], seen.tokens)
        unseen = torch.zeros(seen.mask.shape).masked_fill_(~(seen.mask | stands_in), -torch.inf)
        shape = (*seen.t.shape, self.heads, 1, length)
        return text.flatten(1, 2), unseen[:, :, None, None].expand(shape).reshape(-1, 1, length)

    def _shared(self, weights: Parameters, t: Tensor) -> Tensor:
        features = time_features(t.flatten()).view(*t.shape, -1)
        shared = linear(weights, "time_out", F.silu(linear(weights, "time_in", features)))
        ones = torch.zeros(MODULATIONS, 1)
        ones[1::3] = 1
        return shared.unflatten(2, (MODULATIONS, -1)) + ones

    def _block(
        self,
        weights: Parameters,
        at: str,
        x: Tensor,
        steer: Tensor,
        rotary: tuple[Tensor, Tensor],
        text: Tensor,
        unseen: Tensor,
    ) -> Tensor:
        """Applies one block to x [M B N D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (part[:, :, None] for part in steer.unbind(2))
        qkv = linear(weights, at + "attention.qkv", normed(x, shift1, scale1).flatten(1, 2))
        q, k, v = self._heads(qkv, x.shape[1], 3)  # [M B A N E]
        q = turn(head_norm(weights, at + "attention.q_norm", q), *rotary)
        k = turn(head_norm(weights, at + "attention.k_norm", k), *rotary)
        y = linear(weights, at + "attention.out", attend(q, k, v))
        x = torch.addcmul(x, gate1, y.view(x.shape))
        (q,) = self._heads(linear(weights, at + "text.q", x.flatten(1, 2)), x.shape[1], 1)
        k, v = self._heads(linear(weights, at + "text.kv", text), x.shape[1], 2)  # [M B A L E]
        q, k = head_norm(weights, at + "text.q_norm", q), head_norm(weights, at + "text.k_norm", k)
        x = x + linear(weights, at + "text.out", attend(q, k, v, unseen)).view(x.shape)
        hidden = linear(weights, at + "up", normed(x, shift2, scale2).flatten(1, 2))
        hidden = F.gelu(hidden, approximate="tanh")
        return torch.addcmul(x, gate2, linear(weights, at + "down", hidden).view(x.shape))

    def _heads(self, x: Tensor, clips: int, parts: int) -> tuple[Tensor, ...]:
        """Cuts [M B·N parts·A·E] into parts of [M B A N E]."""
        cut = x.view(len(x), clips, -1, parts, self.heads, self.width // self.heads)
        return cut.permute(3, 0, 1, 4, 2, 5).unbind(0)


def linear(weights: Parameters, name: str, x: Tensor) -> Tensor:
    """Applies each row's own layer: [M R I] -> [M R O]."""
    return torch.baddbmm(weights[name + ".bias"][:, None], x, weights[name + ".weight"].transpose(1, 2))


def normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Applies layer norm, then each clip's scale and shift: [M B N D], [M B 1 D] twice."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), scale)


def head_norm(weights: Parameters, name: str, x: Tensor) -> Tensor:
    """Norms queries or keys [M B A N E]."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * weights[name + ".weight"][:, None, None, None]


def attend(q: Tensor, k: Tensor, v: Tensor, unseen: Tensor | None = None) -> Tensor:
    """Applies softmax attention: [M B A N E], twice [M B A L E] -> [M B·N D]."""
    shape = q.shape
    q, k, v = (part.reshape(-1, part.shape[3], part.shape[4]) for part in (q * shape[4] ** -0.5, k, v))
    keys = k.transpose(1, 2)
    scores = torch.bmm(q, keys) if unseen is None else torch.baddbmm(unseen, q, keys)
    y = torch.bmm(scores.softmax(-1), v).view(shape)
    return y.transpose(2, 3).reshape(shape[0], shape[1] * shape[3], -1)


class Inner:
    """Holds the AdamW of every row (no weight decay), with the gradient clipped as the trainer does."""

    def __init__(self, rows: int, parameters: int, max_norm: float):
        self.max_norm = max_norm
        self.exp_avg, self.exp_avg_sq = torch.zeros(rows, parameters), torch.zeros(rows, parameters)
        self.steps = [torch.zeros(()) for _ in range(rows)]

    def forget(self, row: int) -> None:
        """Begins a row's moments anew, as one who joins does."""
        self.exp_avg[row].zero_()
        self.exp_avg_sq[row].zero_()
        self.steps[row].zero_()

    def step(self, row: int, weights: Tensor, gradient: Tensor, rate: float) -> None:
        """Moves one row's weights [n] by its gradient [n], both of which are changed."""
        norm = gradient.norm()
        gradient.mul_(torch.clamp(self.max_norm / (norm + 1e-6), max=1.0))
        fused: Any = torch._fused_adamw_
        fused(
            [weights],
            [gradient],
            [self.exp_avg[row]],
            [self.exp_avg_sq[row]],
            [],
            [self.steps[row].add_(1)],
            amsgrad=False,
            lr=rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
