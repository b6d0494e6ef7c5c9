"""Says what a crew does in an experiment: every number of it, so that a result can be repeated.

Legend: n parameters, H inner steps a round, P peers.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

from paris_p2p.identity import Identity
from paris_p2p.spec import TrainingSpec

NETWORK: dict[str, int | float | str | bool] = {
    "channels": 16, "text_width": 384, "width": 48, "depth": 2, "heads": 3,
    "patch_frames": 1, "patch_height": 2, "patch_width": 2,
}  # fmt: skip
TRAINING = TrainingSpec(batch_clips=8, learning_rate=1e-3, warmup_steps=50, ema_decay=0.995)
EMA_DECAYS = (0.995, 0.98, 0.999)  # the first is the run's; the others show that it decides nothing
SLOWER = 4  # times that a slow peer is slower
STALE_ROUNDS = 4  # by which a stale update is late
JOINING_STEPS = 20  # over which one who joins warms up
Attack = Literal["", "flip", "hundredfold", "nan", "copy", "stale", "noise", "other-data"]


@cache
def peer_name(number: int) -> str:
    """Returns the peer id of the peer that joined as the `number`-th, the same under every plan."""
    return Identity.from_private_bytes(hashlib.sha256(f"crew bench peer {number}".encode()).digest()).peer_id


class Plan(BaseModel):
    """Says what one crew does; the defaults are DiLoCo among four peers that all keep up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seed: int = 0
    slot: str = "expert-0"
    peers: int = 4
    way: Literal["rounds", "every-step"] = "rounds"
    rounds: int = 150
    inner_steps: int = 15  # H
    learning_rate: float = TRAINING.learning_rate
    exact: bool = False  # updates in float32, without error feedback
    step: float = 2.0  # of updates' levels, in root mean squares of a chunk
    parts: int = 1
    feedback: float = 0.95
    outer_rate: float = 0.7
    momentum: float = 0.9
    delay_steps: int = 0  # inner steps between an update and the merge's arrival
    eager: bool = (
        False  # a peer goes on from the outer step of its own update alone, until the merge is there
    )
    late_share: float = 0.0  # of updates that come a round late
    # what a peer does whose update came late: the product's way is to give its work up; else it sends that
    # again within the next one, or has it merged a round later and makes no other meanwhile
    late_way: Literal["given up", "folded", "held"] = "given up"
    churn_rounds: int = 0  # every so many rounds a peer leaves and one joins
    slow: int = 0  # peers that are four times slower
    thin: int = 0  # peers with a tenth of the line
    thin_step: float = 6.75  # about a tenth of the bytes
    attack: Attack = ""  # what the last peer does
    checked: bool = False  # updates are checked before they count

    @property
    def run(self) -> str:
        """Returns the run id of its seed, from which first weights and batches follow."""
        return hashlib.sha256(f"crew bench {self.seed}".encode()).hexdigest()

    @property
    def id(self) -> str:
        text = json.dumps(self.model_dump(exclude={"name"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
