"""What a lead does when its trainer ends, and when it asks for a checkpoint: pure functions.

A trainer that dies is started again from the newest checkpoint. When it dies MAX_TRAINER_DEATHS times in a
row without a checkpoint between, the slot is given up. Times are monotonic seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

MAX_TRAINER_DEATHS = 3

AfterEnd = Literal["over", "start again", "give up"]


@dataclass(frozen=True)
class TrainerLife:
    """What is known of a slot's trainer, over its restarts."""

    deaths: int = 0  # in a row, without a checkpoint between them
    began_steps: int = 0  # of the newest checkpoint when the process was started
    loading: bool = False  # started again, and the checkpoint it goes on from is not yet read
    checkpoint_at_s: float = math.inf  # when it began to train, or a checkpoint was made or asked for

    def launched(self, newest_steps: int) -> TrainerLife:
        """Notes that a process was started; the newest checkpoint here has `newest_steps`."""
        return replace(self, began_steps=newest_steps)

    def training(self, now_s: float) -> TrainerLife:
        """Notes that the process has read what it goes on from, and trains."""
        return replace(self, loading=False, checkpoint_at_s=now_s)

    def checkpointed(self, now_s: float) -> TrainerLife:
        """Notes that a checkpoint was made, or asked for."""
        return replace(self, checkpoint_at_s=now_s)

    def ended(self) -> TrainerLife:
        """Notes that the process is gone: it reads nothing, and makes no checkpoint."""
        return replace(self, loading=False, checkpoint_at_s=math.inf)

    def died(self, newest_steps: int) -> TrainerLife:
        """Notes a death, the first in a row if there was a checkpoint since the start."""
        return replace(self, deaths=1 if newest_steps != self.began_steps else self.deaths + 1)

    def starting_again(self) -> TrainerLife:
        """Notes that a new process is about to read the newest checkpoint."""
        return replace(self, loading=True)

    def checkpoint_due_s(self, cadence_s: float) -> float:
        """Returns when to ask for a checkpoint, in time for the next card; the trainer's own timer is for
        when cards go out more slowly.
        """
        return self.checkpoint_at_s + cadence_s


def after_end(life: TrainerLife, *, in_order: bool, wanted: bool) -> AfterEnd:
    """Returns what follows the end of a process: `in_order` when it said that it stops, `wanted` while the
    leadership and this training go on. A death is noted in `life` before.
    """
    if in_order or not wanted:
        return "over"
    return "give up" if life.deaths >= MAX_TRAINER_DEATHS else "start again"
