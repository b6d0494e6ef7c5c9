"""Samples every arm with the product's sampler and measures how far the images are from held-out ones.

Legend: N images, F features, K clusters. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.when_experts_win.arms import Trained
from bench.when_experts_win.digits import splits
from bench.when_experts_win.judge import Judge
from bench.when_experts_win.learning import rng_of
from bench.when_experts_win.losses import Looked, losses_over_time, router_accuracy, unsaid
from bench.when_experts_win.networks import Pool
from bench.when_experts_win.settings import Cell, Stage
from paris_p2p.flow.mixture import Routing, mixed_velocity
from paris_p2p.flow.sampler import sample, time_grid
from paris_p2p.score.distances import frechet_distance, kernel_distance

DIGITS = 10
Arrays = dict[str, NDArray[Any]]  # by features: "pixels" and "judge"


@dataclass(frozen=True)
class Real:
    """Holds held-out images, and images of those trained on, in both features."""

    held_out: Arrays  # [N F]
    trained_on: Arrays  # [N F]
    shares: NDArray[np.float64]  # [10], of the digits that the judge sees among held-out images

    @classmethod
    def drawn(cls, judge: Judge, count: int, seed: int) -> Real:
        """Draws fresh maps of both splits; another seed draws others."""
        train, held_out = splits()
        rng = rng_of("real", seed)
        real = held_out.any(count, rng)[0]
        other = train.any(count, rng)[0]
        return cls(_arrays(judge, real), _arrays(judge, other), _digit_shares(judge, real))


def distances(real: Real, judge: Judge, images: Tensor, stage: Stage) -> dict[str, Any]:
    """Returns distances of images [N 64], raw and with the mix of digits put right."""
    made = _arrays(judge, images)
    shown = judge.digits(images).numpy()
    shares = np.bincount(shown, minlength=DIGITS) / len(shown)
    weights = (real.shares / np.maximum(shares, 1e-9))[shown]
    few = stage.kernel_samples
    found: dict[str, Any] = {"mix_error": float(np.abs(shares - real.shares).sum() / 2)}
    for name, features in made.items():
        found[name] = {
            "frechet": frechet_distance(real.held_out[name], features),
            "mix_right": frechet_distance(real.held_out[name], features, weights=weights),
            "trained_on": frechet_distance(real.trained_on[name], features),
            "kernel": kernel_distance(real.held_out[name][:few], features[:few]),
        }
    return found


@torch.no_grad()
def sampled(pool: Pool, route: Callable[[Tensor, Tensor], Tensor], stage: Stage, seed: int) -> Tensor:
    """Returns images [N 64] of a mixture, `route` giving weights [N K] at (x, t).

    The noise is the same for every arm of a seed.
    """
    noise = torch.randn(stage.samples, 64, generator=rng_of("noise", seed))

    def flow(x: Tensor, t: Tensor) -> Tensor:
        return mixed_velocity(pool, route(x, t), x, t, unsaid(len(x)))

    return sample(flow, noise, time_grid(stage.sampling_steps))


def routes(prior: Tensor, router: Pool | None, stage: Stage, seed: int) -> dict[str, Any]:
    """Returns the ways to sample experts: kept, and where there is a router, chosen anew at every step."""
    drawn = torch.multinomial(prior, stage.samples, replacement=True, generator=rng_of("kept", seed))
    level = torch.zeros(stage.samples, len(prior))
    kept = Routing("oracle").weights(level, drawn)
    ways: dict[str, Any] = {"kept": lambda x, t: kept}
    if router is None:
        # Of a random partition no image says which part it is of: the prior is the posterior.
        ways["full"] = lambda x, t: Routing("full").weights(prior.log().expand(len(x), -1))
    else:
        for name, routing in (("top-1", Routing("top_k")), ("full", Routing("full"))):
            ways[name] = lambda x, t, by=routing: by.weights(router.velocity(0, x, t, unsaid(len(x))))
    return ways


def measured(stage: Stage, cell: Cell, trained: Trained, judge: Judge) -> dict[str, Any]:
    """Returns the distances of every arm and sampling, floors and losses."""
    real = Real.drawn(judge, stage.samples, 0)
    floor = Real.drawn(judge, stage.samples, 1)
    found: dict[str, Any] = {}
    for arm, pool in trained.pools.items():
        kind, _, count = arm.partition("-")
        if kind in ("monolith", "total"):
            ways = {"": lambda x, t: torch.ones(len(x), 1)}
        else:
            partition, router = trained.partitions[int(count)], trained.routers[int(count)]
            ways = routes(partition.prior, None if kind == "random" else router, stage, cell.seed)
            if kind == "told":
                ways = {"kept": ways["kept"]}
        for way, route in ways.items():
            images = sampled(pool, route, stage, cell.seed)
            found[f"{arm} {way}".strip()] = distances(real, judge, images, stage)
    few = stage.kernel_samples
    found["floor"] = {
        name: {
            "frechet": frechet_distance(real.held_out[name], floor.trained_on[name]),
            "trained_on": frechet_distance(real.trained_on[name], floor.trained_on[name]),
            "same_images": frechet_distance(real.held_out[name], floor.held_out[name]),
            "kernel": kernel_distance(real.held_out[name][:few], floor.trained_on[name][:few]),
        }
        for name in real.held_out
    }
    return {"distances": found} | _losses(stage, cell, trained)


def _losses(stage: Stage, cell: Cell, trained: Trained) -> dict[str, Any]:
    _, held_out = splits()
    looked = Looked.at(held_out, stage.loss_samples, rng_of("losses"))
    losses, right = {}, {}
    for arm, pool in trained.pools.items():
        kind, _, count = arm.partition("-")
        if kind in ("monolith", "total"):
            losses[arm] = losses_over_time(pool, looked)
            continue
        partition, router = trained.partitions[int(count)], trained.routers[int(count)]
        if kind == "random":
            losses[f"{arm} full"] = losses_over_time(
                pool, looked, routing=Routing("full"), prior=partition.prior
            )
            continue
        labels = partition.held_out[looked.rows]
        losses[f"{arm} told"] = losses_over_time(pool, looked, labels=labels)
        for name, routing in (("top-1", Routing("top_k")), ("full", Routing("full"))):
            losses[f"{arm} {name}"] = losses_over_time(pool, looked, routing=routing, router=router)
        right[count] = router_accuracy(router, looked, labels)
    return {"losses": losses, "router_right": right}


def _arrays(judge: Judge, images: Tensor) -> Arrays:
    return {"pixels": images.numpy(), "judge": judge.features(images).numpy()}


def _digit_shares(judge: Judge, images: Tensor) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.bincount(judge.digits(images).numpy(), minlength=DIGITS) / len(images)
    return shares
