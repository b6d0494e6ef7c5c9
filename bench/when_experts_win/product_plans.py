"""Says in numbers what each arm trains: networks, batches and steps of equal operations.

As DDM does it (McAllister et al. 2025, arXiv 2501.05450): each expert makes as many steps as one model, with
1/K of its batch, and the router's operations come off the experts' steps. A seed model's steps count for
every arm. Operations are FLOPs of a forward and backward pass, as torch counts them.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from bench.ddm_vs_monolith.flops import clip_flops
from bench.when_experts_win.product_set import About
from bench.when_experts_win.product_stages import ProductStage
from paris_p2p.model.presets import Config, count_parameters, expert_config, router_config
from paris_p2p.spec import (
    ROUTER,
    GateSpec,
    NetworkSpec,
    Pinned,
    RunSpec,
    TextShape,
    TimingSpec,
    TrainingSpec,
)

WIDTH_STEP = 8
HEAD_WIDTH = 16
TRIPLE = 3


@dataclass(frozen=True)
class Setting:
    """Holds what all plans of a stage come from."""

    stage: ProductStage
    about: About
    train_clips: int
    width: int  # of an expert

    @cached_property
    def all_steps(self) -> int:
        """Returns the steps of one model, a seed model's included: each clip is seen `passes` times."""
        return int(self.stage.passes * self.train_clips / self.stage.batch)

    @cached_property
    def seed_steps(self) -> int:
        return round(self.stage.seed_share * self.all_steps)

    @cached_property
    def steps(self) -> int:
        """Returns the steps of one model after the seed model's."""
        return self.all_steps - self.seed_steps

    @cached_property
    def budget(self) -> int:
        """Returns the operations of an arm, after the seed model's."""
        return self.steps * self.stage.batch * self.flops(self.expert(self.width))

    def expert(self, width: int) -> Config:
        """Returns the numbers of an expert of a width: the product's, with the gate that lets noise pass."""
        numbers = expert_config("nano", self.about.latent, self.about.text, time_skip=True)
        heads = max(1, width // HEAD_WIDTH)
        if width % heads or (width // heads) % 2:  # a head's width must be even
            heads = 1
        return {**numbers, "width": width, "depth": self.stage.depth, "heads": heads, **self._patch()}

    def router(self) -> Config:
        numbers = router_config("nano", self.about.latent, self.about.text, self.about.clusters)
        width, depth = self.stage.router_width, self.stage.router_depth
        return {**numbers, "width": width, "depth": depth, "heads": max(1, width // 16), **self._patch()}

    def wider(self, times: int) -> int:
        """Returns the width whose parameters are nearest to `times` those of an expert."""
        wanted = times * count_parameters(self.expert(self.width))
        widths = range(self.width, times * self.width + 1, WIDTH_STEP)
        above = bisect_left(widths, wanted, key=lambda width: count_parameters(self.expert(width)))
        near = widths[max(0, above - 1) : above + 1]
        return min(near, key=lambda width: abs(count_parameters(self.expert(width)) - wanted))

    def flops(self, config: Config, *, router: bool = False, tokens: int = 0) -> int:
        """Returns a clip's FLOPs, with so many text tokens beside the caption's."""
        text = self.about.text
        seen = TextShape(tokens=text.tokens + tokens, dim=text.dim, pooled_dim=text.pooled_dim)
        return clip_flops(tuple(sorted(config.items())), self.about.latent, seen, router=router)[1]

    def _patch(self) -> Config:
        return dict(zip(("patch_frames", "patch_height", "patch_width"), self.stage.patch, strict=True))


@dataclass(frozen=True)
class ArmPlan:
    """Holds an arm's networks and what is spent on them."""

    arm: str
    networks: int
    expert: Config
    router: Config | None
    batch: int  # of each network
    router_batch: int
    steps: int
    flops: int  # of all its training after the seed model's

    @property
    def slots(self) -> tuple[str, ...]:
        """Returns what is trained, by the product's names of slots."""
        return (*(f"expert-{k}" for k in range(self.networks)), *((ROUTER,) if self.router else ()))

    @property
    def clips(self) -> int:
        """Returns how many clips its experts saw together, with repetition."""
        return self.steps * self.batch * self.networks

    def describe(self) -> dict[str, int]:
        return {
            "networks": self.networks,
            "width": int(self.expert["width"]),
            "parameters": count_parameters(self.expert),
            "router_parameters": count_parameters(self.router, router=True) if self.router else 0,
            "batch": self.batch,
            "router_batch": self.router_batch,
            "steps": self.steps,
            "clips": self.clips,
            "flops": self.flops,
        }


def plan_of(setting: Setting, arm: str) -> ArmPlan:
    """Returns what an arm trains; all but `triple`, which sees as many clips as one model, cost alike."""
    stage, experts = setting.stage, setting.about.clusters
    small = setting.expert(setting.width)
    if arm in ("experts", "random"):
        return _experts(setting, arm, experts, small)
    if arm == "triple":
        config = setting.expert(setting.wider(TRIPLE))
        batch, steps = stage.batch, setting.steps
    elif arm == "total":
        config = setting.expert(setting.wider(experts))
        batch = max(1, round(stage.batch * setting.flops(small) / setting.flops(config)))
        steps = setting.budget // (batch * setting.flops(config))
    else:  # one model; what tells it the cluster is a token more
        config, batch = small, stage.batch
        steps = setting.budget // (batch * setting.flops(config, tokens=int(arm == "told")))
    flops = steps * batch * setting.flops(config, tokens=int(arm == "told"))
    return ArmPlan(arm, 1, config, None, batch, 0, steps, flops)


def _experts(setting: Setting, arm: str, experts: int, config: Config) -> ArmPlan:
    """Returns the plan of K experts; those of random parts need no router, whose share is kept off too."""
    stage, router = setting.stage, setting.router()
    batch, share = stage.batch // experts, stage.router_share / (1 - stage.router_share)
    a_clip, asked = setting.flops(config), setting.flops(router, router=True)
    router_batch = max(1, round(experts * batch * a_clip * share / asked))
    a_step = experts * batch * a_clip + router_batch * asked
    steps = setting.budget // a_step
    has_router = arm == "experts"
    flops = steps * (a_step if has_router else experts * batch * a_clip)
    return ArmPlan(arm, experts, config, router if has_router else None, batch, router_batch, steps, flops)


def seed_plan(setting: Setting) -> ArmPlan:
    """Returns the plan of the seed model, from which every arm goes on."""
    config, batch = setting.expert(setting.width), setting.stage.batch
    flops = setting.seed_steps * batch * setting.flops(config)
    return ArmPlan("seed", 1, config, None, batch, 0, setting.seed_steps, flops)


def run_of(setting: Setting, plan: ArmPlan, rate: float, steps: int) -> RunSpec:
    """Returns the run that an arm's networks are slots of; it names no shards, for clips come from memory."""
    stage, about = setting.stage, setting.about
    is_seed = plan.arm == "seed"  # its rate does not decay: others go on from it
    return RunSpec(
        name=f"{stage.name} {plan.arm}",
        purpose="when do experts win",
        data_licence="made by the benchmark",
        weights_licence="Apache-2.0",
        created_at=0.0,
        rng_seed=0,
        clip=about.clip,
        latent=about.latent,
        codec=Pinned(name="pca"),
        text=Pinned(name="minilm"),
        text_shape=about.text,
        experts=plan.networks,
        expert=NetworkSpec(preset="bench", config=plan.expert),
        router=NetworkSpec(preset="bench", config=plan.router or setting.router()),
        training=TrainingSpec(
            batch_clips=plan.batch,
            learning_rate=rate,
            warmup_steps=min(stage.warmup_steps, max(1, steps // 10)),
            total_steps=0 if is_seed else steps,
            decay_steps=0 if is_seed else max(1, round(stage.decay_share * steps)),
            ema_decay=stage.average,
            # a told model's captions are dropped where its batches are made: it keeps the cluster
            caption_dropout=0.0 if plan.arm == "told" else stage.caption_dropout,
            router_batch_clips=max(1, plan.router_batch),
            router_learning_rate=stage.router_rate,
        ),
        gate=GateSpec(),
        timing=TimingSpec(),
        train_shards=(),
        gate_shards=(),
    )
