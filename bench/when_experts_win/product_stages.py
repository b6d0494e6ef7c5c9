"""Holds the numbers of the stages with the product's own networks: images and clips, as PROTOCOL-product.md
has them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from paris_p2p.errors import UsageError
from paris_p2p.flow.guidance import EVERYWHERE, GuidedTimes
from paris_p2p.flow.mixture import Routing

PAPERS_GUIDANCE = 7.5
ONE = "one"  # way of one network, with nothing more to be said


@dataclass(frozen=True)
class Way:
    """Says how clips are made with an arm's networks."""

    arm: str
    name: str = ONE
    routing: Routing | None = None  # None: there is one network
    form: str = "per_expert"
    guidance: float = 0.0  # 0: the one that the arm's trials chose
    interval: GuidedTimes = EVERYWHERE
    autoguidance: float = 1.0  # away from the seed model; 1: not at all
    once: bool = False  # with the first seed's networks alone

    @property
    def title(self) -> str:
        return self.arm if self.name == ONE else f"{self.arm} {self.name}"


@dataclass(frozen=True)
class ProductStage:
    """Says what a stage trains, how, and at how many clips it is judged."""

    name: str
    arms: tuple[str, ...]
    ways: tuple[Way, ...]
    widths: tuple[int, ...]  # of which the pilot chooses one; one: nothing is chosen
    networks: tuple[str, ...]  # that look at clips
    batch: int  # clips of a step of one model; experts share it
    seeds: tuple[int, ...] = (1, 2, 3)
    passes: float = 4.0  # through the clips to train on, of all training together
    seed_share: float = 0.0  # of all steps, at the start, in which one seed model learns from all clips
    depth: int = 4
    patch: tuple[int, int, int] = (1, 2, 2)
    router_width: int = 32
    router_depth: int = 2
    router_rate: float = 2e-3
    router_share: float = 0.04  # of an arm's operations
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)  # that are tried
    trial_share: float = 0.2  # of the steps, for each rate
    warmup_steps: int = 50
    decay_share: float = 0.25  # of the steps, at the end
    average: float = 0.995
    caption_dropout: float = 0.1
    enough: float = 0.15  # how much lower the loss of a network three times as large must be
    guidances: tuple[float, ...] = (1.0, 1.5, 2.5, 4.0)  # that are tried
    trial_samples: int = 512
    samples: int = 5000
    sampling_steps: int = 25
    sampling_batch: int = 500
    kernel_samples: int = 2000
    loss_samples: int = 1000
    calibration_clips: int = 512
    components: int = 64  # of real and generated clips together
    pictures: int = 32  # of each way, of the first seed
    set: str = ""  # the stage whose set it is played on; its own if none
    set_each_seed: bool = False  # each seed is played on a set of its own
    protocol: str = "PROTOCOL-product.md"

    def set_name(self, seed: int = 0) -> str:
        """Returns the name of the folder that holds a seed's set; 0: the first seed's.

        A seed's own set is drawn with the RNG seed that it is named by.
        """
        name = self.set or self.name
        return f"{name}-{self.seeds.index(seed or self.seeds[0])}" if self.set_each_seed else name

    def way(self, title: str, guidance: float = 0.0) -> Way:
        """Returns a way by its title and guidance; UsageError when there is none."""
        for way in self.ways:
            if (way.title, way.guidance) == (title, guidance):
                return way
        raise UsageError(f"the stage {self.name} has no way {title!r} at guidance {guidance:g}")

    def main_way(self, arm: str) -> Way:
        """Returns the way that an arm's guidance is chosen with: its first."""
        return next(way for way in self.ways if way.arm == arm)


KEPT = Routing("kept")
_EXPERTS = (
    Way("experts", "kept", KEPT),
    Way("experts", "top-1", Routing("top_k")),
    Way("experts", "full", Routing("full")),
    Way("experts", "exact top-2", Routing("top_k", top_k=2), form="exact"),
    Way("experts", "text", Routing("text")),
    Way("experts", "kept until 0.6", Routing("kept", kept_until=0.6)),
)
_CONTROLS = (Way("monolith"), Way("told", "kept", KEPT), Way("random", "kept", KEPT))
IMAGES = ProductStage(
    name="images",
    arms=("monolith", "told", "experts", "random", "total", "triple"),
    ways=(*_CONTROLS, Way("total"), Way("triple"), *_EXPERTS),
    widths=(16, 32, 64, 96),
    networks=("efficientnet-lite0",),
    batch=100,
)
_MORE_WAYS = ("experts full", "experts text", "experts kept until 0.6")
_FIRST_SEED_HAS_MORE = tuple(replace(way, once=way.title in _MORE_WAYS) for way in _EXPERTS)
IMAGES_MIXED = replace(
    IMAGES,
    name="images-mixed",
    set="images",
    arms=("monolith", "told", "experts", "random", "total"),
    ways=(*_CONTROLS, Way("total"), *_FIRST_SEED_HAS_MORE),
    widths=(32,),
    protocol="PROTOCOL-images.md",
)
IMAGES_WIDE = replace(
    IMAGES,
    name="images-wide",
    set="images",
    arms=("monolith", "told", "experts", "random"),
    ways=(*_CONTROLS, *_EXPERTS[:2]),
    widths=(96,),
)
_AT_PAPERS = tuple(
    replace(way, guidance=PAPERS_GUIDANCE, once=way.title not in ("monolith", "experts kept"))
    for way in (*_CONTROLS, *_EXPERTS[:2], _EXPERTS[3])
)
CLIPS = ProductStage(
    name="clips",
    arms=("monolith", "told", "experts", "random"),
    ways=(
        *_CONTROLS,
        *_FIRST_SEED_HAS_MORE,
        *_AT_PAPERS,
        Way("experts", "kept, guided in 0.1 to 0.8", KEPT, interval=(0.1, 0.8), once=True),
        Way("experts", "kept, autoguided 1.5", KEPT, guidance=1.0, autoguidance=1.5, once=True),
        Way("monolith", "guided in 0.1 to 0.8", interval=(0.1, 0.8), once=True),
        Way("monolith", "autoguided 1.5", guidance=1.0, autoguidance=1.5, once=True),
    ),
    widths=(96,),
    patch=(2, 2, 2),
    networks=("transnetv2", "efficientnet-lite0"),
    batch=24,
    seed_share=0.3,
    trial_samples=256,
    samples=1000,
    kernel_samples=1000,
    set_each_seed=True,
    protocol="PROTOCOL-clips.md",
)
_TINY = {
    "widths": (8, 16),
    "networks": ("tiny",),
    "batch": 6,
    "passes": 2.0,
    "seeds": (1, 2),
    "depth": 1,
    "router_width": 8,
    "router_depth": 1,
    "rates": (2e-3, 4e-3),
    "warmup_steps": 2,
    "guidances": (1.0, 2.0),
    "trial_samples": 12,
    "samples": 40,
    "sampling_steps": 2,
    "sampling_batch": 24,
    "kernel_samples": 20,
    "loss_samples": 30,
    "calibration_clips": 20,
    "components": 4,
    "pictures": 4,
}
PRODUCT_STAGES: dict[str, ProductStage] = {
    "images": IMAGES,
    "images-mixed": IMAGES_MIXED,
    "images-wide": IMAGES_WIDE,
    "clips": CLIPS,
    # to see that everything runs; their numbers mean nothing
    "tiny-images": replace(IMAGES, name="tiny-images", **_TINY),  # type: ignore[arg-type]
    "tiny-clips": replace(CLIPS, name="tiny-clips", **{**_TINY, "widths": (8,)}),  # type: ignore[arg-type]
}


def product_stage_of(name: str) -> ProductStage:
    """Returns the stage of that name; UsageError when there is none."""
    if name not in PRODUCT_STAGES:
        raise UsageError(f"no stage is called {name!r}; choose one of {', '.join(PRODUCT_STAGES)}")
    return PRODUCT_STAGES[name]
