"""Teaches rows of networks: images fed step by step, noised along the product's path, one rate for all rows.

Legend: M rows, B images, S steps drawn at once, K clusters. t = 1 is noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.when_experts_win.networks import Pool, Shape, Weights, answers, first_weights
from bench.when_experts_win.settings import Stage
from paris_p2p.flow.path import interpolate, velocity
from paris_p2p.flow.times import flow_times
from paris_p2p.model.checkpoint import BETAS

DRAWN_STEPS = 25


@dataclass(frozen=True)
class Fed:
    """Holds the images of S steps, and what is said or asked of each."""

    images: Tensor  # [S M B 64]; M is 1 for images that all rows see
    told: Tensor | None = None  # [S M B K]
    asked: Tensor | None = None  # [S 1 B], the cluster that a router is to find


Feed = Callable[[int, torch.Generator], Fed]  # (steps, rng) -> their images


@dataclass(frozen=True)
class Course:
    """Says how many rows learn, and how."""

    rows: int
    steps: int
    rate: float


def rng_of(*names: object) -> torch.Generator:
    """Returns the stream of random numbers that belongs to these names."""
    return torch.Generator().manual_seed(zlib.crc32(" ".join(map(str, names)).encode()))


def learn(shape: Shape, course: Course, feed: Feed, stage: Stage, rng: torch.Generator) -> Pool:
    """Trains rows from their first weights and returns their averages."""
    learner = Learner(shape, course.rows, stage, rng)
    for first in range(0, course.steps, DRAWN_STEPS):
        count = min(DRAWN_STEPS, course.steps - first)
        fed = feed(count, rng)
        x_t, t, wanted = noised(fed.images, rng)
        for step in range(count):
            x, at = (part[step].expand(course.rows, *part.shape[2:]) for part in (x_t, t))
            said = answers(shape, learner.weights, x, at, None if fed.told is None else fed.told[step])
            if fed.asked is None:
                loss = (said - wanted[step]).square().mean((1, 2)).sum()
            else:
                loss = F.cross_entropy(said.flatten(0, 1), fed.asked[step].flatten())
            learner.step(loss, rate_at(stage, course, first + step), first + step)
    return Pool(shape, learner.average)


def noised(images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (x_t, t, v) of images at logit-normal times: [S M B 64], [S M B], [S M B 64]."""
    noise = torch.randn(images.shape, generator=rng)
    normal = torch.randn(images.shape[:3], generator=rng, dtype=torch.float64)
    t = flow_times(normal, 0.0, 1.0, 1.0, predicts_noise=False)
    x_t = interpolate(images.flatten(0, 2), noise.flatten(0, 2), t.flatten()).view(images.shape)
    return x_t, t, velocity(images, noise)


def rate_at(stage: Stage, course: Course, step: int) -> float:
    """Returns a step's rate: warm-up, then level, then straight down to zero."""
    left = (course.steps - step) / (stage.decay_share * course.steps)
    return course.rate * min(1.0, (step + 1) / stage.warmup_steps, left)


class Learner:
    """Holds rows while they learn: AdamW without decay of weights, clipped gradients, averaged weights."""

    def __init__(self, shape: Shape, rows: int, stage: Stage, rng: torch.Generator):
        self.stage = stage
        self.weights: Weights = {
            name: weight.requires_grad_() for name, weight in first_weights(shape, rows, rng).items()
        }
        self.average: Weights = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.optimizer = torch.optim.AdamW(self.weights.values(), betas=BETAS, weight_decay=0.0, fused=True)

    def step(self, loss: Tensor, rate: float, taken: int) -> None:
        """Takes one step down the sum of the rows' losses, and moves the average."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._clip()
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        decay = min(self.stage.average, (taken + 1) / (taken + 10))
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.weights[name], 1 - decay)

    @torch.no_grad()
    def _clip(self) -> None:
        """Shortens each row's gradient to the longest allowed, as the trainer does with a network's."""
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        squares = torch.stack([gradient.square().sum((1, 2)) for gradient in gradients])  # … M
        scale = (self.stage.clip_norm / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1)[:, None, None]
        for gradient in gradients:
            gradient.mul_(scale)
