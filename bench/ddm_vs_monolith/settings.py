"""Lists what is compared and how large it is: arms, samplings and scales; `full` is `core` with more rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Partition = Literal["clusters", "union", "random"]
Inputs = Literal["both", "latent", "text"]
Positive = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(Settings):
    """Describes one way to spend the same training compute on the same clips."""

    name: str
    title: str
    partition: Partition
    size: Literal["expert", "total"] = "expert"  # of one network: an expert's, or that of all K together
    budget: Literal["flops", "clips"] = "flops"  # what is matched: the training FLOPs, or the clips seen
    split: Literal["batch", "steps"] = "batch"  # what an expert gets a K-th of


class Sampling(Settings):
    """Says how clips are made with an arm's networks."""

    arm: str
    name: str
    routing: Literal["top_k", "full", "threshold", "uniform", "prior", "oracle", "single"] = "single"
    top_k: Positive = 1
    threshold: float = 0.1
    expert: int = 0  # of `single`
    inputs: Inputs = "both"  # what the router sees
    form: Literal["per_expert", "exact"] = "per_expert"
    guidance: float = 0.0  # 0: the one that the arm's trials chose
    steps: int = 0  # 0: the scale's
    first_seed: bool = False  # made with the first seed's networks alone: a sweep, not a comparison of arms


class Scale(Settings):
    """Holds everything that a run of the comparison needs to know."""

    name: str
    # the scale whose runs these are too: the same id, draws and weights where all that trains is alike
    runs: str = ""
    experts: Positive = 3
    clips: Positive  # made; VizDoom, Crafter and Meta-World a third each
    frames: Positive = 8
    side_pixels: Positive = 64
    fps: float = 16.0
    codec: str = "pca"
    pca: tuple[int, int] = (8, 16)  # patch side, channels
    text_tokens: Positive = 20
    test_clips: Positive = 1000
    validation_clips: Positive = 384
    probe_clips: Positive = 1200  # train clips that the fidelity probe is fitted on
    width: Positive = 64
    depth: Positive = 4
    heads: Positive = 2
    patch: tuple[int, int, int] = (2, 2, 2)  # latent frames, rows, columns that become one token
    router_width: Positive = 32
    router_depth: Positive = 2
    batch_clips: Positive = 48  # the monolith's; divisible by the experts
    steps: Positive  # the monolith's
    router_share: float = 0.04  # of the experts' training FLOPs
    warmup_steps: Positive = 100
    decay_share: float = 0.25  # of the steps, at the end: linear to zero
    ema_decay: float = 0.999
    router_learning_rate: float = 2e-3
    rng_seeds: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    trial_share: float = 0.05  # of the steps, for each learning rate of each arm
    guidances: tuple[float, ...] = (1.0, 1.5, 2.5)
    trial_clips: Positive = 256  # for each guidance of each arm, of the validation split
    curve_points: Positive = 20
    sampling_steps: Positive = 25
    sampling_batch_clips: Positive = 50
    features: tuple[str, ...] = ("transnetv2", "efficientnet-lite0")
    components: Positive = 64  # principal components, of real and generated clips together
    arms: tuple[Arm, ...]
    samplings: tuple[Sampling, ...]
    kept_clips: int = 6  # of each sampling, as pictures for the report

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def main_sampling(self, arm: str) -> Sampling:
        """Returns the sampling that an arm's guidance is tuned with: its first."""
        return next(sampling for sampling in self.samplings if sampling.arm == arm)

    def seeds_of(self, sampling: Sampling) -> tuple[int, ...]:
        return self.rng_seeds[:1] if sampling.first_seed else self.rng_seeds

    def is_pictured(self, sampling: Sampling, rng_seed: int) -> bool:
        """Says whether a few of its clips are kept to be looked at: where arms are compared, of the first
        seed.
        """
        return rng_seed == self.rng_seeds[0] and not sampling.first_seed

    def sampling(self, arm: str, name: str) -> Sampling:
        return next(sampling for sampling in self.samplings if (sampling.arm, sampling.name) == (arm, name))


EXPERTS = Arm(name="experts", title="experts on clusters, with a router", partition="clusters")
MONOLITH = Arm(name="monolith", title="monolith of one expert's size", partition="union")
TOTAL = Arm(
    name="monolith-total",
    title="monolith of the experts' total size, matched in FLOPs",
    partition="union",
    size="total",
)
RANDOM = Arm(name="random", title="experts on a random partition, with a router", partition="random")
TOTAL_CLIPS = TOTAL.model_copy(
    update={
        "name": "monolith-total-clips",
        "title": "monolith of the experts' total size, matched in clips",
        "budget": "clips",
    }
)
FEWER_STEPS = EXPERTS.model_copy(
    update={
        "name": "experts-fewer-steps",
        "title": "experts with full batches and a K-th of the steps",
        "split": "steps",
    }
)

TOP_1 = Sampling(arm="experts", name="top-1", routing="top_k")
CORE_SAMPLINGS = (
    TOP_1,
    Sampling(arm="monolith", name="one"),
    Sampling(arm="monolith-total", name="one"),
    Sampling(arm="random", name="uniform", routing="prior"),
    Sampling(arm="random", name="router", routing="top_k"),
    Sampling(arm="experts", name="oracle", routing="oracle"),
    Sampling(arm="experts", name="top-2", routing="top_k", top_k=2),
)


def _again(name: str, **changes: object) -> Sampling:
    return TOP_1.model_copy(update={"name": name, "first_seed": True, **changes})


ROUND_3 = (  # PROTOCOL.md, Rounds
    _again("text-only", inputs="text", first_seed=False),
    _again("exact", form="exact", first_seed=False),
    _again("top-2-exact", top_k=2, form="exact", first_seed=False),
)
FULL_SAMPLINGS = (
    *CORE_SAMPLINGS,
    Sampling(arm="monolith-total-clips", name="one"),
    Sampling(arm="experts-fewer-steps", name="top-1", routing="top_k"),
    _again("full", routing="full", first_seed=False),
    _again("threshold", routing="threshold"),
    _again("uniform", routing="uniform"),
    *(_again(f"expert-{k}", routing="single", expert=k) for k in range(3)),
    _again("latent-only", inputs="latent"),
    *ROUND_3,
    *(
        Sampling(arm=arm, name=f"{name}-guidance-{scale:g}", routing=routing, guidance=scale, first_seed=True)
        for arm, name, routing in (("experts", "top-1", "top_k"), ("monolith", "one", "single"))
        for scale in (1.0, 1.5, 2.5, 4.0, 7.5, 10.0)
    ),
    *(
        Sampling(arm=arm, name=f"{name}-steps-{steps}", routing=routing, steps=steps, first_seed=True)
        for arm, name, routing in (("experts", "top-1", "top_k"), ("monolith", "one", "single"))
        for steps in (10, 25, 100)
    ),
)
ARMS = (EXPERTS, MONOLITH, TOTAL, RANDOM)

# PROTOCOL.md, Rounds
ROUND_1 = Scale(name="core-1", clips=5400, steps=5400, arms=ARMS, samplings=CORE_SAMPLINGS)
CORE = ROUND_1.model_copy(
    update={
        "name": "core",
        "pca": (8, 8),
        "width": 96,
        "learning_rates": (2e-3, 4e-3, 8e-3),
        "guidances": (1.5, 2.5, 4.0),
    }
)
FULL = CORE.model_copy(
    update={
        "name": "full",
        "runs": "core",
        "rng_seeds": (0, 1, 2),
        "sampling_steps": 50,
        "arms": (*ARMS, TOTAL_CLIPS, FEWER_STEPS),
        "samplings": FULL_SAMPLINGS,
    }
)
GPU = FULL.model_copy(
    update={
        "name": "gpu",
        "runs": "",
        "pca": (8, 16),
        "clips": 60_000,
        "test_clips": 2048,
        "validation_clips": 1024,
        "probe_clips": 4000,
        "width": 384,
        "depth": 12,
        "heads": 6,
        "patch": (1, 2, 2),
        "router_width": 256,
        "router_depth": 8,
        "batch_clips": 384,
        "steps": 100_000,
        "warmup_steps": 1000,
        "ema_decay": 0.9999,
        "learning_rates": (2e-4, 4e-4, 8e-4),
        "router_learning_rate": 4e-4,
        "trial_share": 0.02,
        "trial_clips": 1024,
        "sampling_batch_clips": 256,
    }
)
IMAGES = CORE.model_copy(
    update={
        "name": "images",
        "experts": 8,
        "frames": 1,
        "patch": (1, 2, 2),
        "clips": 5400,
        "steps": 8000,
        "width": 64,
        "features": ("efficientnet-lite0",),
    }
)
TINY = CORE.model_copy(  # to see that everything runs, in a minute or two; its numbers mean nothing
    update={
        "name": "tiny",
        "clips": 240,
        "test_clips": 40,
        "validation_clips": 24,
        "probe_clips": 60,
        "width": 16,
        "depth": 1,
        "heads": 1,
        "router_width": 16,
        "router_depth": 1,
        "batch_clips": 12,
        "steps": 60,
        "warmup_steps": 5,
        "learning_rates": (1e-3, 4e-3),
        "trial_share": 0.2,
        "guidances": (1.0, 2.0),
        "trial_clips": 16,
        "curve_points": 4,
        "sampling_steps": 3,
        "components": 8,
    }
)
SCALES: dict[str, Scale] = {scale.name: scale for scale in (ROUND_1, CORE, FULL, GPU, IMAGES, TINY)}
