"""How a run is governed, for `paris-peer status`, the live view and the control API: what its owner said
last, and what this peer may do in it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from paris_p2p.node.run_node import RunNode
from paris_p2p.notice_words import date_words, notice_words
from paris_p2p.owner_records import FOREVER_S
from paris_p2p.rules.run_state import RunState

_LAST = 5  # notices that are told


class NoticeStatus(BaseModel):
    """One of the owner's notices."""

    model_config = ConfigDict(frozen=True)

    number: int
    act: str
    at_s: float  # Unix time
    words: str  # notice 3, owner, 2026-11-26 10:00: paused: night


class Governance(BaseModel):
    """What the owner of a run said, and what follows for this peer."""

    model_config = ConfigDict(frozen=True)

    notices: int = 0  # the number of the newest one that is known here
    last: tuple[NoticeStatus, ...] = ()  # the newest ones, the newest last
    paused: bool = False
    ended: bool = False
    contradiction: str = ""  # what is told where two notices contradict one another
    members_only: bool = False
    private: bool = False
    members: int = 0  # that are known here, of a members-only run
    rights: tuple[str, ...] = ()  # of this peer
    rights_end_s: float | None = None  # Unix time at which the last of them ends; None: never
    names: dict[str, str] = {}  # that the owner gave peers, by peer id

    def lines(self) -> list[str]:
        """Says it in lines for a person; none of an open run whose owner said nothing."""
        lines = [one.words for one in self.last]
        if self.members_only:
            kind = "private run" if self.private else "members only"
            until = f" until {date_words(self.rights_end_s)}" if self.rights_end_s is not None else ""
            may = f"may {', '.join(self.rights)}{until}" if self.rights else "may nothing"
            lines.insert(0, f"{kind}, {self.members} member{'s' * (self.members != 1)}; this peer {may}")
        return [*lines, self.contradiction] if self.contradiction else lines


def governance(node: RunNode) -> Governance:
    """Returns how a run is governed, as this peer knows it now."""
    state, me = node.state, node.peer_id
    names = {peer: held[-1].name for peer, held in state.admissions.items() if held and held[-1].name}
    rights = state.rights(me)
    return Governance(
        notices=state.number,
        last=tuple(
            NoticeStatus(
                number=one.record.seq,
                act=one.record.change.act,
                at_s=one.record.issued_at,
                words=notice_words(one, names),
            )
            for one in state.notices[-_LAST:]
        ),
        paused=state.paused is not None,
        ended=state.ended is not None,
        contradiction=node.fork,
        members_only=state.signed.members_only,
        private=state.signed.private,
        members=_members(state) if state.signed.members_only else 0,
        rights=tuple(sorted(rights)),
        rights_end_s=_end_s(state, me) if rights else None,
        names=names,
    )


def _members(state: RunState) -> int:
    """Returns how many machines take part, each with its generator."""
    known = {state.signed.owner_node, *state.signed.gate.attestors, *state.admissions}
    beside = {
        peer for peer, held in state.admissions.items() if any(one.companion_of in known for one in held)
    }
    return sum(state.is_member(peer) for peer in known - beside if peer)


def _end_s(state: RunState, me: str) -> float | None:
    """Returns when a peer's last right ends; None where one never does."""
    if not state.signed.members_only or me in (state.signed.owner_node, *state.signed.gate.attestors):
        return None
    held = [one.until_s for one in state.admissions.get(me, ()) if one.holds(state.now_s)]
    last_s = max(held, default=FOREVER_S)
    return None if last_s >= FOREVER_S else last_s
