"""Says in numbers what each arm trains: networks, batches and steps at matched compute, and its signed run.

Matched as DDM does it (McAllister et al. 2025, arXiv 2501.05450): every expert makes as many optimizer steps
as the monolith, each with a K-th of its batch; the router's FLOPs come out of the experts' budget. FLOPs are
counted by torch, a forward and backward pass of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.ddm_vs_monolith.data import Bench
from bench.ddm_vs_monolith.flops import clip_flops
from bench.ddm_vs_monolith.settings import Arm, Scale
from paris_p2p.envelope import Envelope
from paris_p2p.errors import UsageError
from paris_p2p.identity import Identity
from paris_p2p.model.presets import (
    Config,
    count_parameters,
    expert_config,
    router_config,
)
from paris_p2p.records import BlobRef
from paris_p2p.spec import (
    ROUTER,
    GateSpec,
    LatentShape,
    NetworkSpec,
    Pinned,
    RunSpec,
    ShardRef,
    TextShape,
    TimingSpec,
    TrainingSpec,
    sign_run,
)
from paris_p2p.store.blob_files import hash_file

# the key of a run that nobody joins: the same one, so that the same settings make the same run
OWNER = bytes(32)


@dataclass(frozen=True)
class Plan:
    """Holds an arm's networks and what is spent on them."""

    arm: Arm
    experts: int
    expert: Config
    router: Config
    batch_clips: int  # of each expert
    router_batch_clips: int  # 0: no router
    steps: int  # of every slot
    expert_flops: int  # forward and backward, of one clip
    expert_forward_flops: int
    router_flops: int
    router_forward_flops: int
    expert_parameters: int
    router_parameters: int

    @property
    def slots(self) -> tuple[str, ...]:
        return (
            *(f"expert-{k}" for k in range(self.experts)),
            *((ROUTER,) if self.router_batch_clips else ()),
        )

    @property
    def clips(self) -> int:
        """Returns the clips that all experts saw together; the router sees others."""
        return self.steps * self.batch_clips * self.experts

    @property
    def flops(self) -> int:
        """Returns the FLOPs of the whole training."""
        return self.clips * self.expert_flops + self.steps * self.router_batch_clips * self.router_flops

    @property
    def router_share(self) -> float:
        return self.steps * self.router_batch_clips * self.router_flops / self.flops

    def describe(self) -> dict[str, Any]:
        return {
            "title": self.arm.title,
            "experts": self.experts,
            "parameters": self.experts * self.expert_parameters
            + (self.router_parameters if self.router_batch_clips else 0),
            "expert_parameters": self.expert_parameters,
            "router_parameters": self.router_parameters if self.router_batch_clips else 0,
            "batch_clips": self.batch_clips,
            "router_batch_clips": self.router_batch_clips,
            "steps": self.steps,
            "clips": self.clips,
            "flops": self.flops,
            "router_share": self.router_share,
            "expert_forward_flops": self.expert_forward_flops,
            "router_forward_flops": self.router_forward_flops if self.router_batch_clips else 0,
            "width": self.expert["width"],
            "depth": self.expert["depth"],
        }


def plan(scale: Scale, arm: Arm, latent: LatentShape, text: TextShape) -> Plan:
    """Returns the arm at this scale; UsageError when the monolith's batch cannot be shared out evenly."""
    experts = 1 if arm.partition == "union" else scale.experts
    if scale.batch_clips % scale.experts:
        raise UsageError(
            f"a batch of {scale.batch_clips} clips cannot be shared among {scale.experts} experts; "
            "choose a multiple"
        )
    small, router = expert_numbers(scale, scale.width, latent, text), router_numbers(scale, latent, text)
    expert = (
        expert_numbers(scale, total_width(scale, latent, text), latent, text)
        if arm.size == "total"
        else small
    )
    forward, flops = clip_flops(_key(expert), latent, text)
    router_forward, router_flops = clip_flops(_key(router), latent, text, router=True)
    small_flops = clip_flops(_key(small), latent, text)[1]
    budget = scale.steps * scale.batch_clips * small_flops
    batch, router_batch = _batches(scale, arm, experts, flops, small_flops, router_flops)
    a_step = experts * batch * flops + router_batch * router_flops
    steps = scale.steps if arm.budget == "clips" else budget // a_step
    return Plan(
        arm=arm,
        experts=experts,
        expert=expert,
        router=router,
        batch_clips=batch,
        router_batch_clips=router_batch,
        steps=steps,
        expert_flops=flops,
        expert_forward_flops=forward,
        router_flops=router_flops,
        router_forward_flops=router_forward,
        expert_parameters=count_parameters(expert),
        router_parameters=count_parameters(router, router=True),
    )


def _batches(
    scale: Scale, arm: Arm, experts: int, flops: int, small_flops: int, router_flops: int
) -> tuple[int, int]:
    """Returns the batches of (an expert, the router): the router has its share of FLOPs, large networks as
    many.
    """
    if arm.budget == "clips":
        return scale.batch_clips, 0
    whole = scale.batch_clips * small_flops  # FLOPs of a step
    if experts == 1:
        return max(1, round(whole / flops)), 0
    batch = scale.batch_clips if arm.split == "steps" else scale.batch_clips // experts
    share = scale.router_share / (1 - scale.router_share)
    return batch, max(1, round(experts * batch * flops * share / router_flops))


def expert_numbers(scale: Scale, width: int, latent: LatentShape, text: TextShape) -> Config:
    sizes: Config = {"width": width, "depth": scale.depth, "heads": scale.heads}
    return {**expert_config("nano", latent, text), **sizes, **_patch(scale)}


def router_numbers(scale: Scale, latent: LatentShape, text: TextShape) -> Config:
    sizes: Config = {
        "width": scale.router_width,
        "depth": scale.router_depth,
        "heads": max(1, scale.router_width // 16),
    }
    return {**router_config("nano", latent, text, scale.experts), **sizes, **_patch(scale)}


def _patch(scale: Scale) -> Config:
    return dict(zip(("patch_frames", "patch_height", "patch_width"), scale.patch, strict=True))


def total_width(scale: Scale, latent: LatentShape, text: TextShape) -> int:
    """Returns the width at which one network of the same depth has nearest to the parameters of all
    experts together.
    """
    wanted = scale.experts * count_parameters(expert_numbers(scale, scale.width, latent, text))
    step = 2 * scale.heads * (4 if scale.width >= 32 else 1)
    widths = range(scale.width, scale.experts * scale.width + 1, step)
    return min(
        widths, key=lambda width: abs(count_parameters(expert_numbers(scale, width, latent, text)) - wanted)
    )


def _key(config: Config) -> tuple[tuple[str, int | float | str | bool], ...]:
    return tuple(sorted(config.items()))


def run_of(bench: Bench, plan_: Plan, rng_seed: int, learning_rate: float, steps: int) -> Envelope[RunSpec]:
    """Signs an arm's run; RNG seed and settings are in its id, and so in its draws and initial weights."""
    prepared, scale = bench.prepared, bench.scale

    def refs(split: str) -> tuple[ShardRef, ...]:
        shards = bench.shards(plan_.arm.partition, "train" if split == "train" else "gate")
        return tuple(
            ShardRef(blob=_blob(path), clips=clips, cluster=cluster) for path, cluster, clips in shards
        )

    spec = RunSpec(
        name=f"{scale.runs or scale.name} {plan_.arm.name}",
        purpose="decentralized experts against one model",
        data_licence="made by the benchmark",
        weights_licence="Apache-2.0",
        created_at=0.0,
        rng_seed=rng_seed,
        clip=prepared.clip,
        latent=prepared.latent,
        codec=Pinned(
            name=prepared.codec.name, revision=prepared.codec.revision, sha256=prepared.codec.sha256
        ),
        text=Pinned(name=prepared.text.name, revision=prepared.text.revision, sha256=prepared.text.sha256),
        text_shape=prepared.text_shape,
        experts=plan_.experts,
        expert=NetworkSpec(preset="bench", config=plan_.expert),
        router=NetworkSpec(preset="bench", config={**plan_.router, "experts": plan_.experts}),
        training=TrainingSpec(
            batch_clips=plan_.batch_clips,
            learning_rate=learning_rate,
            warmup_steps=min(scale.warmup_steps, max(1, steps // 10)),
            total_steps=steps,
            decay_steps=max(1, round(scale.decay_share * steps)),
            ema_decay=scale.ema_decay,
            router_batch_clips=max(1, plan_.router_batch_clips),
            router_learning_rate=scale.router_learning_rate,
        ),
        gate=GateSpec(),
        timing=TimingSpec(),
        train_shards=refs("train"),
        gate_shards=refs("gate"),
    )
    return sign_run(Identity.from_private_bytes(OWNER), spec)


@lru_cache(maxsize=4096)
def _blob(path: Path) -> BlobRef:
    manifest = hash_file(path)
    return BlobRef(id=manifest.blob_id, size_bytes=manifest.size_bytes)
