"""Leading a slot in rounds, as a loop:

    at the round's end:                               make this machine's own update
    when all members' updates are here, or grace is over: merge them, and publish the card
    when that card is the tip:                        the next round begins
    when nobody attested it in time:                  merge anew, with what came meanwhile
    when attestors refuse it, and it measures so here: merge anew, leaving each update out in turn
    when there are no workers any more:               go on alone, as peer/lead.py does

What is done when stands in rules/crew_steps.py, which updates count and how in rules/rounds.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.collecting import Collector, HeardUpdates, MergePoint
from paris_p2p.peer.crew_files import named, opened_each
from paris_p2p.peer.crew_rounds import checkpoint_of, round_of
from paris_p2p.peer.crew_seat import CrewSeat
from paris_p2p.peer.notifier import Notifier, StopRequest
from paris_p2p.peer.outbox import Outbox
from paris_p2p.peer.setback import Setback
from paris_p2p.rules.crew_steps import (
    MEASURE_ROUNDS,
    CrewWorth,
    LeadView,
    late_after,
    lead_step,
    leaves_rounds,
    missing_members,
)
from paris_p2p.rules.crews import CrewMember
from paris_p2p.rules.rounds import (
    ALONE_ROUNDS,
    REASONS_FOR_UPDATES,
    goes_full,
    light_way_pays,
    round_length_s,
)
from paris_p2p.rules.tips import Tip
from paris_p2p.training.crew_messages import Merge, MergedReady, NotMerged, UpdateFile

_LOOK_S = 1.0  # dates pass without news


@dataclass
class RoundNotes:
    """What one leadership remembers over its rounds."""

    blamed: dict[str, str] = field(default_factory=dict)  # peer -> update for which the gate refused a card
    worth: CrewWorth = field(default_factory=CrewWorth)
    since_measure: int = 0  # rounds since the crew was compared with its lead alone
    alone: int = 0  # rounds in a row with this machine's update alone
    usual_norm: float = 0.0
    seen: frozenset[str] = frozenset()  # members at the last full card
    late: dict[str, int] = field(default_factory=dict)  # rounds in a row that a member's update came late


class CrewLead:
    """One leadership's time in rounds; `seat` is its trainer, which `run` leaves as it is."""

    def __init__(
        self,
        node: RunNode,
        outbox: Outbox,
        setback: Setback,
        seat: CrewSeat,
        news: Notifier,
        stop: StopRequest,
        work_dir: Path,
        notes: RoundNotes,
        say: Callable[[str], None],
    ):
        self.node, self.outbox, self.setback, self.seat = node, outbox, setback, seat
        self.news, self.stop, self.work_dir, self.notes, self.say = news, stop, work_dir, notes, say
        self.slot = outbox.slot
        self.collector = Collector(node, self.slot, news)
        self._without: list[Envelope[UpdateRecord]] = []  # to be left out in turn, the next one first
        self._tried: Envelope[UpdateRecord] | None = None  # left out of the card that is out
        self._merged: tuple[Envelope[UpdateRecord], ...] = ()  # by the last merge of all that came
        self._done = set[str]()  # updates that rounds merged or refused, of those that are heard of
        self._is_out = False  # what was merged into the base is on its way, or waits for attestation

    @property
    def colleagues(self) -> tuple[CrewMember, ...]:
        """Returns who works here beside this lead."""
        return self.node.board.crew(self.slot, self.node.peer_id, time.time())

    @property
    def full_upload_s(self) -> float:
        """Returns what a full checkpoint's upload takes; 0 while the line is not known."""
        tip = self.node.board.tip(self.slot)
        files = (tip.card.record.weights, tip.card.record.resume) if tip else ()
        return self.seat.uplink.upload_s(sum(ref.size_bytes for ref in files))

    async def run(self, outdated: Callable[[], bool]) -> str:
        """Leads rounds until asked to stop ("stop"), until this lead goes on alone ("solo"), or until its
        trainer has to start anew ("renew"); `outdated` says that there is a newer job.
        """
        try:
            while True:
                if (end := await self._step(outdated)) is not None:
                    return end
        finally:
            await self.collector.close()

    async def _step(self, outdated: Callable[[], bool]) -> str | None:
        seat, tip = self.seat, self.node.board.tip(self.slot)
        seat.trainer.raise_if_ended()
        if tip is None or self.outbox.state.dropped_for:
            return "stop"
        if self.setback.came.is_set():
            return await self._refused()
        if self._ends_now(tip):
            return "stop"
        stands_on_tip = tip.card.id == seat.card.id  # or it would go on from before its last round
        if stands_on_tip and not self.stop.made and self._is_alone_now():
            return "solo"
        heard = self.collector.look(self._point())
        step = lead_step(self._view(tip, heard, outdated()), time.monotonic())
        if step.action == "adopt":
            await self._follow(tip)
        elif step.action == "renew":
            return "renew"
        elif step.action == "update":
            await self._update()
        elif step.action in ("merge", "merge anew"):
            await self._merge(tip, heard)
        else:
            await seat.tell()
            await self.news.wait(min(_LOOK_S, max(0.0, step.until_s - time.monotonic())))
        return None

    def _ends_now(self, tip: Tip) -> bool:
        """Tells whether a leadership that was asked to stop has nothing more to merge."""
        return self.stop.made and (self.outbox.is_lost or (self._is_out and tip.card.id == self.seat.card.id))

    def _is_alone_now(self) -> bool:
        return (
            leaves_rounds(
                rounds_alone=self.notes.alone,
                workers=len(self.colleagues),
                light_pays=light_way_pays(self.full_upload_s, self.node.spec.timing),
                kept_alone=self.notes.worth.alone_left > 0,
                stuck=self.notes.worth.stuck,
            )
            and not self.outbox.busy
        )

    def _view(self, tip: Tip, heard: HeardUpdates, outdated: bool) -> LeadView:
        seat, state = self.seat, self.outbox.state
        members = [one.peer for one in self.colleagues]
        patience_s = state.patience_s(self.node.spec.timing.checkpoint_s)
        waits = self._is_out and state.pending is not None and not self.outbox.publishing.locked()
        return LeadView(
            base=seat.card.id,
            tip=tip.card.id,
            base_since_s=seat.base_since_s,
            round_s=seat.round_s,
            updated=seat.updated,
            outdated=outdated or seat.outdated(tip),
            card_out=self._is_out and self.outbox.busy,
            patience_ends_s=state.sent_at_s + patience_s if waits else time.monotonic() + patience_s,
            missing=missing_members(self.notes.late, members, self._in_time(heard)),
            ending=self.stop.made,
        )

    def _in_time(self, heard: HeardUpdates) -> set[str]:
        """Returns whose updates of this round are here."""
        base = self.seat.card.id
        return {one.signer for one in heard.may_count if one.record.base == base and self.collector.has(one)}

    def _point(self) -> MergePoint:
        seat = self.seat
        done = self._done | {one.id for each in seat.rounds for one in each.updates}
        done |= {one.update for each in seat.rounds for one in each.made.refused}
        self._done = {one for one in done if self.node.board.heard_at(one) is not None}
        return MergePoint(seat.card, seat.lineage, seat.counts, self._done)

    async def _follow(self, tip: Tip) -> None:
        """Goes on from the tip: the card of this lead's last merge, as a rule."""
        await self.seat.follow(tip)
        self._is_out, self._without = False, []
        if self._tried is not None and self._tried.signer != self.node.peer_id:
            self.notes.blamed[self._tried.signer] = self._tried.id
            self.say(
                f"{self.slot} does better without the update of {self._tried.signer[-8:]}: "
                "that peer's is the first to be left out from now on, where the gate refuses a round"
            )
        self._tried = None

    async def _update(self) -> None:
        """Makes this machine's own update; where it learned nothing the round is merged of others'."""
        await self.seat.make_update()

    # merging

    async def _merge(
        self, tip: Tip, heard: HeardUpdates, *, without: Envelope[UpdateRecord] | None = None
    ) -> None:
        seat, base = self.seat, self.seat.card
        candidates = [one for one in heard.may_count if self.collector.has(one)]
        if without is not None:  # what came since is tried another time
            candidates = list(self._merged)
        if not candidates:
            await self._give_up()
            return
        full = self._goes_full(tip)
        compare = self.notes.since_measure + 1 >= MEASURE_ROUNDS and len(candidates) > 1
        refs = [one.record.blob for one in candidates]
        async with opened_each(self.node, refs, base.id, f"merge/{self.slot}") as paths:
            lineage = seat.lineage
            files = [(one, path) for one, path in zip(candidates, paths, strict=True) if path is not None]
            unread = [one for one, path in zip(candidates, paths, strict=True) if path is None]
            merged = await seat.trainer.merge(
                Merge(
                    parent=base.id,
                    candidates=tuple(self._named(one, path, lineage) for one, path in files),
                    full=full,
                    usual_norm=self.notes.usual_norm,
                    without=() if without is None else (without.id,),
                    compare=compare,
                )
            )
        refused = heard.refused | {one.id: (one.signer, "format") for one in unread}
        refused |= {one.update: (one.signer, one.reason) for one in merged.left_out}
        for one in merged.left_out:
            why = f"{REASONS_FOR_UPDATES.get(one.reason, one.reason)} ({one.measured})"
            self.say(f"an update of {self.slot} by {one.signer[-8:]} was not merged: {why}")
        if isinstance(merged, NotMerged):
            await self._give_up()
            return
        self._note(merged, compared=compare)
        by_id = {one.id: one for one in candidates}
        if without is None:
            members = [one.peer for one in self.colleagues]
            self.notes.late = late_after(self.notes.late, members, self._in_time(heard))
            self._merged = tuple(by_id[one.update] for one in merged.round.updates)
        made = round_of(merged, base, lineage, seat.counts, by_id, refused)
        self.outbox.drop()
        self.outbox.keep_round(checkpoint_of(merged, made, base, self._next_round_s(), self.work_dir))
        self._is_out, self._tried = True, without
        if full:
            self.notes.seen = frozenset(one.peer for one in self.colleagues)

    async def _give_up(self) -> None:
        """Gives up a round of which nothing can be merged; when that goes on, the lead trains on alone."""
        worth = self.notes.worth = self.notes.worth.not_merged()
        if worth.stuck:
            self.say(
                f"nothing of {ALONE_ROUNDS} rounds of {self.slot} in a row could be merged; this machine "
                f"goes on alone for {worth.alone_left} checkpoints, then tries rounds again"
            )
        await self.seat.again()

    def _named(self, update: Envelope[UpdateRecord], path: Path, lineage: tuple[str, ...]) -> UpdateFile:
        return named(update, path, late=lineage.index(update.record.base))

    def _note(self, merged: MergedReady, *, compared: bool) -> None:
        """Notes what a merge tells about the crew; says so when it is worse than its lead alone."""
        notes = self.notes
        notes.worth = notes.worth.merged()
        others = any(one.signer != self.node.peer_id for one in merged.round.updates)
        notes.alone = 0 if others else notes.alone + 1
        notes.usual_norm = merged.norm or notes.usual_norm
        notes.since_measure = 0 if compared else notes.since_measure + 1
        if merged.worse_z is not None:
            notes.worth = notes.worth.compared(merged.worse_z)
            if notes.worth.alone_left:
                self.say(
                    f"the crew of {self.slot} did worse than this machine alone twice in a row; "
                    f"it goes on alone for {notes.worth.alone_left} rounds, then tries again"
                )

    def _goes_full(self, tip: Tip) -> bool:
        record, crew = tip.card.record, self.seat.crew
        since = len(record.rounds) if record.is_light else 0
        is_new = any(one.peer not in self.notes.seen for one in self.colleagues)
        asked = self.stop.made or (is_new and 2 * since > crew.full_rounds)
        return goes_full(since, self.full_upload_s, self.seat.round_s, crew, asked=asked)

    def _next_round_s(self) -> float:
        seat, others = self.seat, self.colleagues
        update_bytes = seat.update_bytes()
        lines = [seat.uplink.bytes_per_s, *(one.upload_bytes_per_s for one in others)]
        return round_length_s(
            [seat.trainer.step_s, *(one.step_s for one in others)],
            [update_bytes / line if line > 0 else 0.0 for line in lines],
            seat.crew,
            self.node.spec.timing,
        )

    # refused

    async def _refused(self) -> str | None:
        """Merges anew, leaving out one update after the other; when none mends it, the slot goes back."""
        tip = self.node.board.tip(self.slot)
        self.outbox.drop()  # what was refused is no reason to go back any more
        self.setback.came.clear()
        if self._tried is None:
            blamed, me = self.notes.blamed, self.node.peer_id
            first = sorted(self._merged, key=lambda one: (one.signer not in blamed, one.signer == me))
            self._without = first if len(first) > 1 else []
        if self._without and tip is not None and tip.card.id == self.seat.card.id:
            left = self._without.pop(0)
            self.say(
                f"the round of {self.slot} was refused; merging without the update of {left.signer[-8:]}"
            )
            await self._merge(tip, self.collector.look(self._point()), without=left)
            return None
        self._is_out, self._tried, self._without = False, None, []
        return "back"
