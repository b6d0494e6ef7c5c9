"""Tries learning rates for each arm of a width, at a seed that no table has.

A network is judged on fresh maps of images that it may train on, so that held-out ones stay unseen; experts
each on their own cluster.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bench.when_experts_win.arms import Arms, Trained
from bench.when_experts_win.digits import splits
from bench.when_experts_win.losses import Looked, told_loss
from bench.when_experts_win.settings import Cell, Stage

TRIAL_SEED = 0
AS_GOOD = 1.02  # the smallest rate whose loss is at most this many times the best is taken


def try_rates(stage: Stage, width: int) -> dict[str, dict[str, float]]:
    """Returns the loss of each arm at each rate: {arm: {rate: loss}}."""
    digits, _ = splits()
    cell = Cell(width, stage.trial_steps, TRIAL_SEED)
    looked = Looked.at(digits, stage.loss_samples, torch.Generator().manual_seed(TRIAL_SEED))
    found: dict[str, dict[str, float]] = {}
    for rate in stage.rates:
        rates = {"monolith": rate} | {f"{a}-{k}": rate for k in stage.clusters for a in ("experts", "total")}
        trained = Arms(stage, cell, digits, rates).train()
        for arm, loss in _losses(trained, looked).items():
            found.setdefault(arm, {})[f"{rate:g}"] = loss
    return found


def chosen_rates(tried: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns each arm's rate: the smallest that is as good as the best."""
    return {
        arm: min(float(rate) for rate, loss in losses.items() if loss <= AS_GOOD * min(losses.values()))
        for arm, losses in tried.items()
    }


def _losses(trained: Trained, looked: Looked) -> dict[str, float]:
    found = {}
    for arm, pool in trained.pools.items():
        kind, _, count = arm.partition("-")
        if kind in ("monolith", "total"):
            found[arm] = told_loss(pool, looked, None)
        elif kind == "experts":
            found[arm] = told_loss(pool, looked, trained.partitions[int(count)].labels[looked.rows])
    return found
