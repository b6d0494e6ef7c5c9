"""What an evaluation has gathered, and its report is made from.

Legend: N clips, S steps, K experts, F features, T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paris_p2p.data.prepared import Prepared, SplitClip
from paris_p2p.evaluation.inspect import Inspection
from paris_p2p.generation.trained import Trained
from paris_p2p.score.intervals import Clips

REAL, MODEL, BASELINE = "real", "experts", "baseline"
Look = Callable[[range], NDArray[np.uint8]]  # clips -> their frames [B T H W 3]


@dataclass(frozen=True)
class Side:
    """Real clips, or one model's: what scores are computed from."""

    name: str
    look: Look
    features: dict[str, Clips]  # by the features' title
    motion: Clips | None  # px/frame [N 1]; None where clips are too small or too short
    aesthetic: Clips | None  # [N 1]
    left_out: dict[str, str]  # what could not be computed, and why
    chosen: NDArray[np.float32] | None = None  # [N S K], of models
    t: NDArray[np.float32] | None = None  # [S], where they were chosen
    inspection: Inspection | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What a model says of itself."""

    run: str
    run_name: str
    cards: dict[str, str]  # by slot
    trained: dict[str, Trained]  # by slot
    missing: tuple[str, ...]  # slots


@dataclass(frozen=True)
class TrainClips:
    """Real clips of the train split in the first features that could be computed, and their clusters."""

    clips: Clips
    clusters: tuple[int, ...]


@dataclass(frozen=True)
class Evidence:
    """All that the report is made from."""

    prepared: Prepared
    clips: list[SplitClip]
    real: Side
    models: list[Side]
    probe: TrainClips | None  # None where no probe could tell clusters apart
    captions: dict[str, NDArray[np.float32]]  # unit vectors [N F], of features that see captions too
    aesthetic: str  # the head's name, "" where there is none
    facts: dict[str, ModelFacts]  # by model
    networks: dict[str, str]  # what looked at the clips, and the sha256 of its weights
    sampled: str = ""  # how the models' clips were made, in words
