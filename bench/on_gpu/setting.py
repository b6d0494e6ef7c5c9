"""Says how large everything is that is run, and what each part needs to know."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench.on_gpu.made import MadeRun, Shape
from paris_p2p.spec import LatentShape

COMPARED, TIMED = "compared", "timed"  # folders of clips: small ones on both devices, large ones on the GPU


@dataclass(frozen=True)
class Sizes:
    """Holds the sizes of a whole measurement."""

    compared: Shape
    compared_preset: str
    learn_steps: int
    timed: Shape
    timed_presets: tuple[str, ...]  # in this order, as long as there is time
    slow_presets: tuple[str, ...]  # too large to be compiled beside the others
    measure_s: float
    sampled_preset: str  # for seconds a clip
    sample_steps: int


FULL = Sizes(
    compared=Shape(LatentShape(channels=16, frames=4, height=16, width=16), 8, 64, 16),
    compared_preset="tiny",
    learn_steps=50,
    timed=Shape(LatentShape(channels=16, frames=8, height=32, width=32), 16, 96, 16),
    timed_presets=("small", "dit-b-2", "tiny", "mmdit-tiny"),
    slow_presets=("dit-xl-2", "medium"),
    measure_s=4.0,
    sampled_preset="dit-b-2",
    sample_steps=50,
)
QUICK = Sizes(
    compared=Shape(LatentShape(channels=16, frames=2, height=8, width=8), 4, 12, 8),
    compared_preset="nano",
    learn_steps=12,
    timed=Shape(LatentShape(channels=16, frames=2, height=8, width=8), 4, 12, 8),
    timed_presets=("nano", "mmdit-nano"),
    slow_presets=(),
    measure_s=1.2,
    sampled_preset="nano",
    sample_steps=6,
)


@dataclass(frozen=True)
class Setting:
    """Holds what each part gets."""

    folder: Path
    device: str  # auto, cpu, cuda or cuda:<n>
    quick: bool
    end_at: float  # time.time() by which a part must be done

    @property
    def sizes(self) -> Sizes:
        return QUICK if self.quick else FULL

    @property
    def threads(self) -> int:
        """Returns the CPU threads of each process: four or so compute side by side."""
        return max(1, (os.cpu_count() or 1) // 4)

    def left_s(self) -> float:
        """Returns the seconds that are left to the part."""
        return self.end_at - time.time()

    def log(self, name: str) -> Path:
        """Returns where a process writes what it has to say."""
        return self.folder / "logs" / f"{name}.log"

    def compared_run(self) -> MadeRun:
        """Returns the run that is trained on both devices; it has a folder for each slot's training."""
        return MadeRun(self.folder / COMPARED, self.sizes.compared, self.sizes.compared_preset)

    def timed_run(self, preset: str, router: str = "nano") -> MadeRun:
        """Returns a run of large clips whose experts are of this preset."""
        where = self.folder / TIMED
        return MadeRun(where / preset, self.sizes.timed, preset, router, clips=where)
