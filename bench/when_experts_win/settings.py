"""Holds the numbers of each stage of the map, as PROTOCOL.md has them."""

from __future__ import annotations

from dataclasses import dataclass

from paris_p2p.errors import UsageError


@dataclass(frozen=True)
class Cell:
    """Names one place of the map at one seed: how wide, trained for how long."""

    width: int
    steps: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.width}-wide-{self.steps}-steps-seed-{self.seed}"


@dataclass(frozen=True)
class Stage:
    """Says what a stage trains, how, and at how many images it is judged."""

    widths: tuple[int, ...]
    lengths: tuple[int, ...]  # steps
    clusters: tuple[int, ...]
    seeds: tuple[int, ...]
    batch: int = 240
    rates: tuple[float, ...] = (4e-3, 8e-3, 16e-3)  # that are tried
    trial_steps: int = 250
    router_rate: float = 4e-3
    router_share: float = 0.04  # of an arm's operations
    warmup_steps: int = 50
    decay_share: float = 0.25  # of the steps, at the end
    average: float = 0.995
    clip_norm: float = 1.0
    skip: bool = True  # networks add to the best linear answer
    largest_total: int = 60_000  # parameters up to which a monolith of total size is trained
    samples: int = 5000
    kernel_samples: int = 1000
    loss_samples: int = 1000
    sampling_steps: int = 20

    @property
    def cells(self) -> list[Cell]:
        """Returns the cells of every seed, the seeds one after the other."""
        return [Cell(w, s, seed) for seed in self.seeds for w in self.widths for s in self.lengths]


# Later stages, of images and of clips, get a line here and their own jobs in jobs.py.
STAGES: dict[str, Stage] = {
    "digits": Stage(widths=(34, 80, 184), lengths=(1500,), clusters=(3, 10), seeds=(1, 2, 3, 4, 5)),
    "tiny": Stage(
        widths=(8, 12),
        lengths=(6,),
        clusters=(3, 10),
        seeds=(1, 2),
        batch=30,
        rates=(4e-3, 8e-3),
        trial_steps=4,
        largest_total=3000,
        samples=60,
        kernel_samples=40,
        loss_samples=40,
        sampling_steps=3,
    ),
}


def stage_of(name: str) -> Stage:
    """Returns the stage of that name; UsageError when there is none."""
    if name not in STAGES:
        raise UsageError(f"no stage is called {name!r}; choose one of {', '.join(STAGES)}")
    return STAGES[name]
