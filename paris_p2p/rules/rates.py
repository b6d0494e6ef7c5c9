"""How often a slot's learning rate was lowered, and what that means: integers, so that every peer computes
the same rate.

A card says it (`lowered`). A slot whose checkpoints were refused for their held-out loss goes back to its
best card with the next lower rate; at RESTS there is none left to try (rest.py).
"""

from __future__ import annotations

from paris_p2p.records import MAX_LOWERED

FACTOR = 0.3  # of the schedule's rate, each time it is lowered
# lowered so often a slot trains no more: rates of 1, 0.3, 0.09 and 0.027 were tried from its best checkpoint
RESTS = 4


def rate_factor(lowered: int) -> float:
    """Returns what the schedule's learning rate is multiplied by."""
    return float(FACTOR**lowered)


def lowered_after(tip_lowered: int) -> int:
    """Returns the `lowered` of a card that trains on from the tip: that of the tip, and none after a rest,
    which begins again with the full rate.
    """
    return 0 if tip_lowered >= RESTS else tip_lowered


def lowered_again(tip_lowered: int) -> int:
    """Returns the `lowered` of a card that goes back after the tip."""
    return min(tip_lowered + 1, MAX_LOWERED)
