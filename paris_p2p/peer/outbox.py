"""One slot's checkpoints on their way out, card by card.

At most one card waits for attestation. A newer checkpoint replaces the one that waits behind it, so that a
slow swarm costs sharing, never training.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.envelope import Envelope
from paris_p2p.errors import SwarmError
from paris_p2p.node.publish import NewCheckpoint, sign_again, sign_checkpoint, sign_going_back, tell_card
from paris_p2p.node.run_node import RunNode
from paris_p2p.records import CardRecord
from paris_p2p.rules.claims import epoch_to_publish
from paris_p2p.rules.placement import attest_patience_s, card_cadence_s, checkpoint_interval_s
from paris_p2p.rules.rates import lowered_after
from paris_p2p.rules.refusals import words_of
from paris_p2p.rules.tips import Tip
from paris_p2p.training.messages import CheckpointReady

BACK_S = 0.1


@dataclass(frozen=True)
class ResumePoint:
    """What a new trainer goes on from; no path at the very beginning."""

    path: Path | None = None
    steps: int = 0
    clips: int = 0


class Outbox:
    """Checkpoints of one leadership; `newest` stays on this disk whatever becomes of its card."""

    def __init__(
        self,
        node: RunNode,
        slot: str,
        epoch: int,
        say: Callable[[str], None],
        claim: Callable[[int], Awaitable[None]],
    ):
        self.node, self.slot, self.epoch, self.say, self.claim = node, slot, epoch, say, claim
        self.newest = ResumePoint()
        self.attested = 0
        self.lowered = 0  # how often the learning rate of this training was lowered
        # while a checkpoint's files move into the store and its card goes out
        self.publishing = asyncio.Lock()
        self._waiting: NewCheckpoint | None = None
        self._pending: Envelope[CardRecord] | None = None
        self._untold: Envelope[CardRecord] | None = None  # signed, and nobody could be told of it yet
        self._sent_at_s = 0.0  # monotonic, of the newest card
        self._upload_s = 0.0  # from a card to its attestation, measured last
        self._sent: list[Envelope[CardRecord]] = []  # since the tip
        self._going_back = False  # nothing trains, and nothing but the card that goes back is sent
        # cards this training descends from: only they may be a new card's parent
        self._ancestors: set[str] = set()
        self._purpose = f"lead/{slot}"

    @property
    def busy(self) -> bool:
        """Whether a checkpoint has not yet reached another peer."""
        return self._waiting is not None or self._pending is not None or self.publishing.locked()

    @property
    def cadence_s(self) -> float:
        """Seconds from one card to the next."""
        return card_cadence_s(self.node.spec.timing.checkpoint_s, self._upload_s)

    async def start_from(self, tip: Tip | None) -> None:
        """Fetch the tip's resume state and keep it while it is in use."""
        if tip is None:
            self._ancestors = {""}
            return
        card = tip.card.record
        self.lowered = lowered_after(card.lowered)
        self.node.hold(self._purpose, {card.resume.id})
        path = (await self.node.fetch([card.resume], tip.card.id))[0]
        self.newest = ResumePoint(path, card.steps, card.clips)
        self._ancestors = {tip.card.id}

    def close(self) -> None:
        self.node.let_go(self._purpose)
        self.node.let_go(f"publish/{self.slot}")

    @property
    def waiting_cards(self) -> list[Envelope[CardRecord]]:
        """This training's cards that would follow the tip, the newest last."""
        parent = _id(self.node.board.tip(self.slot))
        return [] if self._going_back else [card for card in self._sent if card.record.parent == parent]

    async def go_back(self, tip: Tip) -> bool:
        """Have the lineage's best checkpoint be the tip again, to be trained on with a lower rate
        (rules/rest.py).

        False when nobody attested that in time: then training goes on from the tip as it is. Nothing trains
        meanwhile.
        """
        best = self.node.board.best(self.slot) or tip.card
        self._going_back = True
        try:
            self._drop()
            await self.node.fetch([best.record.weights, best.record.resume], best.id)
            self.node.hold(self._purpose, {best.record.weights.id, best.record.resume.id})
            self._ancestors = {tip.card.id}
            async with self.publishing:
                await self._leave_used_place(mine=())
                card = sign_going_back(self.node, best.record, self.epoch)
                with suppress(SwarmError):  # the others are told later, by `publish_if_due`
                    await self._send(card)
            patience_s = 2 * attest_patience_s(
                checkpoint_interval_s(self.node.spec.timing.checkpoint_s, self._upload_s)
            )
            while self._pending is not None and time.monotonic() - self._sent_at_s < patience_s:
                await asyncio.sleep(BACK_S)
                self._note_attested()
            now = self.node.board.tip(self.slot)
            self._drop()
            await self.start_from(now)
            return _id(now) == card.id
        finally:
            self._going_back = False

    def begin_again(self) -> None:
        """From the slot's beginning with a lower rate: there is no tip to go back to."""
        self._drop()
        self.newest, self._ancestors = ResumePoint(), {""}
        self.lowered += 1

    def _drop(self) -> None:
        """Nothing that was made here goes out any more."""
        self._drop_waiting()
        self._pending = self._untold = None
        self._sent = []

    def _drop_waiting(self) -> None:
        """A checkpoint that did not go out; its files are ours to remove."""
        if self._waiting is not None:
            self._waiting.weights_path.unlink(missing_ok=True)
            self._waiting.resume_path.unlink(missing_ok=True)
            self._waiting = None

    def keep(self, event: CheckpointReady) -> None:
        """A checkpoint the trainer made; it goes out when the one before it is attested."""
        self._drop_waiting()  # replaced before it went out
        self._waiting = NewCheckpoint(
            weights_path=event.weights_path,
            resume_path=event.resume_path,
            clips=event.clips,
            steps=event.steps,
            train_loss=event.train_loss,
            lowered=self.lowered,
        )
        self.newest = ResumePoint(event.resume_path, event.steps, event.clips)

    def descends(self) -> bool:
        """Whether this training goes on from the slot's tip. If not, nothing of it can be published any
        more.
        """
        self._note_attested()
        if not self._ancestors or _id(self.node.board.tip(self.slot)) in self._ancestors:
            return True
        self._waiting = self._pending = self._untold = None
        return False

    async def publish_if_due(self, *, hurry: bool) -> None:
        """Publish the waiting checkpoint: once ours before it is the tip, or so old that it must have been
        refused.

        In a `hurry` (this peer is about to leave) it does not wait for the interval. SwarmError when the
        others cannot be told now: nothing is lost, the next call tells them.
        """
        if self._untold is not None:
            await self._tell(self._untold)
        self._note_attested()
        if self._going_back:
            return
        if self._overtaken():
            await self._publish_after_overtaken()
            return
        if self._waiting is None:
            return
        age_s = time.monotonic() - self._sent_at_s
        if self._pending is not None:
            if age_s < attest_patience_s(
                checkpoint_interval_s(self.node.spec.timing.checkpoint_s, self._upload_s)
            ):
                return
            self.say(
                f"nobody attested {self.slot} seq {self._pending.record.seq}: {self._why_not()}; "
                "a newer one goes out"
            )
        elif age_s < self.cadence_s and self._sent_at_s and not hurry:
            return
        await self._publish()

    def _overtaken(self) -> bool:
        """Whether an earlier card of this training became the tip after a newer one went out: nobody may
        attest that one now.
        """
        return self._pending is not None and _id(self.node.board.tip(self.slot)) not in (
            self._pending.id,
            self._pending.record.parent,
        )

    async def _publish_after_overtaken(self) -> None:
        """The training in it is not lost: it goes out again after the new tip, or what the trainer made
        since does.
        """
        if self._pending is None:
            return
        self.say(
            f"an earlier checkpoint became {self.slot} seq {self._pending.record.seq}; "
            "what came after it follows as the next"
        )
        if self._waiting is not None:
            await self._publish()
            return
        async with self.publishing:
            await self._leave_used_place()
            await self._send(
                sign_again(self.node, self._pending.record.model_copy(update={"epoch": self.epoch}))
            )

    async def _publish(self) -> None:
        checkpoint, self._waiting = self._waiting, None
        if checkpoint is None:
            return
        async with self.publishing:
            await self._leave_used_place()
            card = await sign_checkpoint(self.node, self.slot, self.epoch, checkpoint)
            # What a new trainer would go on from stays on this disk, whatever becomes of the card.
            self.node.hold(self._purpose, {card.record.resume.id})
            if self.newest.path == checkpoint.resume_path:  # else the trainer made a newer one meanwhile
                self.newest = ResumePoint(
                    self.node.host.store.path(card.record.resume.id), checkpoint.steps, checkpoint.clips
                )
            await self._send(card)

    async def _leave_used_place(self, mine: Collection[str] | None = None) -> None:
        """Where attestors are bound to other cards this one could wait for ever: it goes out under a
        higher epoch, claimed first.
        """
        board = self.node.board
        epoch = epoch_to_publish(
            self.epoch,
            self._ancestors if mine is None else mine,
            board.tip(self.slot),
            board.epochs_used(self.slot),
        )
        if epoch != self.epoch:
            self.say(
                f"attestors signed other cards of {self.slot} under epoch {self.epoch}; "
                f"going on under epoch {epoch}"
            )
            await self.claim(epoch)
            self.epoch = epoch

    async def _send(self, card: Envelope[CardRecord]) -> None:
        self._ancestors.add(card.id)
        self._sent.append(card)
        self._pending = self._untold = card
        await self._tell(card)

    async def _tell(self, card: Envelope[CardRecord]) -> None:
        self._sent_at_s = time.monotonic()
        await tell_card(self.node, card)
        self._untold = None
        self.say(
            f"published {self.slot} seq {card.record.seq}: {card.record.steps} steps, "
            f"loss {card.record.train_loss:.4f}"
        )

    def _why_not(self) -> str:
        newest = self._pending.id if self._pending else ""
        reasons = {
            one.record.reason for one in self.node.board.refusals(self.slot) if one.record.card == newest
        }
        return " and ".join(words_of(code) for code in sorted(reasons)) or "refused, or nobody is there"

    def _note_attested(self) -> None:
        tip = self.node.board.tip(self.slot)
        if self._pending is not None and tip is not None and tip.card.id == self._pending.id:
            self._upload_s = time.monotonic() - self._sent_at_s
            self._pending = None
            self.attested += 1
            self._sent = []
            self.say(f"{self.slot} seq {tip.card.record.seq} is the tip after {self._upload_s:.1f} s")


def _id(tip: Tip | None) -> str:
    return tip.card.id if tip else ""
