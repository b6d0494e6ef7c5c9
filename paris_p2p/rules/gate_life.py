"""Pure functions say how many cards an attestor checks, and how long its gate's process waits for the next.

Loading torch costs a second and a half of a core, keeping it some 270 MiB.
"""

from __future__ import annotations

import math

LEAST_IDLE_S = 60.0  # the cards of several slots may come together
_OFTEN_S = 100.0  # between two cards of one attestor
_IDLE_GAPS = 3  # turns are drawn by lot: of 20 gaps, 19 are shorter


def card_gap_s(checkpoint_s: float, slots: int, quorum: int, attestors: int) -> float:
    """Returns the seconds between two cards that one attestor of `attestors` checks, on the average, where
    each of `slots` slots makes a card every `checkpoint_s`.

    `quorum` attestors check a card at once (`turn_left_s`); where there are fewer, each checks every card.
    """
    if slots < 1:
        return math.inf
    attestors = max(1, attestors)
    return checkpoint_s * attestors / (slots * min(max(1, quorum), attestors))


def gate_idle_s(gap_s: float) -> float:
    """Returns how long a gate's process is kept for the next card, where cards come `gap_s` apart."""
    return max(LEAST_IDLE_S, _IDLE_GAPS * gap_s) if gap_s <= _OFTEN_S else LEAST_IDLE_S
