"""What a leadership of a slot begins with: this peer's own newest card where that may yet become the tip,
else the tip, and where there is none what stands for one (rules/own_card.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from paris_p2p.family import ancestors
from paris_p2p.node.own_card_file import own_card, own_view
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.notifier import Notifier
from paris_p2p.records import BlobRef
from paris_p2p.rules.expert_set import stands_for
from paris_p2p.rules.own_card import BeginsWith, OwnCard, begins_with, may_become_tip
from paris_p2p.rules.tips import Tip

_LOOK_S = 1.0  # patience passes without news


@dataclass(frozen=True)
class Beginning:
    """A blob that a training begins with, the field of its job that names it, and where it is announced."""

    field: Literal["resume_path", "parent_path", "initial_path"]
    blob: BlobRef
    what: str


def beginning_of(node: RunNode, slot: str, tip: Tip | None) -> Beginning | None:
    """Returns what a training begins with that does not go on from an own card: the tip's resume state; where
    there is no tip, the weights of the expert that this one was split from, or of that one's parent and so
    on, or the run's first weights; None when there are none.
    """
    if tip is not None:
        return Beginning("resume_path", tip.card.record.resume, tip.card.id)
    spec, board = node.spec, node.board
    tips = {one: found.card for one in ancestors(spec, slot) if (found := board.tip(one)) is not None}
    if parent := stands_for(spec, slot, tips):
        return Beginning("parent_path", tips[parent].record.weights, tips[parent].id)
    initial = spec.initial_for(slot)
    return None if initial is None else Beginning("initial_path", initial, node.run)


def expected_card(node: RunNode, slot: str) -> OwnCard | None:
    """Returns this peer's own newest card of a slot where it may yet become the tip."""
    own = own_card(node, slot)
    return own if own is not None and may_become_tip(own, own_view(node, own), time.time()) else None


def card_to_go_on_from(node: RunNode, slot: str) -> OwnCard | None:
    """Returns this peer's own newest card of a slot where a new training begins with that."""
    return own_card(node, slot) if _begins_with(node, slot) == "own" else None


async def own_card_settled(node: RunNode, slot: str, news: Notifier, say: Callable[[str], None]) -> None:
    """Waits while no training is to begin, since an own card that goes back may yet become the tip."""
    if _begins_with(node, slot) != "wait":
        return
    say(f"{slot} goes back to its best checkpoint, where attestors agree; until then nothing trains")
    while _begins_with(node, slot) == "wait":
        await news.wait(_LOOK_S)


def _begins_with(node: RunNode, slot: str) -> BeginsWith:
    own = own_card(node, slot)
    return "tip" if own is None else begins_with(own, own_view(node, own), time.time())
