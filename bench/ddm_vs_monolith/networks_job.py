"""Measures what an arm's networks know: losses by cluster, and how right and how sure the router is.

All on validation clips. Legend: N clips, K experts and clusters, S times. t = 1 is noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.ddm_vs_monolith.arms import Plan
from bench.ddm_vs_monolith.data import Bench
from bench.ddm_vs_monolith.routed_losses import routed_losses
from bench.ddm_vs_monolith.train_job import PART_CLIPS, Validation, plan_of, slot_folder, weights_path
from paris_p2p.data.batches import Batch
from paris_p2p.device import pick_device, set_threads
from paris_p2p.flow.path import interpolate
from paris_p2p.generation.routed import load_router
from paris_p2p.model.router import Router
from paris_p2p.spec import ROUTER

TIMES = (1.0, 0.98, 0.95, 0.9, 0.8, 0.65, 0.5, 0.3, 0.1)
BINS = 10
# latent, text
INPUTS: dict[str, tuple[bool, bool]] = {"both": (True, True), "latent": (True, False), "text": (False, True)}


def networks_job(bench: Bench, arm: str, rng_seed: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Measures every expert on every cluster, the losses as samples are routed, and the router's
    `answers.<inputs>` [S N K], `clusters` [N].
    """
    set_threads(bench.threads)
    plan_ = plan_of(bench, arm)
    losses = [_last_losses(bench, arm, rng_seed, slot) for slot in plan_.slots if slot != ROUTER]
    values: dict[str, Any] = {"plan": plan_.describe(), "losses": losses}
    values["routed"], arrays = routed_losses(bench, plan_, rng_seed)
    if ROUTER not in plan_.slots or plan_.arm.partition != "clusters":
        return values, arrays
    answers, cluster = _answers(bench, plan_, rng_seed)
    values["router"] = {
        "times": list(TIMES),
        **{name: describe(given, cluster) for name, given in answers.items()},
    }
    return values, arrays | {
        "clusters": cluster,
        **{f"answers.{name}": given.astype(np.float16) for name, given in answers.items()},
    }


def _last_losses(bench: Bench, arm: str, rng_seed: int, slot: str) -> list[float]:
    """Returns an expert's loss on each cluster, as its training job measured it at the end."""
    row = bench.results.values(f"train/{arm}/{rng_seed}/{slot}")["curve"][-1]
    return [float(loss) for loss in row["loss"]]


def _answers(
    bench: Bench, plan_: Plan, rng_seed: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Returns (inputs -> the router's probabilities [S N K], the true clusters [N])."""
    device = pick_device()
    folder = slot_folder(bench, plan_.arm.name, rng_seed, ROUTER)
    router = load_router({**plan_.router, "experts": plan_.experts}, weights_path(folder), device)
    batch = Validation.batch_of(bench)
    answers = {
        name: np.stack([posterior(router, batch.to(device.torch), t, latent, text) for t in TIMES])
        for name, (latent, text) in INPUTS.items()
    }
    return answers, batch.cluster.numpy()


def posterior(router: Router, batch: Batch, t: float, latent: bool, text: bool) -> NDArray[np.float64]:
    """Returns the router's probabilities for noisy clips at one time: [N K]."""
    parts: list[Tensor] = []
    for start in range(0, len(batch), PART_CLIPS):
        part = batch.part(start, start + PART_CLIPS)
        times = torch.full((len(part),), t, device=part.latent.device)
        x_t = interpolate(part.latent.float(), part.noise, times) if latent else None
        with torch.no_grad():
            # in training the time goes with the latent
            parts.append(
                router(x_t, times if latent else None, part.pooled.float() if text else None)
                .float()
                .softmax(1)
                .cpu()
            )
    return torch.cat(parts).double().numpy()


def describe(answers: NDArray[np.float64], cluster: NDArray[np.int64]) -> dict[str, Any]:
    """Describes answers: accuracy by time, cross-entropy, confusion and calibration.

    Calibration is Eq. 3 of Guo et al. 2017 (arXiv 1706.04599).
    """
    times, clips, experts = answers.shape
    named, sure = answers.argmax(2), answers.max(2)  # S N
    right = named == cluster
    true = np.take_along_axis(answers, np.broadcast_to(cluster[None, :, None], (times, clips, 1)), axis=2)
    confusion = np.zeros((experts, experts))
    np.add.at(confusion, (np.broadcast_to(cluster, named.shape), named), 1)
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = []
    for index in range(BINS):
        inside = place == index
        if inside.any():
            bins.append(
                {
                    "share": float(inside.mean()),
                    "sure": float(sure[inside].mean()),
                    "right": float(right[inside].mean()),
                }
            )
    return {
        "accuracy": right.mean(1),
        "cross_entropy": -np.log(np.maximum(true, 1e-12)).mean((1, 2)),
        "confusion": confusion / confusion.sum(1, keepdims=True).clip(min=1),
        "bins": bins,
        "calibration_error": sum(row["share"] * abs(row["sure"] - row["right"]) for row in bins),
    }
