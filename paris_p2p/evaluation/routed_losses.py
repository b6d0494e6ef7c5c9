"""Measures the loss of the flow that samples follow: through the router, which nobody tells a clip's cluster.

The loss of experts that are told the cluster is lower, and says less of samples: they are not told.
Legend: B clips, E experts present, K experts of the run, S times. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paris_p2p.data.batches import Batch
from paris_p2p.evaluation.opened_model import OpenedModel
from paris_p2p.evaluation.parts import Arrays
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.mixture import Routing, only_present
from paris_p2p.flow.path import clip_losses, interpolate, velocity
from paris_p2p.flow.times import flow_times
from paris_p2p.model.first_frame import first_condition
from paris_p2p.model.posterior import posterior_logits

WAYS = {"top_1": Routing("top_k"), "full": Routing("full")}  # how the router is followed


@torch.no_grad()
def held_losses(model: OpenedModel, batch: Batch, image_to_video: bool) -> Arrays:
    """Returns `losses` [B E] of each expert, and [B] of the mixture in each of WAYS where a router may be
    followed; of one expert these are its own.

    The times `at` [B] are the same for all, or losses would not compare: those of the velocity predictors,
    where there are some.
    """
    experts, training = model.run.experts, model.run.spec.training
    noise = set(experts) <= set(training.ddpm_experts)
    shape = training.time_mean, training.time_std, training.time_shift
    x0, t = batch.latent.float(), flow_times(batch.normal, *shape, predicts_noise=noise)
    x_t, target = interpolate(x0, batch.noise, t), velocity(x0, batch.noise)
    first = first_condition(x0, torch.ones_like(t, dtype=torch.bool)) if image_to_video else None
    known = Condition(batch.tokens.float(), batch.mask, batch.pooled.float(), first)
    pool = model.engine.mixture.pool
    said = torch.stack([pool.velocity(k, x_t, t, known).float() for k in experts], 1)  # B E ...
    found = {"losses": torch.stack([clip_losses(each, target) for each in said.unbind(1)], 1), "at": t}
    logits = _logits(model, batch, x_t, t)
    if logits is not None:
        found |= mixture_losses(said, only_present(logits, list(experts))[:, list(experts)], target)
    return {name: value.double().cpu().numpy() for name, value in found.items()}


def mixture_losses(said: Tensor, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Returns the loss [B] of experts' velocities [B E ...] mixed by the router's logits [B E], each way."""
    found = {}
    for name, routing in WAYS.items():
        weights = routing.weights(logits).reshape(*logits.shape, *[1] * (target.dim() - 1))
        found[name] = clip_losses((said * weights).sum(1), target)
    return found


def _logits(model: OpenedModel, batch: Batch, x_t: Tensor, t: Tensor) -> Tensor | None:
    """Returns the router's logits [B K], equal ones where there is one expert; None without a router."""
    if model.run.spec.experts == 1:
        return torch.zeros(len(t), 1, device=t.device)
    if model.router is None:
        return None
    first = None if batch.first is None else batch.first.float()
    return posterior_logits(model.router, x_t, t, batch.pooled.float(), first)


def told_losses(experts: Sequence[int], clusters: NDArray[np.int64], losses: NDArray[np.float64]) -> Arrays:
    """Returns the loss [N] of each clip by the expert of its own cluster, as `told`; nothing where one of
    the clusters has none.
    """
    places = {expert: place for place, expert in enumerate(experts)}
    if not set(clusters.tolist()) <= set(places):
        return {}
    own = np.array([places[int(cluster)] for cluster in clusters])
    return {"told": losses[np.arange(len(losses)), own]}
