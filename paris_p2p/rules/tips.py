"""Pure functions of verified records say which checkpoint a slot stands at, and what an attestor refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from paris_p2p.envelope import Envelope
from paris_p2p.records import MAX_LOSS, AttestationRecord, CardRecord
from paris_p2p.rules.rates import RESTS, lowered_after, lowered_again
from paris_p2p.rules.refusals import REASONS

_FIRST_CARD_SLACK = 1.5  # a first card may be this much worse than predicting nothing
# cards a lineage may have for each checkpoint interval since the run was made; honest leads make one
_CARDS_PER_INTERVAL = 4
_SPARE_CARDS = 64  # beside those: leads that leave, pause or hand over publish at once
_MAX_STEPS_PER_S = 1e4  # counters of a lineage: more than any machine trains
_MAX_CLIPS_PER_S = 1e6
_SPARE_S = 3600.0
NO_CLAIM = REASONS["claim"]  # not for good: it may come to hold it, or the claim may come later
# nor this: what made it the tip may come later
NO_PARENT = "its parent is not known here, or waits for its quorum"
# nor this: the notices are read with the board
NO_NOTICE = "its training knew notices of the owner that are not known here yet"
NOT_YET = NO_CLAIM, NO_PARENT, NO_NOTICE
# of the tip's: nobody brings epochs near the end of their type; more than a board's cards can use up
MAX_EPOCHS_AHEAD = 2048


@dataclass(frozen=True)
class Age:
    """How long a run, or a lineage since one of its cards, can have been trained: what bounds its numbers."""

    age_s: float
    checkpoint_s: float
    floor: int = 0  # the epoch that cards have at least since the owner took some back

    @property
    def cards(self) -> int:
        """Returns the most cards that a lineage can have got in this time."""
        return _SPARE_CARDS + int(_CARDS_PER_INTERVAL * max(0.0, self.age_s) / self.checkpoint_s)


@dataclass(frozen=True)
class Tip:
    """A card with a quorum of attestations."""

    card: Envelope[CardRecord]
    attestations: tuple[Envelope[AttestationRecord], ...]  # by signer

    @property
    def best(self) -> str:
        """Returns the best attested card of the lineage: as the attestor with the lowest loss says, so that
        order does not matter.
        """
        return min(self.attestations, key=lambda a: (a.record.loss, a.signer)).record.best


def tip_id(tip: Tip | None) -> str:
    """Returns the id of the tip's card, empty where there is none: the `parent` of a card that follows it."""
    return tip.card.id if tip else ""


def tip_of(
    cards: Iterable[Envelope[CardRecord]],
    attestations: Iterable[Envelope[AttestationRecord]],
    may_attest: Callable[[str], bool],
    quorum: int,
    follows: Callable[[CardRecord], bool] = lambda _: True,
) -> Tip | None:
    """Returns the card with at least `quorum` attestations and the highest (epoch, seq); ties go to the
    smallest id.

    Only cards count whose numbers can be (`follows`).

    One attestation counts per card and signer (should a signer have made two, that of the smallest id), never
    the card's own signer's. The lineage is not walked: it was the attestors' to check, and old cards may be
    gone.
    """
    by_card: dict[str, dict[str, Envelope[AttestationRecord]]] = {}
    known = {card.id: card for card in cards if follows(card.record)}
    for attestation in attestations:
        card = known.get(attestation.record.card)
        if card is None or attestation.signer == card.signer or not _fits(attestation.record, card.record):
            continue
        if may_attest(attestation.signer):
            signers = by_card.setdefault(card.id, {})
            signers[attestation.signer] = min(
                signers.get(attestation.signer, attestation), attestation, key=lambda a: a.id
            )
    approved = [known[card_id] for card_id, signers in by_card.items() if len(signers) >= quorum]
    best = max(approved, key=_rank, default=None)
    return None if best is None else Tip(best, tuple(a for _, a in sorted(by_card[best.id].items())))


def impossible_place(epoch: int, seq: int, run: Age) -> str | None:
    """Returns why no card can have this place in a lineage, by the age of the run; None when one can."""
    if not 1 <= seq <= run.cards:
        return "its seq is more than the run's age allows"
    highest = run.floor + MAX_EPOCHS_AHEAD * seq
    return "its epoch is more than its seq allows" if epoch > highest else None


def impossible(card: CardRecord, run: Age) -> str | None:
    """Returns why a card's numbers cannot be, from the age of the run alone; None when they
    can.

    Each card raises `seq` by one and the epoch by MAX_EPOCHS_AHEAD at most (`refuse_card`), so a lineage's
    epoch is bounded by its seq and that by the time there was. Nothing honest comes near, and no number comes
    near the end of its type.
    """
    if (place := impossible_place(card.epoch, card.seq, run)) is not None:
        return place
    ample_s = _SPARE_S + max(0.0, run.age_s)
    if card.steps > _MAX_STEPS_PER_S * ample_s or card.clips > _MAX_CLIPS_PER_S * ample_s:
        return "it counts more steps or clips than the run's age allows"
    return None


def may_replace(card: CardRecord, tip: Tip | None, since: Age) -> bool:
    """Tells whether a card with a quorum can be this slot's next tip: not further ahead than cards may have
    been missed.

    `since` is the time since the present tip came. A peer that was away for long accepts what the swarm got
    meanwhile; one that was here accepts no leap.
    """
    if tip is None:
        return True
    last, ahead = tip.card.record, max(1, card.seq - tip.card.record.seq)
    last_epoch = max(last.epoch, since.floor)
    return ahead <= since.cards and card.epoch <= last_epoch + MAX_EPOCHS_AHEAD * ahead


def may_follow(epoch: int, signer: str, tip: Tip | None, floor: int = 0) -> bool:
    """Tells whether `signer` may publish after the tip under this epoch: its maker under the tip's own,
    everybody under a higher one.

    Not the next one alone: that epoch's place may be used up (`epochs_used`), and an attestor that has not
    heard of it yet must not refuse for good who has. A `floor` that the owner set may be far above the tip:
    who brought the cards that were taken back chose their epochs.
    """
    last = tip.card.record.epoch if tip else 0
    return last < epoch <= max(last, floor) + MAX_EPOCHS_AHEAD or (
        tip is not None and epoch == last and signer == tip.card.signer
    )


def epochs_used(
    cards: Iterable[Envelope[CardRecord]],
    attestations: Iterable[Envelope[AttestationRecord]],
    may_attest: Callable[[str], bool],
    tip: Tip | None,
) -> Mapping[int, frozenset[str]]:
    """Returns the epochs in which an attestor signed a card of the place after the tip, and those cards:
    there it can sign no other.

    Only attestations of known cards count: a card's maker signed its epoch too.
    """
    last, seq = (tip.card.record.epoch, tip.card.record.seq + 1) if tip else (0, 1)
    known = {card.id: card for card in cards if card.record.seq == seq and card.record.epoch >= last}
    used: dict[int, frozenset[str]] = {}
    for attestation in attestations:
        card = known.get(attestation.record.card)
        if card is None or attestation.signer == card.signer or not _fits(attestation.record, card.record):
            continue
        if may_attest(attestation.signer):
            used[card.record.epoch] = used.get(card.record.epoch, frozenset()) | {card.id}
    return used


def parent_may_come(card: CardRecord, tip: Tip | None, cards: Mapping[str, Envelope[CardRecord]]) -> bool:
    """Tells whether the card's parent is not the tip as far as this peer knows (`cards`, by id), and may yet
    be.

    Attestations come in any order and from few peers: a parent that was never seen, or lies after the tip,
    may have its quorum elsewhere. One that is known and does not lie after the tip was overtaken.
    """
    if not card.parent or (tip is not None and card.parent == tip.card.id):
        return False
    parent = cards.get(card.parent)
    if parent is None or tip is None:
        return True
    return _rank(parent) > _rank(tip.card)


def refuse_card(
    card: Envelope[CardRecord],
    tip: Tip | None,
    lead: str,
    signed: str | None,
    me: str,
    floor: int = 0,
) -> str | None:
    """Returns why `me` must not attest this card, from the records alone; None when nothing speaks against
    it.

    `lead` is who held the claim when the card came, `signed` the card this attestor signed for the same
    place, if any.
    """
    record = card.record
    if card.signer == me:
        return "it is this peer's own"
    if record.parent != tip_id(tip):
        return REASONS["parent"]
    if record.seq != (tip.card.record.seq + 1 if tip else 1):
        return REASONS["seq"]
    if not may_follow(record.epoch, card.signer, tip, floor):
        return REASONS["epoch"]
    if (code := _refuse_progress(record, tip.card.record if tip else None)) is not None:
        return REASONS[code]
    if signed is not None and signed != card.id:
        return REASONS["place"]
    return None if card.signer == lead else NO_CLAIM


def _refuse_progress(card: CardRecord, tip: CardRecord | None) -> str | None:
    """Tells whether the card trained on from the tip, at the rate that follows; one that goes back (rest.py)
    did not train.
    """
    if tip is None:
        return None if card.lowered < RESTS else "rate"
    if card.lowered == lowered_again(tip.lowered):
        return None
    if card.lowered != lowered_after(tip.lowered):
        return "rate"
    if card.notices < tip.notices:  # its network may be a smaller one
        return "notices"
    return "steps" if card.steps <= tip.steps or card.clips <= tip.clips else None


def refuse_loss(loss: float, reference_loss: float, tolerance: float, *, first: bool) -> str | None:
    """Returns why a measured gate loss must not be attested: worse than the reference beyond the tolerance.

    The reference is the best attested ancestor's loss on the same clips and noise, or for a slot's `first`
    card the zero predictor's, which an honest beginner may miss by a little.
    """
    if not (math.isfinite(loss) and math.isfinite(reference_loss)):
        return REASONS["finite"]
    if max(loss, reference_loss) > MAX_LOSS:
        return REASONS["large"]
    limit = reference_loss * (_FIRST_CARD_SLACK if first else 1 + tolerance)
    return None if loss <= limit else REASONS["loss"]


def _fits(attestation: AttestationRecord, card: CardRecord) -> bool:
    return (attestation.slot, attestation.epoch, attestation.seq) == (card.slot, card.epoch, card.seq)


def _rank(card: Envelope[CardRecord]) -> tuple[int, int, int]:
    return card.record.epoch, card.record.seq, -int(card.id, 16)
