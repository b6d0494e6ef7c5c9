"""Puts an arm's trained networks together: a pool of experts, what routes to them, and how a way asks them.

A told model is a pool too, of one network that is asked once for each cluster: whatever routes experts routes
it. Random parts are routed by their shares, which is all that a clip says of them.
Legend: B clips, K experts. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from bench.when_experts_win.product_plans import ArmPlan
from bench.when_experts_win.product_stages import Way
from bench.when_experts_win.product_training import read_weights, told
from paris_p2p.device import Device
from paris_p2p.flow.autoguidance import Autoguided
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.guidance import guided_velocity, within
from paris_p2p.flow.kept import drawn_expert
from paris_p2p.flow.mixture import ExpertPool, Routing
from paris_p2p.flow.sampler import Velocity
from paris_p2p.generation.routed import Chooser, ExpertSeats
from paris_p2p.model.router import Router

Route = Callable[..., Tensor]


@dataclass(frozen=True)
class ToldPool:
    """One network that is told the cluster k, as experts are asked by number."""

    pool: ExpertPool
    names: Tensor  # [K D]

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Returns v [B ...] at x [B ...], t [B], told the cluster k beside what is known of the clips."""
        return self.pool.velocity(0, x, t, told(condition, self.names[k].expand(len(x), -1)))


@dataclass(frozen=True)
class SamePool:
    """One network in the place of each expert, as the seed model was before there were experts."""

    pool: ExpertPool

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Returns the one network's v [B ...], whichever expert is asked for."""
        return self.pool.velocity(0, x, t, condition)


class Routed(Protocol):
    """Gives weights of experts, with the caption and for the other side of exact guidance."""

    def __call__(self, x: Tensor, t: Tensor, pooled: Tensor | None) -> Tensor: ...

    def away(self, x: Tensor, t: Tensor, pooled: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class ByPrior:
    """Routes by shares that no clip changes: all to one network, or random parts."""

    weights: Tensor  # [B K]

    def __call__(self, x: Tensor, t: Tensor, pooled: Tensor | None = None) -> Tensor:
        return self.weights

    def away(self, x: Tensor, t: Tensor, pooled: Tensor | None = None) -> Tensor:
        return self.weights


@dataclass(frozen=True)
class Arm:
    """Holds what an arm samples with."""

    pool: ExpertPool
    experts: int  # that can be asked for
    router: Router | None
    prior: Tensor  # [K], the parts' shares of the clips to train on
    seed: ExpertPool | None = None  # the model that it went on from

    def routed(self, routing: Routing | None, uniforms: Tensor) -> Routed:
        """Returns what routes a batch of clips, drawing by `uniforms` [B]."""
        if self.router is not None and routing is not None:
            return Chooser(self.router, self.experts, range(self.experts), routing, uniforms)
        logits = self.prior.log().to(uniforms.device).expand(len(uniforms), -1).float()
        if routing is not None and routing.name == "full":
            return ByPrior(logits.softmax(1))
        return ByPrior(drawn_expert(logits, uniforms))

    def flow(self, way: Way, guidance: float, condition: Condition, uniforms: Tensor) -> Velocity:
        """Returns the guided velocity of a way for clips of which `condition` is known."""
        routed, pool = self.routed(way.routing, uniforms), self.pool
        if way.autoguidance != 1 and self.seed is not None:
            pool = Autoguided(pool, self.seed, way.autoguidance)
        asked = partial(guided_velocity, way.form, pool, routed, condition, away=routed.away)
        return within(way.interval, asked(guidance), asked(1.0))


def seated(plan: ArmPlan, paths: Sequence[Path], device: Device) -> ExpertSeats:
    """Returns the pool of networks whose weights lie in these files, all on the device."""
    return ExpertSeats(
        plan.expert, lambda k: read_weights(plan.expert, paths[k]), device, seats=max(1, len(paths))
    )


def shares_of_parts(labels: Tensor, count: int) -> Tensor:
    """Returns each part's share: labels [N] -> [K] float64."""
    counts = torch.bincount(labels.long(), minlength=count).double()
    return counts / counts.sum()
