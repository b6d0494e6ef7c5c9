"""Trains one slot by the product's trainer and measures its held-out loss; a broken-off job goes on.

Every curve point is a checkpoint, and its averaged weights are measured on the same validation clips, noise
and times for every arm.
Legend: N validation clips, B a batch of them, K clusters. t = 1 is noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.ddm_vs_monolith.arms import Plan, plan, run_of
from bench.ddm_vs_monolith.data import Bench, HeldOut
from paris_p2p.data.batches import Batch, Draws, assemble
from paris_p2p.device import Device, pick_device, set_threads
from paris_p2p.envelope import Envelope
from paris_p2p.errors import TrainError
from paris_p2p.model.checkpoint import load_weights_into
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.messages import CheckpointReady, Command, Event, Started, StepEvent, TrainJob
from paris_p2p.training.objective import batch_clips, build_network, expert_losses, router_losses, times
from paris_p2p.training.train import train

PART_CLIPS = 32
RUN_FILE, CURVE_FILE = "run.spec", "curve.jsonl"


@dataclass
class Validation:
    """Holds fixed clips, noise and times, the same for every arm; times are stratified."""

    batch: Batch
    t: Tensor  # [N]
    cluster: Tensor  # [N], the data's own clusters, whatever the arm's partition is
    clusters: int

    @classmethod
    def of(cls, bench: Bench, spec: RunSpec) -> Validation:
        batch = cls.batch_of(bench)
        order = torch.from_numpy(Draws.of("ddm-vs-monolith", "times").order(0, len(batch)))
        slices = (order + batch.uniforms[:, 0]) / len(batch)
        return cls(
            batch, times(spec, "expert-0", torch.special.ndtri(slices)), batch.cluster, bench.scale.experts
        )

    @staticmethod
    def batch_of(bench: Bench) -> Batch:
        held = HeldOut(bench, "validation")
        return assemble(
            held.set, held.pick(bench.scale.validation_clips), Draws.of("ddm-vs-monolith", "validation"), 0
        )

    def losses(self, network: nn.Module, slot: str, device: Device) -> list[float]:
        """Returns the mean loss on each cluster's clips: [K]."""
        parts = []
        for start in range(0, len(self.batch), PART_CLIPS):
            part, t = (
                self.batch.part(start, start + PART_CLIPS).to(device.torch),
                self.t[start : start + PART_CLIPS].to(device.torch),
            )
            with torch.no_grad(), device.autocast():
                parts.append(
                    (
                        router_losses(network, part, t)
                        if slot == ROUTER
                        else expert_losses(network, part, t, part.mask)
                    ).cpu()
                )
        losses = torch.cat(parts).double()
        return [float(losses[self.cluster == k].mean()) for k in range(self.clusters)]

    @property
    def shares(self) -> list[float]:
        """Returns the share of the validation clips in each cluster."""
        return [float((self.cluster == k).double().mean()) for k in range(self.clusters)]


@dataclass
class Watch:
    """Asks for a checkpoint at every curve point and measures it when it comes."""

    folder: Path
    measure: Callable[[Path], list[float]]
    every_steps: int
    steps: int = 0
    seen: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)

    def next_command(self) -> Command | None:
        self.steps += 1
        return Command(command="checkpoint") if self.steps % self.every_steps == 0 else None

    def emit(self, event: Event) -> None:
        if isinstance(event, Started):
            self.steps = event.steps
            self.seen.update(parameters=event.parameters, precision=event.precision, device=event.device)
            self.curve = [row for row in _read_curve(self.folder) if row["steps"] <= event.steps]
        elif isinstance(event, StepEvent):
            self.seen.update(clips_per_s=event.clips_per_s, wait_share=event.wait_share)
        elif isinstance(event, CheckpointReady):
            row = {
                "steps": event.steps,
                "clips": event.clips,
                "train_loss": event.train_loss,
                "loss": self.measure(event.weights_path),
            }
            self.curve.append(row)
            (self.folder / CURVE_FILE).write_text("".join(json.dumps(row) + "\n" for row in self.curve))
            for path in self.folder.glob("*.safetensors"):
                if path not in (event.weights_path, event.resume_path):
                    path.unlink()


def train_slot(bench: Bench, plan_: Plan, run: Envelope[RunSpec], slot: str, folder: Path) -> dict[str, Any]:
    """Trains a slot to its last step in `folder`, from its last checkpoint there if it has one."""
    set_threads(bench.threads)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN_FILE).write_bytes(run.data)
    spec, device = run.record, pick_device()
    network = build_network(run.id, spec, slot).to(device.torch).eval()
    validation = Validation.of(bench, spec)

    def measure(weights: Path) -> list[float]:
        load_weights_into(weights, dict(network.named_parameters()))
        if slot == ROUTER and plan_.arm.partition == "random":
            return []  # its parts are not the clusters
        return validation.losses(network, slot, device)

    watch = Watch(folder, measure, max(1, spec.training.total_steps // bench.scale.curve_points))
    train(_job(bench, plan_, run, slot, folder), watch.emit, watch.next_command)
    if not watch.curve or watch.curve[-1]["steps"] != spec.training.total_steps:
        raise TrainError(
            f"{slot} ended at {watch.curve[-1:]}, not at step {spec.training.total_steps}; "
            f"delete {folder} and run it again"
        )
    return {"slot": slot, "run": run.id, "curve": watch.curve, "shares": validation.shares, **watch.seen}


def train_job(bench: Bench, arm: str, rng_seed: int, slot: str, learning_rate: float) -> dict[str, Any]:
    """Trains one slot of an arm, with the learning rate that its trials chose."""
    plan_ = plan_of(bench, arm)
    run = run_of(bench, plan_, rng_seed, learning_rate, plan_.steps)
    done = train_slot(bench, plan_, run, slot, slot_folder(bench, arm, rng_seed, slot))
    return {**done, "learning_rate": learning_rate}


def trial_job(bench: Bench, arm: str, learning_rate: float) -> dict[str, Any]:
    """Trains an arm's experts shortly at one learning rate, and returns the loss on the validation split."""
    plan_ = plan_of(bench, arm)
    steps = max(2, round(plan_.steps * bench.scale.trial_share))
    run = run_of(bench, plan_, 0, learning_rate, steps)
    done = [
        train_slot(bench, plan_, run, slot, bench.work / "trials" / arm / f"{learning_rate:g}" / slot)
        for slot in plan_.slots
        if slot != ROUTER
    ]
    return {"learning_rate": learning_rate, "steps": steps, "loss": arm_loss(plan_, done)}


def arm_loss(plan_: Plan, done: list[dict[str, Any]], point: int = -1) -> float:
    """Returns an arm's validation loss: each cluster by its own expert, or by the mean of experts of none."""
    shares = done[0]["shares"]
    by_slot = [row["curve"][point]["loss"] for row in done]
    if plan_.arm.partition == "clusters":
        return float(sum(share * by_slot[k][k] for k, share in enumerate(shares)))
    return float(
        sum(share * sum(losses[k] for losses in by_slot) / len(by_slot) for k, share in enumerate(shares))
    )


def plan_of(bench: Bench, arm: str) -> Plan:
    return plan(bench.scale, bench.scale.arm(arm), bench.prepared.latent, bench.prepared.text_shape)


def slot_folder(bench: Bench, arm: str, rng_seed: int, slot: str) -> Path:
    return bench.work / "train" / arm / f"seed-{rng_seed}" / slot


def weights_path(folder: Path) -> Path:
    """Returns the last checkpoint's averaged weights."""
    found = sorted(folder.glob("weights-*.safetensors"))
    if not found:
        raise TrainError(f"{folder} holds no weights; run its training job first")
    return found[-1]


def _job(bench: Bench, plan_: Plan, run: Envelope[RunSpec], slot: str, folder: Path) -> TrainJob:
    shards = [s for s in bench.shards(plan_.arm.partition, "train") if slot in (ROUTER, f"expert-{s[1]}")]
    resume = _resume(folder, batch_clips(run.record, slot))
    return TrainJob(
        run=run.id,
        slot=slot,
        spec_path=folder / RUN_FILE,
        shard_paths=tuple(path for path, _, _ in shards),
        shard_clusters=tuple(cluster for _, cluster, _ in shards),
        threads=bench.threads,
        out_dir=folder,
        checkpoint_s=0,
        **resume,
    )


def _resume(folder: Path, a_step_clips: int) -> dict[str, Any]:
    """Returns the last checkpoint that was measured; one that was written and not measured is made again."""
    curve = _read_curve(folder)
    if not curve:
        return {}
    steps = curve[-1]["steps"]
    path = folder / f"resume-{steps:09}.safetensors"
    return (
        {"resume_path": path, "resume_steps": steps, "resume_clips": steps * a_step_clips}
        if path.exists()
        else {}
    )


def _read_curve(folder: Path) -> list[dict[str, Any]]:
    path = folder / CURVE_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
