"""When a lead's next card goes out, and which: pure functions (docs/protocol.md, "Order").

    the owner took back what this training stands on:       stop, and nothing goes out
    the claim is lost, or the tip is not of this training:  stop
    the claim is about to run out, or a trainer is loading: wait
    a card that goes back is being told:                    wait
    the run has a new key, which is not here yet:           wait
    a card was signed and nobody could be told of it:       tell it again; sign it once more where its epoch
                                                            is below that of the claim
    the slot is going back to its best card:                wait
    an earlier card of ours became the tip:                 publish what came after it; a round is
                                                            dropped, to be merged anew
    no checkpoint waits:                                    wait
    a card is out:                                          wait until it is attested, or patience ends
    the last card went out less than a cadence ago:         wait, unless this leadership is about to end
    otherwise:                                              publish the checkpoint that waits

At most one card waits for attestation. A newer checkpoint replaces the one that waits behind it, so that a
slow swarm costs sharing, never training. Times are monotonic seconds of the lead's own clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from paris_p2p.envelope import Envelope
from paris_p2p.records import BlobRef, CardRecord, RefusalRecord
from paris_p2p.rules.claims import Decision, epoch_to_publish
from paris_p2p.rules.holding import Holding
from paris_p2p.rules.own_card import OwnCard
from paris_p2p.rules.placement import attest_patience_s, card_cadence_s, checkpoint_interval_s
from paris_p2p.rules.rates import lowered_after
from paris_p2p.rules.refusals import words_of
from paris_p2p.rules.tips import Tip, tip_id

FROM_BEGINNING = frozenset({""})  # the ancestors of a training whose first card has no parent

CardAction = Literal["yield", "abandon", "wait", "tell", "publish", "publish again", "drop"]


@dataclass(frozen=True)
class NewRound:
    """What the card of a crew says beside its counters: the round that led to it."""

    parent: str  # the card that it was merged into: it follows no other
    path: Path  # of the round blob
    before: tuple[BlobRef, ...]  # the rounds before it since the full card
    merged: str  # hash of the state
    round_s: float  # how long the next round takes
    # of a light card: the full card that it stands on, and that one's blobs
    full: str = ""
    blobs: tuple[BlobRef, BlobRef] | None = None  # weights and resume state


@dataclass(frozen=True)
class NewCheckpoint:
    """Two files and what they are, before they have a name; a crew's light card has no files of its own."""

    weights_path: Path | None
    resume_path: Path | None
    clips: int
    steps: int
    train_loss: float
    lowered: int = 0  # how often the learning rate was lowered (rates.py)
    notices: int = 0  # the number of the owner's newest notice that its training knew
    round: NewRound | None = None  # None: of one lead alone

    @property
    def paths(self) -> tuple[Path, ...]:
        """Returns all files of it."""
        paths = self.weights_path, self.resume_path, self.round.path if self.round else None
        return tuple(path for path in paths if path is not None)


@dataclass(frozen=True)
class ResumePoint:
    """What a new trainer goes on from: a file of the trainer's until it is in the store, then a blob there.

    At the very beginning there is neither.
    """

    path: Path | None = None
    blob: BlobRef | None = None
    steps: int = 0
    clips: int = 0
    notices: int = 0  # that its training knew, by number


@dataclass(frozen=True)
class Outgoing:
    """The checkpoints of one leadership on their way out."""

    newest: ResumePoint = ResumePoint()
    lowered: int = 0  # how often the learning rate of this training was lowered
    ancestors: frozenset[str] = frozenset()  # cards this training descends from; empty: not known yet
    expected: frozenset[str] = frozenset()  # own cards that rounds go on from, should one become the tip
    places: frozenset[tuple[int, int]] = frozenset()  # (epoch, seq) of those cards
    notices: int = 0  # the number of the newest notice that the trainer knows
    dropped_for: str = ""  # why nothing of this training goes out any more
    waiting: NewCheckpoint | None = None  # made, and not yet signed
    pending: Envelope[CardRecord] | None = None  # signed, and not yet the tip
    untold: Envelope[CardRecord] | None = None  # signed, and nobody could be told of it yet
    sent: tuple[Envelope[CardRecord], ...] = ()  # since the tip, the newest last
    earlier: frozenset[str] = frozenset()  # cards before those, of the training that this one goes on from
    sent_at_s: float = -math.inf  # of the newest card
    upload_s: float = 0.0  # from a card to its attestation, as measured last
    going_back: bool = False  # nothing trains, and nothing but the card that goes back is sent
    attested: int = 0

    @property
    def busy(self) -> bool:
        """Whether a checkpoint has not yet reached another peer."""
        return self.waiting is not None or self.pending is not None

    def cadence_s(self, checkpoint_s: float) -> float:
        """Returns the seconds from one card to the next."""
        return card_cadence_s(checkpoint_s, self.upload_s)

    def patience_s(self, checkpoint_s: float) -> float:
        """Returns the seconds after which a card without an attestation was refused, or nobody is there."""
        return attest_patience_s(checkpoint_interval_s(checkpoint_s, self.upload_s))

    @property
    def before(self) -> frozenset[str]:
        """Returns the cards that the next one comes after, and that are no tips, as an OwnCard has them."""
        return self.earlier | {card.id for card in self.sent}

    def descends(self, tip: Tip | None) -> bool:
        """Whether this training goes on from the tip; if not, nothing of it can be published any more."""
        return not self.ancestors or tip_id(tip) in self.ancestors | self.expected

    def is_overtaken(self, tip: Tip | None) -> bool:
        """Whether an earlier card of this training became the tip after a newer one went out, which nobody
        may attest now.
        """
        return self.pending is not None and tip_id(tip) not in (self.pending.id, self.pending.record.parent)

    def after(self, tip: Tip | None) -> tuple[Envelope[CardRecord], ...]:
        """Returns this training's cards that would follow the tip, the newest last."""
        if self.going_back:
            return ()
        return tuple(card for card in self.sent if card.record.parent == tip_id(tip))

    # What is true after something happened

    def seen(self, tip: Tip | None, now_s: float) -> Outgoing:
        """Notes what the tip is: perhaps the card that was out, or the same checkpoint as it was signed
        before. Of the two the other may still become the tip, where attestors signed both.
        """
        if tip is not None and tip.card.id in self.expected:
            return replace(self, ancestors=self.ancestors | {tip.card.id}, expected=frozenset())
        if tip is None or self.pending is None or not (self._is_same(tip) or tip.card.id == self.pending.id):
            return self
        upload_s = now_s - self.sent_at_s
        return replace(
            self,
            pending=None,
            untold=None,
            sent=(),
            earlier=frozenset() if tip.card.id == self.pending.id else self.before - {tip.card.id},
            upload_s=upload_s if math.isfinite(upload_s) else self.upload_s,
            attested=self.attested + 1,
        )

    def _is_same(self, tip: Tip) -> bool:
        """Tells whether the tip is an earlier card of the checkpoint that is out: nobody attests that one."""
        if self.pending is None or tip.card.id not in self.ancestors or not self.is_overtaken(tip):
            return False
        out, at = self.pending.record, tip.card.record
        return not out.merged and (out.steps, out.clips, out.lowered) == (at.steps, at.clips, at.lowered)

    def started_from(self, tip: Tip | None) -> Outgoing:
        """Notes that this training goes on from the tip."""
        if tip is None:
            return replace(self, ancestors=FROM_BEGINNING, expected=frozenset())
        card = tip.card.record
        return replace(
            self,
            expected=frozenset(),
            newest=ResumePoint(blob=card.resume, steps=card.steps, clips=card.clips, notices=card.notices),
            lowered=lowered_after(card.lowered),
            ancestors=frozenset({tip.card.id}),
            places=frozenset({(card.epoch, card.seq)}),
        )

    def going_on(self, own: OwnCard) -> Outgoing:
        """Notes that this training goes on from the newest card of an earlier one, which is to be told; its
        `started_from` was noted before.
        """
        card = own.card.record
        return replace(
            self.signed(own.card),
            newest=ResumePoint(blob=card.resume, steps=card.steps, clips=card.clips, notices=card.notices),
            lowered=card.lowered,
            ancestors=self.ancestors | own.before | {own.card.id},
            earlier=own.before,
        )

    def expecting(self, own: OwnCard) -> Outgoing:
        """Notes that rounds go on from the newest card of an earlier leadership, or one before it, should
        that become the tip.
        """
        return replace(self, expected=own.before | {own.card.id})

    def begun_again(self) -> Outgoing:
        """Notes that this training starts at the slot's beginning once more, with a lower rate."""
        beginning = replace(
            self.dropped(), newest=ResumePoint(), ancestors=FROM_BEGINNING, places=frozenset()
        )
        return replace(beginning, lowered=self.lowered + 1)

    def made(self, new: NewCheckpoint) -> Outgoing:
        """Notes a checkpoint of the trainer, which replaces one that waited."""
        newest = ResumePoint(new.resume_path, None, new.steps, new.clips, new.notices)
        return replace(self, waiting=new, newest=newest)

    def taken(self) -> Outgoing:
        """Notes that the checkpoint that waited is being signed."""
        return replace(self, waiting=None)

    def not_signed(self, new: NewCheckpoint) -> Outgoing:
        """Notes that the checkpoint that was taken could not be signed: it waits again, unless this training
        made a newer one meanwhile, or was left.
        """
        is_newest = (self.newest.steps, self.newest.clips) == (new.steps, new.clips)
        return replace(self, waiting=new) if self.waiting is None and is_newest else self

    def stored(self, new: NewCheckpoint, resume: BlobRef) -> Outgoing:
        """Notes that the files of a checkpoint moved into the store, its resume state as `resume`."""
        if self.newest.path != new.resume_path:  # the trainer made a newer one meanwhile
            return self
        return replace(self, newest=replace(self.newest, path=None, blob=resume))

    def signed(self, card: Envelope[CardRecord]) -> Outgoing:
        """Notes that a card is in the ledger, of which nobody was told yet."""
        return replace(
            self,
            pending=card,
            untold=card,
            sent=(*self.sent, card),
            ancestors=self.ancestors | {card.id},
            places=self.places | {(card.record.epoch, card.record.seq)},
        )

    def told(self, card: Envelope[CardRecord]) -> Outgoing:
        """Notes that the others were told of a card."""
        return replace(self, untold=None) if self.untold is card else self

    def dropped(self) -> Outgoing:
        """Notes that nothing that was made goes out any more."""
        return replace(self, waiting=None, pending=None, untold=None, sent=(), earlier=frozenset())

    def given_up(self, why: str) -> Outgoing:
        """Notes that nothing of this training, nor of what it makes from now on, goes out any more."""
        return replace(self.dropped(), dropped_for=why)


@dataclass(frozen=True)
class CardView:
    """A slot as its lead sees it when it decides about a card."""

    slot: str
    tip: Tip | None
    claim: Decision  # what decide_claim says of this peer now
    holding: Holding  # the claim as this peer remembers it
    margin_s: float  # before the claim's end
    checkpoint_s: float
    used: Mapping[int, frozenset[str]] = field(default_factory=dict)  # epochs_used
    floor: int = 0  # the lowest epoch of a card that counts, since the owner took cards back
    refusals: tuple[Envelope[RefusalRecord], ...] = ()
    sending: bool = False  # a card is being signed and told, elsewhere than as this decides
    lacks_key: bool = False  # that what goes out now has to be sealed under
    loading: bool = False  # a trainer is about to read the newest resume state, which publishing moves
    ending: bool = False  # this leadership is about to end, and does not wait for the cadence


@dataclass(frozen=True)
class CardDecision:
    """What to do about the next card, why in a person's words, and when time alone may change it.

    yield: the leadership ends. abandon: it ends, and nothing goes out any more. tell: tell the untold card.
    publish: sign the checkpoint that waits, under `epoch`, and tell it. publish again: sign the card that is
    out once more, after what is the tip now.
    """

    action: CardAction
    why: str = ""
    epoch: int = 0
    until_s: float = math.inf


def next_card(state: Outgoing, view: CardView, now_s: float) -> CardDecision:
    """Returns what a lead does next about its cards, from a state that has `seen` the view's tip."""
    if state.dropped_for:
        return CardDecision("abandon", state.dropped_for)
    if view.claim.action in ("yield", "standby"):
        return CardDecision("yield", view.claim.reason)
    if not state.descends(view.tip):
        words = "is not what this training descends from; it starts again from there"
        return CardDecision("abandon", f"the tip of {view.slot} {words}")
    if not view.holding.may_publish(now_s, view.margin_s):
        return CardDecision("wait", "renewing or losing the claim decides")
    if view.loading:
        return CardDecision("wait", "a trainer reads the newest checkpoint")
    if view.sending:
        return CardDecision("wait", "a card is being told")
    if view.lacks_key:
        return CardDecision("wait", "the run's new key is not here yet; members are asked for it")
    epoch = epoch_to_publish(view.holding.epoch, state.ancestors, view.tip, view.used, view.floor)
    if state.untold is not None:
        return _tell(state.untold, epoch)
    if state.going_back:
        return CardDecision("wait", "the slot goes back to its best checkpoint")
    if (why := _why_drop(state, view.tip)) is not None:
        return CardDecision("drop", why)
    if state.pending is not None and state.is_overtaken(view.tip):
        overtaken = f"an earlier checkpoint became {view.slot} seq {state.pending.record.seq}"
        action: CardAction = "publish again" if state.waiting is None else "publish"
        return CardDecision(action, f"{overtaken}; what came after it follows as the next", epoch)
    if state.waiting is None:
        return CardDecision("wait", "no checkpoint waits")
    if state.pending is not None:
        patience_ends_s = state.sent_at_s + state.patience_s(view.checkpoint_s)
        if now_s < patience_ends_s:
            return CardDecision("wait", "a card waits for attestation", until_s=patience_ends_s)
        return CardDecision("publish", _why_another(state.pending, view), epoch)
    due_s = state.sent_at_s + state.cadence_s(view.checkpoint_s)
    if now_s < due_s and not view.ending and state.waiting.round is None:
        return CardDecision("wait", "the last card is young", until_s=due_s)
    return CardDecision("publish", epoch=epoch)


def _tell(untold: Envelope[CardRecord], epoch: int) -> CardDecision:
    """Has a card told that nobody was told of. One of an earlier leadership is signed under this one's epoch
    first: the place of the old one may be used up, and the tip is to be of the claim that is held.
    """
    is_old = untold.record.epoch < epoch and not untold.record.rounds
    return CardDecision("publish again", epoch=epoch) if is_old else CardDecision("tell")


def _why_drop(state: Outgoing, tip: Tip | None) -> str | None:
    """Returns why a round that is out, or waits, can follow the tip no more; None when it can."""
    waiting, pending = state.waiting, state.pending
    if waiting is not None and waiting.round is not None and waiting.round.parent != tip_id(tip):
        return "a round was merged into another card than the tip; it is merged anew"
    is_round = waiting is None and pending is not None and bool(pending.record.rounds)
    if is_round and state.is_overtaken(tip):
        return "an earlier round became the tip; what came after it is merged anew"
    return None


def _why_another(pending: Envelope[CardRecord], view: CardView) -> str:
    codes = sorted({one.record.reason for one in view.refusals if one.record.card == pending.id})
    reasons = " and ".join(words_of(code) for code in codes) or "refused, or nobody is there"
    return f"nobody attested {view.slot} seq {pending.record.seq}: {reasons}; a newer one goes out"
