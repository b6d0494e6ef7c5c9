"""What a leadership does when the owner's notices, or a date, change its run: a pure function of the run's
state and of what the leadership stands on (docs/protocol.md, "Notices").

    this peer may publish nothing any more:                       abandon
    its slot is no slot of the run any more:                      abandon
    its claim, or a card that it stands on, was taken back:       abandon, and begin again from the tip
    this peer is to rest:                                         end, with a checkpoint
    the trainer knows other numbers or clips than the run has:    renew, at the next checkpoint
    otherwise:                                                    go on
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from paris_p2p.rules.run_state import RunState
from paris_p2p.rules.standing import Standing
from paris_p2p.spec import ROUTER, RunSpec


@dataclass(frozen=True)
class Footing:
    """What one leadership stands on."""

    slot: str
    epoch: int  # of its claim
    notices: int  # the number of the newest notice that its trainer knows
    places: frozenset[tuple[int, int]] = frozenset()  # (epoch, seq) of the cards that it descends from


@dataclass(frozen=True)
class LeadMove:
    """What a leadership does now, and why in a person's words.

    end: it publishes a last checkpoint and ends. abandon: it ends, and nothing goes out any more. renew: at
    its next checkpoint the trainer starts again with what the run is now, under the same claim.
    """

    action: Literal["go on", "renew", "end", "abandon"] = "go on"
    why: str = ""


def lead_move(state: RunState, footing: Footing, standing: Standing) -> LeadMove:
    """Returns what a leadership does in the run as of the state."""
    slot = footing.slot
    if not standing.publishes:
        return LeadMove("abandon", standing.why)
    if slot not in state.spec.slots:
        return LeadMove("abandon", f"the owner took {slot} out of the mixture")
    if (notice := taken_back_by(state, slot, footing.epoch, footing.places)) is not None:
        return LeadMove(
            "abandon",
            f"the owner took back a card of {slot} that this training stands on (notice {notice}); "
            "it starts again from the tip",
        )
    if not standing.works:
        return LeadMove("end", standing.why)
    if not trains_alike(state.spec_at(footing.notices), state.spec, slot):
        return LeadMove(
            "renew",
            f"the owner changed what {slot} is trained with (notice {state.number}); "
            "its trainer starts again at its next checkpoint",
        )
    return LeadMove()


def taken_back_by(
    state: RunState, slot: str, epoch: int, places: Iterable[tuple[int, int]] = ()
) -> int | None:
    """Returns the number of the notice that took back a card with one of the `places` (epoch, seq), or that
    left a floor above a claim's `epoch`; None when none did.
    """
    cards = list(places)
    for floor in reversed(state.floors.get(slot, ())):
        if epoch < floor.epoch or any(floor.voids(*place) for place in cards):
            return floor.number
    return None


def trains_alike(one: RunSpec, other: RunSpec, slot: str) -> bool:
    """Tells whether a trainer of the slot does the same by either RunSpec."""
    return one is other or _trained_with(one, slot) == _trained_with(other, slot)


def _trained_with(spec: RunSpec, slot: str) -> tuple[Any, ...]:
    network = (spec.router, spec.experts, spec.dropped_experts) if slot == ROUTER else (spec.expert,)
    return (spec.training, spec.timing.checkpoint_s, spec.shards_for(slot, "train"), *network)
