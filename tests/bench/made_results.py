"""Makes results that nobody trained for, with distances that can be said beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.ddm_vs_monolith.jobs import Job, graph
from bench.ddm_vs_monolith.results import Clock, Results
from bench.ddm_vs_monolith.settings import CORE, ROUND_3, Sampling

CLIPS, SOURCES, PROBED, COMPONENTS, STEPS, SEEDS = 60, 12, 80, 4, 3, (0, 1)
SWEEP = Sampling(arm="monolith", name="one-steps-3", steps=3, first_seed=True)
SCALE = CORE.model_copy(
    update={
        "name": "made",
        "rng_seeds": SEEDS,
        "kept_clips": 2,
        "test_clips": CLIPS,
        "curve_points": 3,
        "samplings": (*CORE.samplings, *ROUND_3, SWEEP),
    }
)
# how far an arm's features are shifted
FAR = {"experts": 1.0, "monolith": 2.0, "monolith-total": 3.0, "random": 4.0}


def made_results(folder: Path) -> Results:
    results = Results(folder)
    rng = np.random.default_rng(0)
    real, probed = rng.standard_normal((CLIPS, COMPONENTS)), rng.standard_normal((PROBED, COMPONENTS))
    for job in graph(SCALE):
        values, arrays = _job(job, real, probed)
        results.write(job.name, values, Clock(), arrays)
    return results


def _job(
    job: Job, real: NDArray[Any], probed: NDArray[Any]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if job.kind in ("trial", "guidance"):
        return {"loss": float(job.words[1])}, {}  # the smallest is the best
    if job.kind == "train":
        return _trained(job), {}
    if job.kind == "networks":
        return _networks(job.words[0])
    if job.kind == "known":
        return {"probe": _labels(probed[:, 0], "train")}, {}
    if job.kind == "test":
        sides = {"real": real, "codec": real + 0.1}
        arrays = {
            f"{side}.{key}": value for side, some in sides.items() for key, value in _measured(some).items()
        }
        known = {f"probe.features.{network}": probed.astype(np.float16) for network in SCALE.features}
        return {
            "clips": CLIPS,
            "test": _labels(real[:, 0], "test"),
            "captions": ["a <b>", "c"],
        }, arrays | known
    if job.kind == "sample":
        values = {
            "guidance": 1.0,
            "steps": STEPS,
            "experts_per_step": 1.0,
            "flops_per_clip": 1e9,
            "seconds_per_clip": 0.1,
        }
        routing = np.full((3, STEPS, 3), 1 / 3)
        arrays = _measured(real + FAR[job.words[0]])
        if not SCALE.is_pictured(SCALE.sampling(job.words[0], job.words[2]), int(job.words[1])):
            del arrays["pictures"]
        return {**values, "routing": routing}, arrays
    return {"clips": {}}, {}


def _measured(features: NDArray[Any]) -> dict[str, NDArray[Any]]:
    table = {f"features.{network}": features.astype(np.float32) for network in SCALE.features}
    return {**table, "motion": np.abs(features[:, 0]) + 1, "pictures": np.zeros((2, 4, 8, 8, 3), np.uint8)}


def _labels(values: NDArray[Any], name: str) -> dict[str, Any]:
    """Labels brightness by the sign of a number; nothing else is mentioned."""
    count = len(values)
    return {
        "sources": [f"{name}-{number % SOURCES}" for number in range(count)],
        "domains": ["day" if value > 0.3 else "night" for value in values],
        "scenes": ["s"] * count,
        "attributes": {"brightness": ["bright" if value > 0 else "dark" for value in values]},
        "mentioned": [["brightness"]] * count,
    }


def _trained(job: Job) -> dict[str, Any]:
    points = [
        {"steps": 10 * n, "clips": 160 * n, "train_loss": 1.0, "loss": [1.0 / n, 2.0 / n, 3.0 / n]}
        for n in (1, 2, 3)
    ]
    return {"curve": points, "shares": [0.5, 0.3, 0.2], "learning_rate": 1e-3}


def _networks(arm: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    experts = 1 if arm.startswith("monolith") else 3
    plan = {
        "title": arm,
        "experts": experts,
        "expert_parameters": 10,
        "router_parameters": 5,
        "batch_clips": 16,
        "router_batch_clips": 4,
    }
    plan |= {"steps": 30, "clips": 480 * experts, "flops": 10**12, "router_share": 0.04}
    values: dict[str, Any] = {"plan": plan, "losses": [[1.0, 2.0, 3.0]] * experts}
    if arm != "experts":
        return values, {}
    answers = np.tile(np.eye(3)[np.arange(6) % 3], (2, 1, 1)).astype(np.float16)
    row = {"accuracy": [0.5, 1.0], "calibration_error": 0.1}
    values["router"] = {"times": [1.0, 0.5], **dict.fromkeys(("both", "latent", "text"), row)}
    return values, {"clusters": np.arange(6) % 3, "answers.both": answers}
