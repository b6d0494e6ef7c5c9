"""Guides each expert away from what it said earlier in its training (Karras et al. 2024, arXiv 2406.02507).

v = v_older + scale (v - v_older), for each expert by itself, before experts are mixed and guided by the text:
both sides of that guidance are then guided so. With the scale 1 the older expert is not asked.
Legend: B clips, `...` the rest of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from paris_p2p.flow.condition import Condition
from paris_p2p.flow.mixture import ExpertPool


@dataclass(frozen=True)
class Autoguided:
    """A pool of experts, each guided away from the one of the same number in an older pool."""

    pool: ExpertPool
    older: ExpertPool
    scale: float

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Returns expert k's guided v [B ...] at x [B ...], t [B], given what is known of the clips."""
        v = self.pool.velocity(k, x, t, condition)
        if self.scale == 1:
            return v
        older = self.older.velocity(k, x, t, condition).float()
        return older + self.scale * (v.float() - older)
