"""Says how a run's resume states are written, checked and read: in float32, or compact.

A run has one of the two for all its checkpoints (`TrainingSpec.compact`), and a file of the other is refused;
so it is with what they hold (state_parts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import Tensor

from paris_p2p.model.checkpoint import (
    Counters,
    TrainState,
    check_resume,
    load_resume,
    load_resume_weights_into,
    write_checkpoint,
)
from paris_p2p.model.compact_state import check_compact, load_compact, load_compact_weights, write_compact
from paris_p2p.model.state_parts import PLAIN, StateParts
from paris_p2p.model.tensor_file import Shapes
from paris_p2p.spec import TrainingSpec


class WeightsReader(Protocol):
    """Copies the weights that training goes on with into `weights`, and the average into `average`, where
    given; CheckpointError.
    """

    def __call__(
        self,
        path: Path,
        weights: Mapping[str, Tensor],
        counters: Counters,
        average: Mapping[str, Tensor] | None = None,
    ) -> None: ...


@dataclass(frozen=True)
class ResumeFormat:
    """Holds the functions of one format; checkpoint.py and compact_state.py say what each does."""

    write: Callable[[Path, TrainState], tuple[Path, Path]]
    check: Callable[[Path, Shapes, Counters, float, Path], None]
    load: Callable[[Path, TrainState, float], None]
    load_weights: WeightsReader


def resume_format(*, compact: bool, parts: StateParts = PLAIN) -> ResumeFormat:
    """Returns a format of resume states."""
    if compact:
        return ResumeFormat(
            partial(write_compact, parts=parts),
            partial(check_compact, parts=parts),
            partial(load_compact, parts=parts),
            partial(load_compact_weights, parts=parts),
        )
    return ResumeFormat(
        write_checkpoint,
        partial(check_resume, parts=parts),
        partial(load_resume, parts=parts),
        partial(load_resume_weights_into, parts=parts),
    )


def format_of_run(training: TrainingSpec) -> ResumeFormat:
    """Returns the format of a run's resume states."""
    return resume_format(compact=training.compact, parts=StateParts.of_run(training))
