"""Measures losses at set times with the same images and noise for every arm.

Beside the loss of experts that are told the cluster stands the loss through the router: of the flow that
samples follow, where nobody tells them.
Legend: B images, K clusters. t = 1 is noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.when_experts_win.digits import Digits
from bench.when_experts_win.networks import Pool
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.mixture import Routing, mixed_velocity
from paris_p2p.flow.path import clip_losses, interpolate, velocity
from paris_p2p.flow.sampler import rows_of

TIMES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)


@dataclass(frozen=True)
class Looked:
    """Holds the images, and the noise of each, at which losses are looked at."""

    images: Tensor  # [B 64]
    rows: Tensor  # [B], which of a split's images each shows
    noise: Tensor  # [B 64]

    @classmethod
    def at(cls, digits: Digits, count: int, rng: torch.Generator) -> Looked:
        images, rows = digits.any(count, rng)
        return cls(images, rows, torch.randn(images.shape, generator=rng))


def unsaid(count: int) -> Condition:
    """Returns what is known of `count` images without captions: nothing."""
    return Condition(torch.zeros(count, 1, 1), torch.zeros(count, 1, dtype=torch.bool), None)


def told_loss(pool: Pool, looked: Looked, labels: Tensor | None) -> float:
    """Returns the mean over all times of experts told each image's cluster, or of one model (None)."""
    found = losses_over_time(pool, looked, labels=labels)
    return sum(found) / len(found)


@torch.no_grad()
def losses_over_time(
    pool: Pool,
    looked: Looked,
    *,
    labels: Tensor | None = None,
    routing: Routing | None = None,
    router: Pool | None = None,
    prior: Tensor | None = None,
) -> list[float]:
    """Returns the mean loss at each of TIMES.

    With a routing, weights come of the router, or of the prior [K] at every time; without, each image goes to
    the expert of its label [B], or to the one there is.
    """
    found = []
    count = len(looked.images)
    for time in TIMES:
        t = rows_of(time, looked.images)
        x_t = interpolate(looked.images, looked.noise, t)
        if routing is None:
            labels = torch.zeros(count, dtype=torch.long) if labels is None else labels
            weights = torch.nn.functional.one_hot(labels).float()
        elif prior is not None:
            weights = routing.weights(prior.log().expand(count, -1))
        elif router is not None:
            weights = routing.weights(router.velocity(0, x_t, t, unsaid(count)))
        else:
            raise ValueError("a routing asks a router or a prior")
        said = mixed_velocity(pool, weights, x_t, t, unsaid(count))
        found.append(float(clip_losses(said, velocity(looked.images, looked.noise)).mean()))
    return found


@torch.no_grad()
def router_accuracy(router: Pool, looked: Looked, labels: Tensor) -> list[float]:
    """Returns how often the router's first choice is the cluster, at each of TIMES."""
    found = []
    for time in TIMES:
        t = rows_of(time, looked.images)
        logits = router.velocity(0, interpolate(looked.images, looked.noise, t), t, unsaid(len(labels)))
        found.append(float((logits.argmax(1) == labels).float().mean()))
    return found
