"""Who trains a slot together, what each contributed and what was refused: for `status`, the live view and the
control API.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from paris_p2p.node.run_node import RunNode
from paris_p2p.rules.rounds import REASONS_FOR_UPDATES


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
        many = "1 peer trains" if working == 1 else f"{working} peers train"
        if not working:
            parts = ["nobody trains it now"]
        elif not self.round_s:  # the tip is of its lead alone
            parts = [f"{many} it; its tip is of the lead alone, without rounds"]
        else:
            parts = [f"{many} it in rounds of {self.round_s:.0f} s"]
        since = "1 round" if self.rounds == 1 else f"{self.rounds} rounds"
        parts += [f"{since} since its full weights"] if self.rounds else []
        parts += [f"merged clips: {clips}"] if clips else []
        parts += [f"not merged of …{one.peer[-8:]}: {one.reason}" for one in self.refused[:3]]
        return "; ".join(parts)


def crew_status(node: RunNode, slot: str, lead: str, now_s: float) -> CrewStatus | None:
    """Returns a slot's crew; None in a run without crews, and before the slot has a checkpoint."""
    tip = node.board.tip(slot)
    if node.spec.crew is None or tip is None:
        return None
    record = tip.card.record
    counted, refused = node.books.of(tip.card)
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
        refused=tuple(
            RefusedUpdateStatus(peer=peer, reason=REASONS_FOR_UPDATES.get(code, code))
            for peer, code in refused
        ),
    )
