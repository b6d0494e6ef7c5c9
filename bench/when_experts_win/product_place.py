"""Opens what a job of the stages with the product's networks needs: set, device, plans, and earlier results.

A process opens them once and does many jobs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from bench.ddm_vs_monolith.dealing import deal_groups
from bench.when_experts_win.product_arms import Arm, SamePool, ToldPool, seated, shares_of_parts
from bench.when_experts_win.product_judging import Judge, Looker, lookers
from bench.when_experts_win.product_losses import Looked, calibrate
from bench.when_experts_win.product_plans import ArmPlan, Setting, plan_of, seed_plan
from bench.when_experts_win.product_set import SET_FILE, TRAIN, VALIDATION, load, mixed, read_about
from bench.when_experts_win.product_stages import ProductStage, product_stage_of
from bench.when_experts_win.product_training import Material, read_weights, seed_of
from paris_p2p.device import Device, pick_device
from paris_p2p.errors import UsageError
from paris_p2p.model.calibration import knot_times
from paris_p2p.model.presets import build_router
from paris_p2p.model.router import Router

LOOKED = "looked.safetensors"
SHARED_RATES = {"told": "monolith", "random": "experts"}  # whose rate such an arm has


@dataclass(frozen=True)
class Place:
    """Says where a stage is played: its set, its results, its work, which may be deleted, and the device."""

    stage: str
    set: Path
    results: Path
    work: Path
    device: str = "auto"

    def result(self, job: str) -> Path:
        return self.results / self.stage / f"{job}.json"

    def values(self, job: str) -> dict[str, Any]:
        """Returns what came of a job; UsageError when it has no result."""
        try:
            found: dict[str, Any] = json.loads(self.result(job).read_text())
        except FileNotFoundError as error:
            raise UsageError(f"{self.result(job)} is not here: that job comes first") from error
        return found

    @property
    def looked(self) -> Path:
        """Returns the file with what the feature networks said of the set's real clips."""
        return self.work / self.stage / f"{self.set.name}.{LOOKED}"

    def weights(self, *names: object) -> Path:
        return self.work / self.stage / "train" / f"{'.'.join(map(str, names))}.safetensors"


@cache
def opened(place: Place) -> Opened:
    """Returns what a process works with, opened once."""
    return Opened(place)


def device_of(name: str) -> Device:
    """Returns the device to compute on: a GPU multiplies float32 with TF32, which needs fewer kernels for
    small networks than casts to bfloat16 do.
    """
    device = pick_device(name)
    if device.cuda:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = False  # what looks at clips answers as it does on a CPU
        return Device(device.torch, False)
    return device


class Opened:
    """Holds a stage's set on a device, and finds plans, rates and trained arms by its results."""

    def __init__(self, place: Place):
        self.place, self.stage = place, product_stage_of(place.stage)
        self.device = device_of(place.device)
        self.made = load(place.set)
        self.set_sha256 = hashlib.sha256((place.set / SET_FILE).read_bytes()).hexdigest()

    @cached_property
    def material(self) -> Material:
        return Material.of(self.made, self.device)

    @cached_property
    def codec(self) -> Any:
        return self.made.codec(str(self.device))

    @cached_property
    def looking(self) -> dict[str, Looker]:
        return lookers(self.stage.networks, str(self.device))

    @cached_property
    def judge(self) -> Judge:
        """Returns what judges clips, with what the feature networks said of real ones."""
        looked = self.place.looked
        if not looked.exists():
            stale = self.place.result("looked*")
            raise UsageError(f"{looked} is not here: delete {stale} and run again")
        return Judge(self.stage, replace(self.made, real={**self.made.real, **load_file(looked)}))

    @cached_property
    def width(self) -> int:
        return chosen_width(self.stage, self.place)

    def setting(self, width: int = 0) -> Setting:
        return Setting(self.stage, self.made.about, len(self.train_rows), width or self.width)

    def plan(self, arm: str) -> ArmPlan:
        return seed_plan(self.setting()) if arm == "seed" else plan_of(self.setting(), arm)

    @cached_property
    def train_rows(self) -> Tensor:
        return self.made.rows(TRAIN)

    @cached_property
    def validation_rows(self) -> Tensor:
        """Returns the clips to validate on, their kinds mixed."""
        rows = self.made.rows(VALIDATION)
        return rows[torch.from_numpy(mixed(len(rows)))]

    def rate(self, arm: str) -> float:
        return chosen_rate(self.stage, self.place, SHARED_RATES.get(arm, arm))

    def guidance(self, arm: str) -> float:
        """Returns the guidance that an arm's trials chose: the one nearest to validation clips."""
        tried = {g: self.place.values(f"guidance-{arm}-{g:g}")["mean_log"] for g in self.stage.guidances}
        return min(tried, key=lambda guidance: tried[guidance])

    def parts(self, arm: str, seed: int) -> NDArray[np.int64]:
        """Returns the part of each clip to train on: its cluster, or a random one by whole sources."""
        cluster = self.made.cluster[self.train_rows].numpy().astype(np.int64)
        if arm != "random":
            return cluster
        sources = [str(source) for source in self.made.source[self.train_rows].tolist()]
        wanted = np.bincount(cluster, minlength=self.made.about.clusters)
        rng = np.random.default_rng(seed_of(self.stage.name, seed, "parts"))
        return deal_groups(sources, wanted.tolist(), rng)

    def rows_of(self, arm: str, slot: str, seed: int) -> Tensor:
        """Returns the clips that a slot learns from."""
        if arm not in ("experts", "random") or slot == "router":
            return self.train_rows
        number = int(slot.removeprefix("expert-"))
        return self.train_rows[torch.from_numpy(self.parts(arm, seed) == number)]

    def arm(self, name: str, seed: int) -> Arm:
        """Returns an arm with the networks of a seed; a told model has the experts' router."""
        plan, count = self.plan(name), self.made.about.clusters
        paths = [self.place.weights(seed, name, f"expert-{k}") for k in range(plan.networks)]
        pool = seated(plan, paths, self.device)
        earlier = None
        if self.stage.seed_share:
            earlier = SamePool(seated(plan, [self.place.weights(seed, "seed", "expert-0")], self.device))
        if name in ("experts", "told"):
            prior = shares_of_parts(self.made.cluster[self.train_rows], count)
            router = self.router(seed)
            told_pool = ToldPool(pool, self.material.names) if name == "told" else pool
            return Arm(told_pool, count, router, prior, earlier)
        parts = torch.from_numpy(self.parts(name, seed)) if name == "random" else torch.zeros(1)
        return Arm(pool, plan.networks, None, shares_of_parts(parts, plan.networks), earlier)

    def router(self, seed: int) -> Router:
        """Returns the experts' router, calibrated on validation clips."""
        config = self.setting().router()
        router = build_router(config)
        router.load_state_dict(
            read_weights(config, self.place.weights(seed, "experts", "router"), router=True)
        )
        router.requires_grad_(False).eval().to(self.device.torch)
        rows = self.validation_rows[: self.stage.calibration_clips]
        calibrate(router, Looked.at(self.material, rows), knot_times())
        return router

    def keep_looked(self, real: Mapping[str, NDArray[Any]]) -> None:
        """Keeps what the feature networks said of real clips, for all processes."""
        path = self.place.looked
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(values) for name, values in real.items()}, path)


def chosen_width(stage: ProductStage, place: Place) -> int:
    """Returns the width that the pilot's rule chooses: the largest at which a network three times as large
    ends lower by `enough` at as many clips; where there is none, the smallest.
    """
    if len(stage.widths) == 1:
        return stage.widths[0]
    found = [width for width in stage.widths if pilot_gain(place, width) >= stage.enough]
    return max(found, default=min(stage.widths))


def pilot_gain(place: Place, width: int) -> float:
    """Returns by which share the loss of a network three times as large is lower."""
    small, large = (place.values(f"pilot-{width}-{times}")["loss"] for times in (1, 3))
    return float(1 - large / small)


def chosen_rate(stage: ProductStage, place: Place, arm: str) -> float:
    """Returns the rate with the lowest validation loss; of experts each is judged on its own cluster."""
    return best_rate({
        rate: [place.values(job) for job in rate_jobs(stage, place, arm, rate)] for rate in stage.rates
    })  # fmt: skip


def rate_jobs(stage: ProductStage, place: Place, arm: str, rate: float) -> list[str]:
    """Returns the names of the trials of an arm at a rate."""
    name = f"rate-{arm}-{rate:g}"
    if arm != "experts":
        return [name]
    return [f"{name}-{k}" for k in range(place_clusters(place.set))]


@cache
def place_clusters(folder: Path) -> int:
    """Returns how many clusters a set has, without reading its clips."""
    return read_about(folder).clusters


def best_rate(tried: Mapping[float, list[dict[str, Any]]]) -> float:
    """Returns the rate whose trials have the lowest loss over all clips; UsageError where all diverged."""
    losses = {
        rate: sum(one["loss"] * one["judged"] for one in trials) / sum(one["judged"] for one in trials)
        for rate, trials in tried.items()
        if all(one["loss"] is not None for one in trials)
    }
    if not losses:
        raise UsageError(f"training diverged at every rate that was tried: {[*tried]}; try lower ones")
    return min(losses, key=lambda rate: losses[rate])
