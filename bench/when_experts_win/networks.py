"""Computes many small denoisers side by side: MLPs whose parameters are stacked, row by row.

A row has two hidden layers; time and, where a row is told it, the cluster are added to the first.
Legend: M rows, B images, H width, K clusters. t = 1 is noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.when_experts_win.digits import PIXELS
from paris_p2p.flow.condition import Condition

TIMES = 8  # features of t
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Says what a row's network is."""

    width: int
    outputs: int = PIXELS
    clusters: int = 0  # that it can be told; 0 for none
    skip: bool = False  # the best linear answer is added, so that noise need not pass the hidden layers

    @property
    def parameters(self) -> int:
        """Counts weights and biases, without those that tell the cluster."""
        width = self.width
        return (PIXELS + TIMES + 1 + width + 1 + self.outputs) * width + self.outputs

    @property
    def flops(self) -> int:
        """Counts operations of training on one image: twice the weights forwards, twice that backwards."""
        return 6 * (PIXELS + TIMES + self.width + self.outputs) * self.width


def first_weights(shape: Shape, rows: int, rng: torch.Generator) -> Weights:
    """Returns weights of `rows` networks, each drawn for itself; the last layer begins at zero."""

    def drawn(inputs: int, outputs: int) -> Tensor:
        return torch.randn(rows, inputs, outputs, generator=rng) / math.sqrt(inputs)

    width = shape.width
    weights = {
        "in": drawn(PIXELS, width),
        "time": drawn(TIMES, width),
        "in_bias": torch.zeros(rows, 1, width),
        "hidden": drawn(width, width),
        "hidden_bias": torch.zeros(rows, 1, width),
        "out": torch.zeros(rows, width, shape.outputs),
        "out_bias": torch.zeros(rows, 1, shape.outputs),
    }
    if shape.clusters:
        weights["told"] = drawn(shape.clusters, width)
    return weights


def time_features(t: Tensor) -> Tensor:
    """Returns cosines and sines of t: [...] -> [... 8]."""
    angles = t[..., None] * math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0])
    return torch.cat([angles.cos(), angles.sin()], -1)


def answers(shape: Shape, weights: Weights, x: Tensor, t: Tensor, told: Tensor | None = None) -> Tensor:
    """Returns what each row says of its own images: [M B 64], [M B], told [M B K] -> [M B outputs]."""
    first = torch.baddbmm(weights["in_bias"], x, weights["in"])
    first = torch.baddbmm(first, time_features(t), weights["time"])
    if told is not None:
        first = torch.baddbmm(first, told, weights["told"])
    hidden = F.silu(torch.baddbmm(weights["hidden_bias"], F.silu(first), weights["hidden"]))
    out = torch.baddbmm(weights["out_bias"], hidden, weights["out"])
    return out + linear_share(t)[..., None] * x if shape.skip else out


def linear_share(t: Tensor, spread: float = 0.55) -> Tensor:
    """Returns the share of x_t in the best linear answer for pixels of mean 0 and deviation `spread`."""
    data = ((1 - t) * spread).square()
    return (t - (1 - t) * spread**2) / (data + t.square())


@dataclass(frozen=True)
class Pool:
    """Gives rows as experts: expert k is row k, or the one row there is, told k."""

    shape: Shape
    weights: Weights

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Returns expert k's v [B 64] at x [B 64], t [B]; there are no captions."""
        told = None
        if self.shape.clusters:
            told = F.one_hot(torch.full((1, len(x)), k), self.shape.clusters).float()
            k = 0
        return answers(self.shape, self.row(k), x[None], t[None], told)[0]

    def row(self, k: int) -> Weights:
        """Returns one row's weights, [1 ...] each."""
        return {name: weight[k : k + 1] for name, weight in self.weights.items()}
