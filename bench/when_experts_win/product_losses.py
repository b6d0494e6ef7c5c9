"""Measures losses of the arms at set times, on the same held-out clips with the same noise.

Beside the loss of experts that are told the cluster stands the loss through the router: of the flow that
samples follow, where nobody tells them.
Legend: B clips, K experts. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.when_experts_win.losses import TIMES
from bench.when_experts_win.product_arms import Arm
from bench.when_experts_win.product_training import PART_CLIPS, Material, rng_at
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.mixture import Routing, mixed_velocity
from paris_p2p.flow.path import clip_losses, interpolate, velocity
from paris_p2p.flow.sampler import rows_of
from paris_p2p.model.posterior import posterior_logits, start_logits
from paris_p2p.model.router import Router
from paris_p2p.training.calibrating import cross_entropies, fit_calibration

WAYS = {"top-1": Routing("top_k"), "full": Routing("full")}  # through the router


@dataclass(frozen=True)
class Looked:
    """Holds the clips, and the noise of each, at which losses are looked at."""

    latents: Tensor  # [B C T H W]
    noise: Tensor  # [B C T H W]
    condition: Condition
    cluster: Tensor  # [B]

    @classmethod
    def at(cls, material: Material, rows: Tensor) -> Looked:
        put = material.device.torch
        noise = torch.randn(len(rows), *material.latents.shape[1:], generator=rng_at("cpu", "losses"))
        where = rows.to(put)
        return cls(
            material.latents[where].float(),
            noise.to(put),
            material.condition(where),
            material.cluster[where],
        )

    def part(self, rows: slice) -> Looked:
        return Looked(self.latents[rows], self.noise[rows], self.condition.part(rows), self.cluster[rows])


@torch.no_grad()
def arm_losses(arm: Arm, looked: Looked) -> dict[str, Tensor]:
    """Returns the losses of each way to route at each of TIMES: [times B].

    `told` gives each clip to the expert of its cluster; one network has one way, random parts their prior.
    """
    found: dict[str, list[Tensor]] = {}
    for time in TIMES:
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, len(looked.latents), PART_CLIPS):
            part = looked.part(slice(start, start + PART_CLIPS))
            for name, losses in _losses_at(arm, part, time).items():
                parts.setdefault(name, []).append(losses.cpu())
        for name, several in parts.items():
            found.setdefault(name, []).append(torch.cat(several))
    return {name: torch.stack(each) for name, each in found.items()}


def _losses_at(arm: Arm, looked: Looked, time: float) -> dict[str, Tensor]:
    t = rows_of(time, looked.latents)
    x_t = interpolate(looked.latents, looked.noise, t)
    wanted = velocity(looked.latents, looked.noise)
    weights = _weights(arm, looked, x_t, t)
    return {
        name: clip_losses(mixed_velocity(arm.pool, each, x_t, t, looked.condition), wanted)
        for name, each in weights.items()
    }


def _weights(arm: Arm, looked: Looked, x_t: Tensor, t: Tensor) -> dict[str, Tensor]:
    if arm.experts == 1:
        return {"": torch.ones(len(t), 1, device=t.device)}
    if arm.router is None:  # a clip does not say which random part it is of
        return {"full": arm.prior.float().to(t.device).expand(len(t), -1)}
    logits = posterior_logits(arm.router, x_t, t, looked.condition.pooled)
    told = torch.nn.functional.one_hot(looked.cluster, arm.experts).float()
    return {"told": told, **{name: routing.weights(logits) for name, routing in WAYS.items()}}


def summed_up(losses: Mapping[str, Tensor], over: str = "monolith") -> dict[str, Any]:
    """Returns means over clips at each time, and of each row's difference from `over` the mean over times
    and its standard error over clips.
    """
    base = losses[over]
    found: dict[str, Any] = {}
    for name, each in losses.items():
        difference = (each - base).mean(0)  # [B]
        error = float(difference.std() / len(difference) ** 0.5)
        found[name] = {
            "by_time": each.mean(1).tolist(),
            "mean": float(each.mean()),
            "over": float(difference.mean()),
            "over_error": error,
        }
    return found


@torch.no_grad()
def answers_at(router: Router, looked: Looked, times: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Returns a router's logits, not calibrated: with the caption alone [B K], with both at each time [times
    B K].
    """
    pooled, both = looked.condition.pooled, []
    for time in times:
        t = rows_of(float(time), looked.latents)
        x_t = interpolate(looked.latents, looked.noise, t)
        both.append(router(x_t, t, pooled).double().cpu().numpy())
    assert pooled is not None  # captions of a set always have it
    return start_logits(router, pooled).double().cpu().numpy(), np.stack(both)


def calibrate(router: Router, looked: Looked, times: np.ndarray[Any, Any]) -> None:
    """Fits the router's shares of the latent's word on held-out clips, as the product does after training."""
    text, both = answers_at(router, looked, times)
    router.calibrate(fit_calibration(text, both, looked.cluster.cpu().numpy()))


def router_numbers(router: Router, looked: Looked) -> dict[str, Any]:
    """Returns how often the router is right and its cross-entropy at TIMES, before and after calibration."""
    calibration, labels = router.calibration, looked.cluster.cpu().numpy()
    text, both = answers_at(router, looked, np.array(TIMES))
    found: dict[str, Any] = {
        "text_right": float((text.argmax(1) == labels).mean()),
        "text_cross_entropy": float(cross_entropies(text, labels).mean()),
        "shares": [] if calibration is None else list(calibration.shares),
    }
    shares = [1.0] * len(TIMES)
    if calibration is not None:
        shares = calibration.at(torch.tensor(TIMES)).tolist()
    for name, parts in (("before", [1.0] * len(TIMES)), ("after", shares)):
        mixed = [text + share * (each - text) for share, each in zip(parts, both, strict=True)]
        found[f"right_{name}"] = [float((each.argmax(1) == labels).mean()) for each in mixed]
        found[f"cross_entropy_{name}"] = [float(cross_entropies(each, labels).mean()) for each in mixed]
    return found
