"""Four disjoint splits by source video, from the hash of its content: pure, and the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field

from paris_p2p.errors import DataError

Split = Literal["train", "gate", "validation", "test"]
HELD_OUT: tuple[Split, ...] = ("test", "validation", "gate")  # the order in which they are filled
TRAIN: Split = "train"


class SplitOptions(BaseModel):
    """Shares of the clips; a split gets at least its minimum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate_share: float = Field(default=0.06, ge=0, le=0.3)
    validation_share: float = Field(default=0.04, ge=0, le=0.3)
    test_share: float = Field(default=0.1, ge=0, le=0.3)
    gate_min_clips: int = Field(default=8, ge=1)
    validation_min_clips: int = Field(default=2, ge=1)
    test_min_clips: int = Field(default=4, ge=1)


def rank_groups(groups: Sequence[str], rng_seed: int) -> list[str]:
    """A fixed shuffle: each group's place depends on its name and the seed alone. Held-out splits are filled from the front."""
    return sorted(set(groups), key=lambda group: blake3(f"{rng_seed}/{group}".encode()).digest())


def assign_splits(ranked: Sequence[str], clips: Mapping[str, int], options: SplitOptions) -> dict[str, Split]:
    """group -> split; DataError when less than a quarter of the clips would be left to train on."""
    total = sum(clips[group] for group in ranked)
    wanted = {
        split: max(getattr(options, f"{split}_min_clips"), round(getattr(options, f"{split}_share") * total)) for split in HELD_OUT
    }
    result: dict[str, Split] = {}
    rest = list(reversed(ranked))
    for split in HELD_OUT:
        got = 0
        while got < wanted[split] and rest:
            group = rest.pop()
            result[group] = split
            got += clips[group]
    result.update(dict.fromkeys(rest, TRAIN))
    left = sum(clips[group] for group in rest)
    if 4 * left < total or not left:
        raise DataError(
            f"{total} clips of {len(ranked)} source videos are too few: gate, validation and test want {sum(wanted.values())}, "
            f"by whole videos, and {left} would be left to train on; give more videos, or lower the held-out minimums"
        )
    return result
