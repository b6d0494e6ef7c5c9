"""What a member of a crew does next, and what became of its update: pure functions (docs/protocol.md,
"Crews").

A worker:
    another card is the tip:                          adopt it
    its trainer knows an older run or rate:           start it anew, from the tip
    the lead is gone:                                 make an update at once, then claim the slot
    the round is over and no update was made of it:   make one
    otherwise:                                        train on

A lead:
    its card is out, or being made:                   train on until it is the tip, or patience ends
    nobody attested it in time:                       merge anew, with what came meanwhile
    another card is the tip:                          adopt it
    its trainer knows an older run or rate:           start it anew, from the tip
    the round is over and no update was made of it:   make one
    all members' updates are here, or grace is over:  merge
    otherwise:                                        train on

Times are monotonic seconds of the member's own clock, counted from when it had the base.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from paris_p2p.crew_records import CrewRound
from paris_p2p.rules.rounds import ALONE_ROUNDS, grace_s, lateness

WorkerAction = Literal["adopt", "renew", "update", "claim", "wait"]
LeadAction = Literal["adopt", "renew", "update", "merge", "merge anew", "wait"]
Fate = Literal["merged", "waits", "late", "lost"]

FIRST_WORSE, WORSE_Z, AWAY_ROUNDS = 2, 3.0, 10  # measured worse so often in a row: so long alone
LATE_ROUNDS = 2  # in a row, after which a member is not waited for until it is in time again
MEASURE_ROUNDS = 10  # between two comparisons of a crew with its lead alone


@dataclass(frozen=True)
class MemberView:
    """What a member knows when it decides; `updated` says that it made an update of its base."""

    base: str  # the card whose state its trainer has
    tip: str
    base_since_s: float
    round_s: float
    updated: bool
    outdated: bool  # the trainer's job is not what the tip and the run ask for now


@dataclass(frozen=True)
class LeadView(MemberView):
    """What the lead of a crew knows beside that."""

    card_out: bool = False  # a card of the last merge is being made or told, or waits for attestation
    patience_ends_s: float = math.inf  # of the card that is out
    missing: int = 0  # members that are waited for, whose update of this round is not here yet
    ending: bool = False  # it merges what there is, now


@dataclass(frozen=True)
class MemberStep:
    """What to do, and when time alone may change it."""

    action: WorkerAction | LeadAction
    until_s: float = math.inf


def worker_step(view: MemberView, *, has_lead: bool, now_s: float) -> MemberStep:
    """Returns what a worker does next."""
    if view.tip != view.base:
        return MemberStep("adopt")
    if view.outdated:
        return MemberStep("renew")
    ends_s = view.base_since_s + view.round_s
    if not view.updated and (now_s >= ends_s or not has_lead):
        return MemberStep("update")
    if not has_lead:
        return MemberStep("claim")
    return MemberStep("wait", math.inf if view.updated else ends_s)


def lead_step(view: LeadView, now_s: float) -> MemberStep:
    """Returns what the lead of a crew does next."""
    if view.card_out and view.tip == view.base:
        if now_s < view.patience_ends_s:
            return MemberStep("wait", view.patience_ends_s)
        return MemberStep("merge anew")
    if view.tip != view.base:
        return MemberStep("adopt")
    if view.outdated and not view.ending:
        return MemberStep("renew")
    ends_s = view.base_since_s + view.round_s
    if not view.updated:
        return MemberStep("update") if view.ending or now_s >= ends_s else MemberStep("wait", ends_s)
    closes_s = ends_s + grace_s(view.round_s)
    if view.ending or not view.missing or now_s >= closes_s:
        return MemberStep("merge")
    return MemberStep("wait", closes_s)


def late_after(late: Mapping[str, int], members: Collection[str], here: Collection[str]) -> dict[str, int]:
    """Returns for how many rounds in a row each member's update was not here when its round was merged."""
    return {peer: late.get(peer, 0) + 1 for peer in members if peer not in here}


def missing_members(late: Mapping[str, int], members: Collection[str], here: Collection[str]) -> int:
    """Counts the members whose update a lead waits for, at most until the grace is over: not those that came
    late LATE_ROUNDS times in a row. A slow line, or a machine that is gone, lengthens nobody's rounds.
    """
    return sum(peer not in here and late.get(peer, 0) < LATE_ROUNDS for peer in members)


def rounds_after(rounds: Sequence[CrewRound], card_id: str) -> int | None:
    """Returns the place of the first of a card's rounds that merged into the state of another card; None
    where none did, and the whole state has to be read.
    """
    return next((place for place, one in enumerate(rounds) if one.lineage[0] == card_id), None)


def fate_of(
    update_id: str,
    base: str,
    merged: Collection[str],
    refused: Mapping[str, str],
    lineage: Sequence[str],
) -> tuple[Fate, str]:
    """Returns what became of a member's own update, and with which code of rules/rounds.py it was refused.

    `merged` are the ids of all updates of the rounds that came since, `refused` those left out with their
    codes, `lineage` is of the round that comes next. One that was refused as counted held the work of an
    earlier one, which was merged: what it held beside that is ahead still, and nothing is lost. The work of
    one that came late for its round is given up, and nothing else: the others learned the same meanwhile, and
    a state that takes it twice overshoots (docs/science.md, "Crews").
    """
    if update_id in merged or refused.get(update_id) == "counted":
        return "merged", ""
    if (code := refused.get(update_id, "")) and code != "late":
        return "lost", code
    return ("late", "late") if lateness(base, lineage) is not None else ("lost", "stale")


def enters_rounds(
    *, workers: int, tip_merged: bool, light_pays: bool, kept_alone: bool, stuck: bool = False
) -> bool:
    """Tells whether a lead trains in rounds: with workers, while the tip is a merged state, or where the
    light way pays; not while it stays alone since its crew was worse than itself (`kept_alone`), or since
    rounds came to nothing (`stuck`).
    """
    return tip_merged or (light_pays and not stuck) or (workers > 0 and not kept_alone)


def leaves_rounds(
    *, rounds_alone: int, workers: int, light_pays: bool, kept_alone: bool, stuck: bool = False
) -> bool:
    """Tells whether a lead in rounds goes on alone, as a lead without a crew does."""
    is_alone = kept_alone or (workers == 0 and rounds_alone >= ALONE_ROUNDS)
    return stuck or (is_alone and not light_pays)


@dataclass(frozen=True)
class CrewWorth:
    """What a lead found when it compared its crew's merged state with its own update alone, and whether
    rounds come to anything.
    """

    worse: int = 0  # times in a row that the crew was worse
    alone_left: int = 0  # rounds for which the lead stays alone
    unmerged: int = 0  # rounds in a row of which nothing could be merged
    stuck: bool = False  # it stays alone because of these

    def compared(self, worse_z: float) -> CrewWorth:
        """Notes a comparison: by how many standard errors the merged state was worse."""
        worse = self.worse + 1 if worse_z > WORSE_Z else 0
        if worse >= FIRST_WORSE:
            return CrewWorth(0, AWAY_ROUNDS)
        return CrewWorth(worse, self.alone_left)

    def merged(self) -> CrewWorth:
        """Notes that a round was merged."""
        return replace(self, unmerged=0)

    def not_merged(self) -> CrewWorth:
        """Notes that nothing of a round could be merged; a lead does not try that for ever."""
        if self.unmerged + 1 >= ALONE_ROUNDS:
            return CrewWorth(alone_left=AWAY_ROUNDS, stuck=True)
        return replace(self, unmerged=self.unmerged + 1)

    def round_over(self) -> CrewWorth:
        """Notes a round, or a checkpoint, of the lead alone."""
        left = max(0, self.alone_left - 1)
        return replace(self, alone_left=left, stuck=self.stuck and left > 0)
