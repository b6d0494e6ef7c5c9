"""Says which tensors a training state holds for each parameter, as the run's options have it.

weights      the weights that training goes on with
exp_avg      the first moment: AdamW's m, or the momentum that Muon makes its step of
exp_avg_sq   AdamW's v; a matrix that Muon trains has none
ema          the average, whose bf16 is published
ema_long     a second, longer average of runs that keep two (power_average.py), published beside it
"""

from __future__ import annotations

from dataclasses import dataclass

from paris_p2p.model.tensor_file import Shapes
from paris_p2p.spec import TrainingSpec

PARTS = ("weights", "exp_avg", "exp_avg_sq", "ema", "ema_long")
LONG = "long."  # begins the longer average's names in the weights to generate with


@dataclass(frozen=True)
class StateParts:
    """Tells a state's tensors by the name and shape of a parameter; all slots of a run have the same rule."""

    muon: bool = False  # whether Muon trains the matrices of the blocks
    two_averages: bool = False

    @classmethod
    def of_run(cls, training: TrainingSpec) -> StateParts:
        return cls(muon=training.optimizer == "muon", two_averages=training.ema_profile == "power")

    def by_muon(self, name: str, shape: tuple[int, ...]) -> bool:
        """Tells whether Muon trains a parameter: a matrix of one of the network's blocks."""
        return self.muon and len(shape) == 2 and name.split(".")[0].endswith("blocks")

    def has(self, part: str, name: str, shape: tuple[int, ...]) -> bool:
        if part == "ema_long":
            return self.two_averages
        return part != "exp_avg_sq" or not self.by_muon(name, shape)

    def shapes(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every tensor, by `part.name`, in the order in which files hold them."""
        return {
            f"{part}.{name}": tuple(shape)
            for part in PARTS
            for name, shape in shapes.items()
            if self.has(part, name, tuple(shape))
        }


PLAIN = StateParts()
