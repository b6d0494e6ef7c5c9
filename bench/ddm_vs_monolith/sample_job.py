"""Makes clips with an arm's networks for held-out captions and measures them; tries guidance scales.

Legend: N clips, B a batch of them, S steps, K experts. t = 1 is noise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from bench.ddm_vs_monolith.arms import Plan
from bench.ddm_vs_monolith.data import Bench, HeldOut, open_split, sizes
from bench.ddm_vs_monolith.features_job import (
    VALIDATION_FILE,
    Pixels,
    embed,
    measured,
    trial_file,
    validation_features,
)
from bench.ddm_vs_monolith.settings import Sampling
from bench.ddm_vs_monolith.train_job import plan_of, slot_folder, weights_path
from paris_p2p.device import Device, pick_device, set_threads
from paris_p2p.errors import DataError
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.guidance import guided_velocity
from paris_p2p.flow.mixture import Routing
from paris_p2p.flow.sampler import sample, time_grid
from paris_p2p.generation.routed import ExpertSeats, clip_noise, expert_state, load_router
from paris_p2p.model.router import Router
from paris_p2p.score.distances import frechet_distance
from paris_p2p.spec import ROUTER

TRIAL_COMPONENTS = 32
NEEDS_ROUTER = ("top_k", "full", "threshold")


@dataclass
class Chooser:
    """Weighs experts as a sampling's row says, and remembers who was chosen with the caption at each time."""

    sampling: Sampling
    router: Router | None
    prior: Tensor  # [K]
    clusters: Tensor  # [B] of the batch at hand
    chosen: dict[float, Tensor] = field(default_factory=dict)

    def __call__(self, x: Tensor, t: Tensor, pooled: Tensor | None) -> Tensor:
        """Returns weights [B K] at (x [B ...], t [B], pooled [B P] or None)."""
        weights = self._routing().weights(self._logits(x, t, pooled), self.clusters.to(x.device))
        self.chosen.setdefault(float(t[0]), weights.cpu())
        return weights

    def _routing(self) -> Routing:
        row = self.sampling
        return Routing(
            "full" if row.routing == "prior" else row.routing, row.top_k, row.threshold, row.expert
        )

    def _logits(self, x: Tensor, t: Tensor, pooled: Tensor | None) -> Tensor:
        if self.router is None:
            return self.prior.log().to(x.device).expand(len(x), -1)
        with torch.no_grad():
            if self.sampling.inputs == "text":  # in training the time goes with the latent
                return self.router(None, None, pooled).float()  # type: ignore[no-any-return]
            return self.router(x, t, None if self.sampling.inputs == "latent" else pooled).float()  # type: ignore[no-any-return]

    def take(self) -> Tensor:
        """Returns the weights at each time so far, from noise on: [B S K]."""
        made = torch.stack([self.chosen[time_] for time_ in sorted(self.chosen, reverse=True)], 1)
        self.chosen.clear()
        return made


@dataclass(frozen=True)
class Made:
    """Holds generated clips and how they came about."""

    pixels: Pixels  # [N T H W 3]
    chosen: NDArray[np.float32]  # [N S K]
    seconds_per_clip: float


def make(
    bench: Bench,
    plan_: Plan,
    rng_seed: int,
    sampling: Sampling,
    guidance: float,
    held: HeldOut,
    rows: Sequence[int],
) -> Made:
    """Makes a clip for each row's caption.

    Its noise depends on RNG seed and row alone, the same for all arms.
    """
    device = pick_device()
    steps = sampling.steps or bench.scale.sampling_steps
    pool = arm_pool(bench, plan_, rng_seed, device)
    router = arm_router(bench, plan_, rng_seed, device) if sampling.routing in NEEDS_ROUTER else None
    counts = torch.tensor(sizes(bench, plan_.arm.partition), dtype=torch.float64)
    chooser = Chooser(sampling, router, (counts / counts.sum()).float(), torch.zeros(0))
    pixels, chosen, began_s = [], [], time.monotonic()
    for start in range(0, len(rows), bench.scale.sampling_batch_clips):
        some = rows[start : start + bench.scale.sampling_batch_clips]
        chooser.clusters = torch.tensor(held.clusters(some))
        condition = Condition(*(part.to(device.torch) for part in held.text(some)))
        noise = clip_noise(rng_seed, some, bench.prepared.latent.shape).to(device.torch)
        latents = sample(
            guided_velocity(sampling.form, pool, chooser, condition, guidance), noise, time_grid(steps)
        )
        if not bool(latents.isfinite().all()):
            raise DataError(
                f"{sampling.arm}, {sampling.name} at guidance {guidance:g} gave values that are not finite"
            )
        pixels.append(bench.codec.decode(latents.cpu()).numpy())
        chosen.append(chooser.take().numpy())
    seconds = (time.monotonic() - began_s) / len(rows)
    return Made(np.concatenate(pixels), np.concatenate(chosen), seconds)


def guidance_job(bench: Bench, arm: str, guidance: float) -> dict[str, Any]:
    """Measures how near an arm comes to validation clips at one guidance: the distances' mean logarithm."""
    set_threads(bench.threads)
    held = HeldOut(bench, "validation")
    rows = spread(held.pick(bench.scale.validation_clips), bench.scale.trial_clips)
    made = make(
        bench,
        plan_of(bench, arm),
        bench.scale.rng_seeds[0],
        bench.scale.main_sampling(arm),
        guidance,
        held,
        rows,
    )
    real, generated = validation_features(bench.work / VALIDATION_FILE), embed(bench, made.pixels)
    trial_file(bench, arm, guidance).parent.mkdir(parents=True, exist_ok=True)
    save_file(generated, trial_file(bench, arm, guidance))
    count = min(TRIAL_COMPONENTS, len(rows) - 1)
    distances = {name: frechet_distance(real[name], generated[name], count) for name in bench.scale.features}
    loss = float(np.mean([np.log(max(1e-9, value)) for value in distances.values()]))
    return {"guidance": guidance, "clips": len(rows), "distances": distances, "loss": loss}


def spread(rows: Sequence[int], count: int) -> list[int]:
    """Returns `count` of the rows, evenly from first to last; rows come by cluster, so each has its share."""
    count = min(count, len(rows))
    return [rows[len(rows) * index // count] for index in range(count)]


def sample_job(
    bench: Bench, arm: str, rng_seed: int, name: str, guidance: float
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Samples the test captions once, and measures the clips."""
    set_threads(bench.threads)
    held = open_split(bench, "test")
    rows = held.pick(bench.scale.test_clips)
    plan_, sampling = plan_of(bench, arm), bench.scale.sampling(arm, name)
    guidance = sampling.guidance or guidance
    made = make(bench, plan_, rng_seed, sampling, guidance, held, rows)
    arrays = measured(bench, made.pixels)
    if not bench.scale.is_pictured(sampling, rng_seed):
        del arrays["pictures"]
    clusters = np.array(held.clusters(rows))
    values = {
        "sampling": sampling.model_dump(),
        "guidance": guidance,
        "steps": made.chosen.shape[1],
        "clips": len(rows),
        "seconds_per_clip": made.seconds_per_clip,
        "experts_per_step": float((made.chosen > 0).sum(2).mean()),
        "flops_per_clip": inference_flops(plan_, sampling, guidance, made.chosen),
        # K S K: cluster, step, expert
        "routing": [made.chosen[clusters == k].mean(0) for k in range(bench.scale.experts)],
    }
    return values, arrays


def inference_flops(plan_: Plan, sampling: Sampling, guidance: float, chosen: NDArray[np.float32]) -> float:
    """Counts the FLOPs of one clip: experts that had weight, twice a step when guided, and the router."""
    steps = chosen.shape[1]
    a_step = float((chosen > 0).sum(2).mean()) * plan_.expert_forward_flops * (1 if guidance == 1 else 2)
    if sampling.routing in NEEDS_ROUTER:
        a_step += plan_.router_forward_flops * (2 if sampling.form == "exact" and guidance != 1 else 1)
    return float(steps * a_step)


def arm_pool(bench: Bench, plan_: Plan, rng_seed: int, device: Device) -> ExpertSeats:
    """Returns an arm's trained experts."""

    def fetch(k: int) -> Any:
        return expert_state(plan_.expert, _weights(bench, plan_, rng_seed, f"expert-{k}"), device)

    return ExpertSeats(plan_.expert, fetch, device, plan_.experts)


def arm_router(bench: Bench, plan_: Plan, rng_seed: int, device: Device) -> Router:
    """Returns an arm's trained router."""
    return load_router(
        {**plan_.router, "experts": plan_.experts}, _weights(bench, plan_, rng_seed, ROUTER), device
    )


def _weights(bench: Bench, plan_: Plan, rng_seed: int, slot: str) -> Path:
    return weights_path(slot_folder(bench, plan_.arm.name, rng_seed, slot))
