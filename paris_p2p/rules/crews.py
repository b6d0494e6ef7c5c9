"""Who is in a slot's crew, which crew a free peer joins, and who moves to another: pure functions
(docs/protocol.md, "Crews").

Keys are free: a crowd of them that says it works takes no place of those whose updates were merged, and loses
the places that it has after a patience in which it brought nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from paris_p2p.crew_records import CrewSpec, WorkerRecord
from paris_p2p.envelope import Envelope
from paris_p2p.rules.heard import CLOCK_SLACK_S
from paris_p2p.rules.placement import SIMILAR, Choice, SlotState, lot
from paris_p2p.spec import TimingSpec

LEAST_GAP = 2  # peers by which another crew is smaller before anybody moves there
_ROUNDING_S = 1e-3  # expiry = issue + length does not come back exactly in floating point


@dataclass(frozen=True)
class CrewMember:
    """A peer that works in a slot's crew beside its lead."""

    peer: str
    since_s: float  # Unix time at which it joined, hardly before it was heard here
    step_s: float = 0.0  # of one optimizer step, as it measured; 0: not yet
    upload_bytes_per_s: float = 0.0  # as it measured; 0: not yet
    is_idle: bool = False  # it had a whole patience here, and no update of its was merged


@dataclass(frozen=True)
class SlotCrew:
    """A slot, and who works there beside its lead."""

    state: SlotState
    members: tuple[CrewMember, ...] = ()  # as `crew_of` returns them

    @property
    def size(self) -> int:
        """Returns how many peers train the slot, its lead among them; who brought nothing for a patience
        takes no place from those who would join.
        """
        return sum(not one.is_idle for one in self.members) + bool(self.state.lead)

    def has(self, peer: str) -> bool:
        return any(one.peer == peer for one in self.members)


def is_working(worker: Envelope[WorkerRecord], now_s: float, timing: TimingSpec) -> bool:
    """Tells whether a worker's record holds: not released, not run out, not from the future, and no longer
    than a claim.
    """
    record = worker.record
    return (
        not record.released
        and record.joined_at <= record.issued_at <= now_s + CLOCK_SLACK_S
        and record.expires_at - record.issued_at <= timing.claim_s + _ROUNDING_S
        and now_s < record.expires_at + timing.margin_s
    )


def member_of(worker: Envelope[WorkerRecord], heard_s: float, timing: TimingSpec) -> CrewMember:
    """Returns what a worker's record says of it; `heard_s` is since when it is heard here (Unix time)."""
    record = worker.record
    since_s = max(record.joined_at, heard_s - timing.settle_s - CLOCK_SLACK_S)
    return CrewMember(worker.signer, since_s, record.step_s, record.upload_bytes_per_s)


def crew_of(
    workers: Iterable[Envelope[WorkerRecord]],
    contributed: Collection[str],
    now_s: float,
    crew: CrewSpec,
    timing: TimingSpec,
    *,
    heard: Mapping[str, float],
    patience_s: float,
    lead: str = "",
) -> tuple[CrewMember, ...]:
    """Returns who is in a slot's crew beside its lead, the first first; at most `crew.peers` with the lead.

    `workers` are one record of each signer. Those come first who `contributed`: whose updates were merged in
    the last rounds. Then come those that were heard for less than a patience, then those that had one
    and brought nothing, for as many patiences as that is; among equals, who came first, then the smaller
    lot. `heard` says since when each is heard here without a break.
    """
    live = [one for one in workers if one.signer != lead and is_working(one, now_s, timing)]
    members = [member_of(one, heard.get(one.signer, one.record.joined_at), timing) for one in live]

    def wasted(one: CrewMember) -> int:
        return 0 if one.peer in contributed else int(max(0.0, now_s - one.since_s) / patience_s)

    def rank(one: CrewMember) -> tuple[bool, int, float, int]:
        return one.peer not in contributed, wasted(one), one.since_s, lot(one.peer, "crew")

    ranked = sorted(members, key=rank)[: crew.peers - 1]
    return tuple(replace(one, is_idle=wasted(one) > 0) for one in ranked)


def choose_crew(slots: Sequence[SlotCrew], me: str, crew: CrewSpec, *, only: str = "") -> Choice | None:
    """Returns the crew that a peer joins which leads nothing and works nowhere, where `choose_slot` found no
    slot to lead; None when all are full.

    It is the smallest; of several, one of the least trained: those within SIMILAR of the least are shuffled
    by the peer's id, so that a crowd does not all go to one.
    """
    free = [one for one in slots if _takes_in(one, crew) and only in ("", one.state.slot)]
    if not free:
        return None
    size = min(one.size for one in free)
    smallest = [one.state for one in free if one.size == size]
    least = min(one.clips for one in smallest)
    weakest = [one for one in smallest if SIMILAR * one.clips <= least]
    chosen = min(weakest, key=lambda one: lot(me, one.slot))
    why = "chosen by hand" if only else f"the smallest of {len(free)} crews with a place"
    return Choice(chosen.slot, f"{why} ({_peers(size)} so far)", lot(me, "delay") / 2**64)


def choose_move(
    slots: Sequence[SlotCrew], me: str, now_s: float, crew: CrewSpec, patience_s: float
) -> Choice | None:
    """Returns the slot that a worker moves to; None where it stays.

    One worker at a time moves: the newest of the fullest crew (of several, the most trained), when it has
    worked there for a patience, to a crew that is smaller by LEAST_GAP. So a lead never moves, nor the last
    of a crew, and two crews do not change places for ever.
    """
    mine = next((one for one in slots if one.has(me)), None)
    if mine is None or not mine.state.lead or _fullest(slots) != mine:
        return None
    newest = max(mine.members, key=lambda one: (one.since_s, lot(one.peer, "crew")))
    if newest.peer != me or now_s - newest.since_s < patience_s:
        return None
    # One that nobody leads is taken by its own workers, where it has some.
    others = [one for one in slots if _takes_in(one, crew) or (one.size == 0 and _is_open(one))]
    smaller = [one for one in others if one.size + LEAST_GAP <= mine.size]
    if not smaller:
        return None
    chosen = min(smaller, key=lambda one: (one.size, one.state.clips, lot(me, one.state.slot)))
    why = f"its crew is {_peers(chosen.size)}, that of {mine.state.slot} {_peers(mine.size)}"
    return Choice(chosen.state.slot, why, lot(me, "delay") / 2**64)


def _fullest(slots: Sequence[SlotCrew]) -> SlotCrew:
    return max(slots, key=lambda one: (one.size, one.state.clips, one.state.slot))


def _takes_in(one: SlotCrew, crew: CrewSpec) -> bool:
    return bool(one.state.lead) and _is_open(one) and one.size < crew.peers


def _is_open(one: SlotCrew) -> bool:
    return one.state.fits and not (one.state.done or one.state.rests)


def _peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count} peers"
