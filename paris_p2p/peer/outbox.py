"""Carries one slot's checkpoints out, card by card, as rules/next_card.py decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError, SwarmError
from paris_p2p.node.own_card_file import forget_own_card, own_card
from paris_p2p.node.publish import sign_again, sign_checkpoint, sign_going_back, tell_card
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.beginning import Beginning, beginning_of, card_to_go_on_from, expected_card
from paris_p2p.peer.crew_files import fetch_card
from paris_p2p.peer.held_claim import HeldClaim
from paris_p2p.peer.jobs import fewer_experts
from paris_p2p.peer.notifier import Notifier
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.claims import epoch_to_publish
from paris_p2p.rules.next_card import CardDecision, CardView, NewCheckpoint, Outgoing, next_card
from paris_p2p.rules.tips import Tip, tip_id
from paris_p2p.training.messages import CheckpointReady, TrainJob

_LOOK_S = 1.0  # at a card that is being signed, once no other is


class Outbox:
    """The checkpoints of one leadership; the newest stays on this disk whatever becomes of its card."""

    def __init__(self, node: RunNode, claim: HeldClaim, news: Notifier, say: Callable[[str], None]):
        self.node, self.claim, self.news, self.say, self.slot = node, claim, news, say, claim.slot
        self.state = Outgoing()
        # while a checkpoint's files move into the store and its card goes out
        self.publishing = asyncio.Lock()
        self._moved: dict[Path, BlobRef] = {}  # files that are in the store, and on no card yet
        self._purpose = f"lead/{self.slot}"
        self._beginning: Beginning | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint has not yet reached another peer."""
        return self.state.busy or self.publishing.locked()

    @property
    def cadence_s(self) -> float:
        return self.state.cadence_s(self.node.spec.timing.checkpoint_s)

    @property
    def waiting_cards(self) -> tuple[Envelope[CardRecord], ...]:
        """This training's cards that would follow the tip, the newest last."""
        return self.state.after(self.node.board.tip(self.slot))

    @property
    def is_lost(self) -> bool:
        """Tells whether the claim that all goes out under is lost."""
        return self.claim.decide().action in ("yield", "standby")

    def close(self) -> None:
        self.node.let_go(self._purpose)
        self.node.let_go(f"publish/{self.slot}")

    # What a trainer goes on from

    def stand_on(self, tip: Tip | None) -> None:
        """Notes that rounds go on from the tip, whose files are read elsewhere; or, once an own card that is
        out is the tip, from that.
        """
        own = expected_card(self.node, self.slot)
        begun = self.state.started_from(tip)
        self._become(begun if own is None else begun.expecting(own))

    def expect_nothing(self) -> None:
        """Notes that a training alone begins, which goes on from what it has."""
        self._become(replace(self.state, expected=frozenset()))

    async def start_from(self, tip: Tip | None) -> bool:
        """Fetches what a training begins with, and keeps it while it is in use: this peer's own newest card,
        where that may yet become the tip, else the tip. Returns False where the tip is another one by then.
        """
        start, own = beginning_of(self.node, self.slot, tip), card_to_go_on_from(self.node, self.slot)
        if start is not None and own is None:
            self.node.hold(self._purpose, {start.blob.id})
            await self.node.fetch([start.blob], start.what)
        if tip_id(self.node.board.tip(self.slot)) != tip_id(tip):
            return False
        self._beginning, begun = start, self.state.started_from(tip)
        if own is None:
            self._become(begun)
            return True
        self.node.hold(self._purpose, {own.card.record.resume.id})
        self._become(begun.going_on(own))
        self.say(
            f"{self.slot} goes on from its own newest checkpoint, of step {own.card.record.steps:,}, "
            "which nobody attested yet"
        )
        return True

    def resumed(self, job: TrainJob) -> TrainJob:
        """Returns the job as it goes on from the newest checkpoint, whose file `opened` names."""
        self._become(replace(self.state, notices=job.notices))
        newest = self.state.newest
        changes = {
            "resume_steps": newest.steps,
            "resume_clips": newest.clips,
            "resume_experts": fewer_experts(self.node, self.slot, newest.notices, job.notices),
            "lowered": self.state.lowered,
        }
        return job.model_copy(update=changes)

    @asynccontextmanager
    async def opened(self, job: TrainJob) -> AsyncIterator[TrainJob]:
        """Yields the job with the file that a trainer starts from, which is there while the block lasts: the
        newest checkpoint, or what its training began with.
        """
        newest, start = self.state.newest, self._beginning
        if newest.blob is not None:
            start = Beginning("resume_path", newest.blob, self.node.run)
        if newest.path is not None or start is None:
            yield _starting(job, "resume_path", newest.path)
            return
        async with self.node.readable([start.blob], start.what, f"start/{self.slot}") as (path,):
            yield _starting(job, start.field, path)

    def keep(self, event: CheckpointReady) -> None:
        """Takes a checkpoint that the trainer made; it goes out when the one before it is attested."""
        self._delete_waiting()  # replaced before it went out
        new = NewCheckpoint(
            weights_path=event.weights_path,
            resume_path=event.resume_path,
            clips=event.clips,
            steps=event.steps,
            train_loss=event.train_loss,
            lowered=self.state.lowered,
            notices=self.state.notices,
        )
        self._become(self.state.made(new))

    def keep_round(self, new: NewCheckpoint) -> None:
        """Takes the state that a crew's round led to; it goes out as the child of the card that it was merged
        into.
        """
        self._delete_waiting()
        self._become(self.state.made(replace(new, lowered=self.state.lowered, notices=self.state.notices)))

    def drop(self) -> None:
        """Forgets what was made here, so that none of it goes out any more."""
        self._delete_waiting()
        self._become(self.state.dropped())

    def forget(self) -> None:
        """Drops all, also for the next start: what was made here leads nowhere."""
        self.drop()
        forget_own_card(self.node, self.slot)

    def forget_newest(self) -> None:
        """Drops the newest checkpoint, also for the next start; a card before it stays."""
        own, newest = own_card(self.node, self.slot), self.state.newest
        if own is not None and newest.blob == own.card.record.resume:
            forget_own_card(self.node, self.slot)
        self._delete_waiting()

    def begin_again(self) -> None:
        """Goes to the slot's beginning with a lower rate: there is no tip to go back to."""
        self.forget()
        self._become(self.state.begun_again())

    def give_up(self, why: str) -> None:
        """Sees to it that nothing of this training, nor of what is made yet, goes out."""
        if not self.state.dropped_for:
            self.forget()
            self._become(self.state.given_up(why))

    # What goes out

    def decide(self, *, loading: bool, ending: bool) -> CardDecision:
        """Returns what to do about the next card, as `next_card` says."""
        timing, board, tip = self.node.spec.timing, self.node.board, self.look()
        view = CardView(
            slot=self.slot,
            tip=tip,
            claim=self.claim.decide(),
            holding=self.claim.holding,
            margin_s=min(timing.margin_s, timing.claim_s / 4),
            checkpoint_s=timing.checkpoint_s,
            used=board.epochs_used(self.slot),
            floor=self.node.state.floor_epoch(self.slot),
            refusals=tuple(board.refusals(self.slot)),
            sending=self.publishing.locked(),
            lacks_key=self.node.keys.is_behind,
            loading=loading,
            ending=ending,
        )
        return next_card(self.state, view, time.monotonic())

    async def carry_out(self, decision: CardDecision) -> None:
        """Does what was decided. Raises SwarmError when the others cannot be told now: nothing is lost, the
        next decision is to tell them.
        """
        if decision.action in ("abandon", "drop"):
            self.drop()
        elif decision.action == "tell" and self.state.untold is not None:
            await self._tell(self.state.untold)
        elif decision.action in ("publish", "publish again"):
            if decision.why:
                self.say(decision.why)
            await self._publish(decision.epoch)

    async def go_back(self, tip: Tip) -> bool:
        """Has the lineage's best checkpoint be the tip again, to be trained on with a lower rate
        (rules/rest.py); nothing trains meanwhile.

        Returns False when nobody attested that in time: then training goes on from the tip as it is.
        """
        best = self.node.board.best(self.slot) or tip.card
        self.forget()
        self._become(replace(self.state, going_back=True))
        try:
            refs = await fetch_card(self.node, best)
            self.node.hold(self._purpose, {ref.id for ref in refs})
            self._become(replace(self.state, ancestors=frozenset({tip.card.id})))
            card = await self._sign_going_back(best.record)
            await self._attested_in_time()
            now_tip = self.node.board.tip(self.slot)
            self.drop()
            while not await self.start_from(now_tip):
                now_tip = self.node.board.tip(self.slot)
            return tip_id(now_tip) == card.id
        finally:
            self._become(replace(self.state, going_back=False))

    async def _sign_going_back(self, best: CardRecord) -> Envelope[CardRecord]:
        board = self.node.board
        async with self.publishing:
            used = board.epochs_used(self.slot)
            epoch = epoch_to_publish(
                self.claim.holding.epoch,
                (),
                board.tip(self.slot),
                used,
                self.node.state.floor_epoch(self.slot),
            )
            await self._claim_epoch(epoch)
            card = sign_going_back(self.node, best, self.claim.holding.epoch)
            with suppress(SwarmError):  # the others are told later, as `next_card` says
                await self._send(card)
        return card

    async def _attested_in_time(self) -> None:
        """Waits until the card that is out is the tip, for twice the patience of a card."""
        patience_s = 2 * self.state.patience_s(self.node.spec.timing.checkpoint_s)
        while self.state.pending is not None:
            left_s = self.state.sent_at_s + patience_s - time.monotonic()
            if left_s <= 0:
                break
            await self.news.wait(left_s)
            self.look()

    async def _publish(self, epoch: int) -> None:
        new, again = self.state.waiting, self.state.pending
        self._become(self.state.taken())
        async with self.publishing:
            try:
                await self._claim_epoch(epoch)
                if new is not None and new.round is not None and new.round.parent != tip_id(self.look()):
                    self.drop()  # the tip moved while the claim was renewed
                    return
                card = await self._signed(new) if new is not None else self._signed_again(again, epoch)
            except ParisError:
                if new is not None:
                    self._become(self.state.not_signed(new))
                raise
            if card is not None:
                await self._send(card)

    def _signed_again(self, again: Envelope[CardRecord] | None, epoch: int) -> Envelope[CardRecord] | None:
        if again is None:
            return None
        return sign_again(self.node, again.record.model_copy(update={"epoch": epoch}), self.state.before)

    async def _signed(self, new: NewCheckpoint) -> Envelope[CardRecord]:
        """Signs a checkpoint, whose files move into the store for it, and stay there where it fails then."""
        try:
            epoch, before = self.claim.holding.epoch, self.state.before
            card = await sign_checkpoint(self.node, self.slot, epoch, new, self._moved, before)
        finally:
            # What a new trainer would go on from stays on this disk, whatever becomes of the card.
            resume = self._moved.get(new.resume_path) if new.resume_path is not None else None
            if resume is not None:
                self.node.hold(self._purpose, {resume.id})
                self._become(self.state.stored(new, resume))
        self.node.hold(self._purpose, {card.record.resume.id, *(ref.id for ref in card.record.rounds)})
        self._moved.clear()
        return card

    async def put_by(self) -> None:
        """Signs the checkpoint that waits and tells nobody: it goes out when the card before it was judged
        (own_cards.py), and the next training here goes on from it. Raises as signing does.
        """
        while self.publishing.locked() and self.state.untold is None:  # what waited is being signed
            await self.news.wait(_LOOK_S)
        new, tip = self.state.waiting, self.look()
        is_led_past = new is not None and new.round is not None and new.round.parent != tip_id(tip)
        if new is None or is_led_past or self.state.dropped_for or not self.state.descends(tip):
            return
        self._become(self.state.taken())
        # another card that is being told now is all in the store, and telling may take long
        async with nullcontext() if self.publishing.locked() else self.publishing:
            try:
                card = await self._signed(new)
            except ParisError:
                self._become(self.state.not_signed(new))
                raise
        self._become(self.state.signed(card))
        self.node.keep_good(card.record)
        self.node.keep(card)

    async def _claim_epoch(self, epoch: int) -> None:
        """Claims a higher epoch for the card where attestors are bound to other cards of this one, which
        could otherwise wait for ever.
        """
        before = self.claim.holding.epoch
        if epoch != before:
            self.say(
                f"attestors signed other cards of {self.slot} under epoch {before}; "
                f"going on under epoch {epoch}"
            )
            await self.claim.renew(epoch)

    async def _send(self, card: Envelope[CardRecord]) -> None:
        if self.state.dropped_for:  # while its files moved into the store
            return
        self._become(self.state.signed(card))
        await self._tell(card)

    async def _tell(self, card: Envelope[CardRecord]) -> None:
        self._become(replace(self.state, sent_at_s=time.monotonic()))
        await tell_card(self.node, card)
        self._become(self.state.told(card))
        record = card.record
        self.say(
            f"published {self.slot} seq {record.seq}: {record.steps:,} steps, loss {record.train_loss:.4f}"
        )

    # The state

    def look(self) -> Tip | None:
        """Returns the slot's tip, and notes when it is the card that was out."""
        tip, before = self.node.board.tip(self.slot), self.state
        self._become(before.seen(tip, time.monotonic()))
        if self.state is not before and tip is not None:
            self.node.tallies = self.node.tallies.published(self.state.upload_s)
            seq = tip.card.record.seq
            self.say(f"{self.slot} seq {seq} is the tip after {self.state.upload_s:.1f} s")
        return tip

    def _delete_waiting(self) -> None:
        """Deletes a checkpoint that did not go out, which is ours to remove."""
        if (waiting := self.state.waiting) is not None:
            for path in waiting.paths:
                path.unlink(missing_ok=True)
                self._moved.pop(path, None)
            self._become(self.state.taken())

    def _become(self, state: Outgoing) -> None:
        if state is not self.state:
            self.state = state
            self.news.notify()


def _starting(job: TrainJob, field: str, path: Path | None) -> TrainJob:
    nothing = {"resume_path": None, "parent_path": None, "initial_path": None}
    return job.model_copy(update=nothing | {field: path})
