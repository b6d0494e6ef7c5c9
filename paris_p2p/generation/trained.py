"""Says how far a slot's weights are trained, from the verified files themselves, and what may be expected
of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.model.checkpoint import counters_of
from paris_p2p.spec import RunSpec, TrainingSpec

# The weights are an average over the lineage, and this share of it is at most still the weights that training
# began with.
MAX_START_SHARE = 0.05


@dataclass(frozen=True)
class Trained:
    """How far one slot is trained, by the counters in its file and the numbers of its run."""

    slot: str
    steps: int
    clips: int
    passes: float  # over the slot's train clips
    start_share: float  # of the averaged weights that is the start's, after the warm-up; in [0, 1]

    @property
    def barely(self) -> bool:
        """Whether noise must be expected: the average is still near its start, or not every clip was seen."""
        return self.start_share > MAX_START_SHARE or self.passes < 1

    def describe(self) -> str:
        """Returns words like `767 steps, 6,136 clips (204 passes)`."""
        return f"{self.steps:,} steps, {self.clips:,} clips ({_number(self.passes)} passes)"


def _number(passes: float) -> str:
    """Returns words like 3,640, 12.3 or 0.05: below a thousand three digits count, never with an exponent."""
    if passes >= 100:
        return f"{passes:,.0f}"
    return f"{passes:.3g}" if passes >= 0.01 else "less than 0.01" if passes else "0"


def trained_slots(spec: RunSpec, weights: Mapping[str, Path]) -> dict[str, Trained]:
    """Returns how far each slot is trained, by slot; CheckpointError when a file's counters are damaged."""
    found = {}
    for slot, path in weights.items():
        counters, training = counters_of(path), spec.training
        data_clips = sum(shard.clips for shard in spec.shards_for(slot, "train"))
        averaged_steps = max(0, counters.steps - training.warmup_steps)
        found[slot] = Trained(
            slot,
            counters.steps,
            counters.clips,
            counters.clips / max(1, data_clips),
            _start_share(training, slot, averaged_steps),
        )
    return found


def _start_share(training: TrainingSpec, slot: str, averaged_steps: int) -> float:
    """Returns how much of the weights that training began with is in the average; a power profile drops them
    at once.
    """
    if training.ema_profile == "power":
        return 0.0 if averaged_steps else 1.0
    share: float = training.ema_limit(slot) ** averaged_steps
    return share


def warn_barely(trained: Mapping[str, Trained]) -> str:
    """Returns a warning that names the slots that are barely trained, or nothing."""
    few = [slot for slot in trained.values() if slot.barely]
    if not few:
        return ""
    named = ", ".join(f"{slot.slot} ({slot.steps:,} steps, {_number(slot.passes)} passes)" for slot in few)
    return (
        f"warning: barely trained yet: {named}. Expect noise, or clips that ignore the prompt; "
        "`paris-peer status` shows how training goes, and later clips will be better"
    )
