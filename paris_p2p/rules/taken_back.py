"""What the owner's word leaves of a slot's tips: pure functions of the tips that were and the run's state
(docs/protocol.md, "Tip").
"""

from __future__ import annotations

from collections.abc import Iterable

from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.tips import Tip, tip_of

MAX_PAST = 32  # tips of a slot that are remembered, so that it can go back when the owner takes cards back


def still_stands(tip: Tip, state: RunState) -> Tip | None:
    """Returns the tip with those of its attestations that count by the state; None when it is no tip any
    more.
    """
    attestations = tuple(one for one in tip.attestations if state.attests(one, tip.card))
    if not state.counts(tip.card) or len(attestations) < state.spec.gate.quorum:
        return None
    return tip if len(attestations) == len(tip.attestations) else Tip(tip.card, attestations)


def newest_standing(tips: Iterable[Tip], state: RunState) -> Tip | None:
    """Returns the newest of a slot's tips that stands by the state: where the slot goes on from."""
    left = [stands for tip in tips if (stands := still_stands(tip, state)) is not None]
    cards, attestations = [tip.card for tip in left], [one for tip in left for one in tip.attestations]
    return tip_of(cards, attestations, lambda _: True, state.spec.gate.quorum)
