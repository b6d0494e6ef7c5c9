"""What a peer noted of the energy that its training used: its own word, which nobody attests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

ENERGY_FILE = "energy.json"
_J_PER_KWH = 3.6e6
_Amount = Annotated[float, Field(ge=0, le=1e15)]


class EnergyUsed(BaseModel):
    """Is the energy of training on one machine, in joules."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    since_s: _Amount = 0.0  # Unix time
    trained_s: _Amount = 0.0
    gpu_j: _Amount = 0.0  # by the GPU's own meter, all that it used meanwhile
    processor_estimate_j: _Amount = 0.0  # busy processor seconds times an assumed power

    def words(self) -> str:
        """Says it for a person, what is measured apart from what is estimated."""
        gpu = f"{self.gpu_j / _J_PER_KWH:.3g} kWh by its GPU's meter, and " if self.gpu_j else ""
        return (
            f"this machine's own word, which nobody attests: {self.trained_s / 3600:.3g} h of training took "
            f"{gpu}about {self.processor_estimate_j / _J_PER_KWH:.2g} kWh of its processors, an estimate"
        )


def kept_energy(folder: Path) -> EnergyUsed | None:
    """Returns what a run's folder in a data directory notes; None where there is nothing, or damage."""
    try:
        return EnergyUsed.model_validate_json((folder / ENERGY_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
