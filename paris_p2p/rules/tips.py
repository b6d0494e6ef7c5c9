"""Which checkpoint a slot stands at, and what an attestor refuses: pure functions of verified records (DESIGN section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from paris_p2p.envelope import Envelope
from paris_p2p.records import AttestationRecord, CardRecord

FIRST_CARD_SLACK = 1.5  # a first card may be this much worse than predicting nothing
MAX_EPOCHS_AHEAD = 2048  # of the tip's: nobody brings epochs near the end of their type; more than a board's cards can use up


@dataclass(frozen=True)
class Tip:
    """A card with a quorum of attestations."""

    card: Envelope[CardRecord]
    attestations: tuple[Envelope[AttestationRecord], ...]  # by signer

    @property
    def best(self) -> str:
        """The best attested card of the lineage: as the attestor with the lowest loss says, so that order does not matter."""
        return min(self.attestations, key=lambda a: (a.record.loss, a.signer)).record.best


def tip_of(
    cards: Iterable[Envelope[CardRecord]],
    attestations: Iterable[Envelope[AttestationRecord]],
    may_attest: Callable[[str], bool],
    quorum: int,
) -> Tip | None:
    """The card with at least `quorum` attestations and the highest (epoch, seq); ties go to the smallest id.

    One attestation counts per card and signer (should a signer have made two, that of the smallest id), never the card's own
    signer's. The lineage is not walked: it was the attestors' to check, and old cards may be gone.
    """
    by_card: dict[str, dict[str, Envelope[AttestationRecord]]] = {}
    known = {card.id: card for card in cards}
    for attestation in attestations:
        card = known.get(attestation.record.card)
        if card is None or attestation.signer == card.signer or not _fits(attestation.record, card.record):
            continue
        if may_attest(attestation.signer):
            signers = by_card.setdefault(card.id, {})
            signers[attestation.signer] = min(signers.get(attestation.signer, attestation), attestation, key=lambda a: a.id)
    approved = [known[card_id] for card_id, signers in by_card.items() if len(signers) >= quorum]
    best = max(approved, key=_rank, default=None)
    return None if best is None else Tip(best, tuple(a for _, a in sorted(by_card[best.id].items())))


def lineage(card_id: str, cards: Mapping[str, Envelope[CardRecord]]) -> tuple[Envelope[CardRecord], ...]:
    """The card and its ancestors as far back as they are known, newest first; seq falls by one each step."""
    line: list[Envelope[CardRecord]] = []
    card = cards.get(card_id)
    while card is not None and (not line or card.record.seq == line[-1].record.seq - 1):
        line.append(card)
        card = cards.get(card.record.parent)
    return tuple(line)


def may_follow(epoch: int, signer: str, tip: Tip | None) -> bool:
    """Whether `signer` may publish after the tip under this epoch: its maker under the tip's own, everybody under a higher one.

    Not the next one alone: that epoch's place may be used up (`epochs_used`), and an attestor that has not heard of it yet
    must not refuse for good who has.
    """
    last = tip.card.record.epoch if tip else 0
    return last < epoch <= last + MAX_EPOCHS_AHEAD or (tip is not None and epoch == last and signer == tip.card.signer)


def epochs_used(
    cards: Iterable[Envelope[CardRecord]],
    attestations: Iterable[Envelope[AttestationRecord]],
    may_attest: Callable[[str], bool],
    tip: Tip | None,
) -> Mapping[int, frozenset[str]]:
    """Epochs in which an attestor signed a card of the place after the tip, and those cards: there it can sign no other.

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


def refuse_card(card: Envelope[CardRecord], tip: Tip | None, lead: str, signed: str | None, me: str) -> str | None:
    """Why `me` must not attest this card, from the records alone; None when nothing speaks against it.

    `lead` is who held the claim when the card came, `signed` the card this attestor signed for the same place, if any.
    """
    record = card.record
    if card.signer == me:
        return "it is this peer's own"
    if card.signer != lead:
        return "its signer did not hold the claim"
    if record.parent != (tip.card.id if tip else ""):
        return "its parent is not the tip"
    if record.seq != (tip.card.record.seq + 1 if tip else 1):
        return "its seq does not follow the tip's"
    if not may_follow(record.epoch, card.signer, tip):
        return "its epoch does not follow the tip's"
    if tip is not None and (record.steps <= tip.card.record.steps or record.clips <= tip.card.record.clips):
        return "it counts no more steps or clips than its parent"
    if signed is not None and signed != card.id:
        return "another card was signed for this place"
    return None


def refuse_loss(loss: float, reference_loss: float, tolerance: float, *, first: bool) -> str | None:
    """Why a measured gate loss must not be attested: worse than the reference beyond the tolerance.

    The reference is the best attested ancestor's loss on the same clips and noise, or for a slot's `first` card the
    zero predictor's, which an honest beginner may miss by a little.
    """
    if not (math.isfinite(loss) and math.isfinite(reference_loss)):
        return "its held-out loss is not finite"
    limit = reference_loss * (FIRST_CARD_SLACK if first else 1 + tolerance)
    return None if loss <= limit else "its held-out loss is worse than the lineage's best"


def _fits(attestation: AttestationRecord, card: CardRecord) -> bool:
    return (attestation.slot, attestation.epoch, attestation.seq) == (card.slot, card.epoch, card.seq)


def _rank(card: Envelope[CardRecord]) -> tuple[int, int, int]:
    return card.record.epoch, card.record.seq, -int(card.id, 16)
