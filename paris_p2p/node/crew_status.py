"""Who trains a slot together, what each contributed and what was refused: for `status`, the live view and the
control API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from paris_p2p.crew_records import CrewRound
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError
from paris_p2p.records import CardRecord
from paris_p2p.rules.rounds import REASONS_FOR_UPDATES

if TYPE_CHECKING:
    from paris_p2p.node.run_node import RunNode

_SHOWN_REFUSED = 8


class CrewPeerStatus(BaseModel):
    """Describes a peer that trains a slot, or whose updates were merged there."""

    model_config = ConfigDict(frozen=True)

    peer: str
    works: bool  # it is in the crew now, or leads it
    merged_clips: int = 0  # of its own stream, up to where it was merged
    step_s: float = 0.0  # of one optimizer step, as it says; 0: not known


class RefusedUpdateStatus(BaseModel):
    """Names an update that the newest round left out, and why in words."""

    model_config = ConfigDict(frozen=True)

    peer: str
    reason: str


class CrewStatus(BaseModel):
    """Describes the crew of one slot as this peer knows it."""

    model_config = ConfigDict(frozen=True)

    peers: tuple[CrewPeerStatus, ...]  # the lead first, then by merged clips
    rounds: int = 0  # since the newest full weights
    round_s: float = 0.0  # how long the present one takes; 0: the lead trains alone
    refused: tuple[RefusedUpdateStatus, ...] = ()  # by the newest round

    def words(self) -> str:
        """Says in a line how the crew gets on; nothing where one peer trains alone."""
        working = sum(one.works for one in self.peers)
        if working < 2 and not self.round_s:
            return ""
        clips = ", ".join(f"…{one.peer[-8:]} {one.merged_clips:,}" for one in self.peers if one.merged_clips)
        parts = [f"{working} peers train it in rounds of {self.round_s:.0f} s"]
        parts += [f"{self.rounds} rounds since its full weights"] if self.rounds else []
        parts += [f"merged clips: {clips}"] if clips else []
        parts += [f"not merged of …{one.peer[-8:]}: {one.reason}" for one in self.refused[:3]]
        return "; ".join(parts)


class CrewBooks:
    """Remembers what the newest round of each slot counted and refused: reading one takes a while."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[str, Mapping[str, int], tuple[RefusedUpdateStatus, ...]]] = {}

    def of(
        self, node: RunNode, card: Envelope[CardRecord]
    ) -> tuple[Mapping[str, int], tuple[RefusedUpdateStatus, ...]]:
        """Returns (up to where each peer's stream was merged, what was refused) by the card's newest round;
        what the one before it said, where that one is not here or the card has none.
        """
        record = card.record
        known = self._read.get(record.slot)
        if known is not None and known[0] == card.id:
            return known[1], known[2]
        made = _newest(node, record)
        if made is None:
            return (known[1], ()) if known is not None else ({}, ())
        counted = {one.peer: one.next for one in made.counted}
        refused = tuple(
            RefusedUpdateStatus(peer=one.peer, reason=REASONS_FOR_UPDATES.get(one.reason, one.reason))
            for one in made.refused[:_SHOWN_REFUSED]
        )
        self._read[record.slot] = (card.id, counted, refused)
        return counted, refused


def crew_status(node: RunNode, slot: str, lead: str, now_s: float) -> CrewStatus | None:
    """Returns a slot's crew; None in a run without crews, and before the slot has a checkpoint."""
    tip = node.board.tip(slot)
    if node.spec.crew is None or tip is None:
        return None
    record = tip.card.record
    counted, refused = node.books.of(node, tip.card)
    works = {one.peer: one.step_s for one in node.board.crew(slot, lead, now_s)}
    if lead:
        works = {lead: 0.0} | works
    peers = [
        CrewPeerStatus(
            peer=peer, works=peer in works, merged_clips=counted.get(peer, 0), step_s=works.get(peer, 0.0)
        )
        for peer in {**works, **dict.fromkeys(counted, 0.0)}
    ]
    peers.sort(key=lambda one: (one.peer != lead, not one.works, -one.merged_clips, one.peer))
    return CrewStatus(
        peers=tuple(peers),
        rounds=len(record.rounds) if record.is_light else 0,
        round_s=record.round_s,
        refused=refused,
    )


def _newest(node: RunNode, card: CardRecord) -> CrewRound | None:
    if not card.rounds:
        return None
    try:
        opened = node.rounds.open(card.rounds[-1], card.slot)
    except ParisError:  # no key to it, or none at all: attestors say so
        return None
    return opened.made if opened is not None else None
