"""Measures an arm's loss on validation clips as its samples are routed, and tells arms apart by it.

The networks of rounds 1 to 3 were measured with each cluster's own expert alone, and are not kept.
Legend: N validation clips, S times. t = 1 is noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.ddm_vs_monolith.arms import Plan
from bench.ddm_vs_monolith.data import Bench, sizes
from bench.ddm_vs_monolith.findings import Findings
from bench.ddm_vs_monolith.sample_job import arm_pool, arm_router
from bench.ddm_vs_monolith.train_job import Validation
from bench.when_experts_win.losses import TIMES
from bench.when_experts_win.product_arms import Arm
from bench.when_experts_win.product_losses import Looked, arm_losses
from paris_p2p.device import pick_device
from paris_p2p.flow.condition import Condition
from paris_p2p.score.page import Table
from paris_p2p.spec import ROUTER

PREFIX = "loss."  # of the arrays
WORDS = {
    "": "one network",
    "told": "told the cluster",
    "top-1": "routed, the most probable",
    "full": "routed, all by the posterior",
}


def routed_losses(bench: Bench, plan_: Plan, rng_seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the mean losses of each way to route at each time, and for each clip its losses [S N]."""
    device = pick_device()
    batch = Validation.batch_of(bench).to(device.torch)
    condition = Condition(batch.tokens.float(), batch.mask, batch.pooled.float())
    looked = Looked(batch.latent.float(), batch.noise, condition, batch.cluster)
    routed = ROUTER in plan_.slots and plan_.arm.partition == "clusters"
    counts = torch.tensor(sizes(bench, plan_.arm.partition), dtype=torch.float64)
    arm = Arm(
        arm_pool(bench, plan_, rng_seed, device),
        plan_.experts,
        arm_router(bench, plan_, rng_seed, device) if routed else None,
        counts / counts.sum(),
    )
    found = arm_losses(arm, looked)
    values = {"times": list(TIMES), "by_time": {name: each.mean(1).tolist() for name, each in found.items()}}
    return values, {f"{PREFIX}{name}": each.numpy().astype(np.float16) for name, each in found.items()}


def routed_table(findings: Findings) -> Table:
    """Returns each way's loss and what it is above the monolith's; without rows for networks of rounds that
    did not measure it.
    """
    rows = []
    base = _losses(findings, "monolith").get("")
    for arm in findings.plans():
        for name, losses in _losses(findings, arm).items():
            over = "" if base is None or (arm, name) == ("monolith", "") else _over(losses, base)
            rows.append((arm, WORDS[name], f"{losses.mean():.4f}", over))
    note = (
        "Means over ten times and the first seed's validation clips, the same noise for all; less the "
        "monolith's clip by clip, with 95 % intervals over clips."
    )
    columns = ("arm", "experts are", "loss", "less the monolith's")
    return Table("Held-out loss, told and through the router", columns, tuple(rows), note, text_columns=2)


def _over(losses: NDArray[np.float64], base: NDArray[np.float64]) -> str:
    difference = (losses - base).mean(0)  # N
    error = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
    mean = difference.mean()
    return f"{mean:.4f} ({mean - error:.4f} to {mean + error:.4f})"


def _losses(findings: Findings, arm: str) -> dict[str, NDArray[np.float64]]:
    results = findings.comparison.results
    job = f"networks/{arm}/{findings.comparison.scale.rng_seeds[0]}"
    if not results.has(job) or "routed" not in results.values(job):
        return {}
    arrays = results.arrays(job)
    return {
        name.removeprefix(PREFIX): each.astype(np.float64)
        for name, each in arrays.items()
        if name.startswith(PREFIX)
    }
