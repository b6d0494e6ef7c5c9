"""A slot that gets no better trains more slowly from its best checkpoint, and rests in the end: pure
functions of its tip.

A lead that is refused for its held-out loss signs the best card's blobs once more, with `lowered` one
higher: a card that goes back. Once it is the tip, training goes on from there under every lead. At RESTS the
slot rests as converged.

Nobody's word alone brings that about. A lead measures a refused card itself before it believes a refusal
(`refusal_counts`), and an attestor signs a card that goes back only when it measured and refused a card after
the same tip itself, so that it takes as many as any tip does. What remains is a lead that makes bad cards on
purpose: so a rest ends (`rests_until_s`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord, RefusalRecord
from paris_p2p.rules.rates import RESTS, lowered_again, rate_factor
from paris_p2p.rules.refusals import WORSE
from paris_p2p.rules.tips import Tip
from paris_p2p.spec import TimingSpec

FIRST_REST_S = 3600.0  # then one checkpoint is tried again, and each rest after that is twice as long
REST_CHECKPOINTS = 24  # at least so many checkpoint intervals, so that trying takes little of the time
MAX_REST_S = 86400.0  # or the first rest, where that is longer: one lead may have brought it about on purpose
_OF_A_CHECKPOINT = ("weights", "resume", "rounds", "merged", "full", "steps", "clips", "notices")
WORDS_OF_REST = "rests as converged: its held-out loss got worse at every learning rate"


def rests_until_s(tip: Tip | None, timing: TimingSpec, woken_at_s: float = 0.0) -> float:
    """Returns the Unix time at which the slot's rest is over; 0 when it does not rest.

    The rest is counted from the card or from the first who attested it, so that a date in the future makes it
    no longer. `woken_at_s` is when the run's owner, or new data, last asked for more training: that ends a
    rest which began before.
    """
    lowered = tip.card.record.lowered if tip else 0
    if tip is None or lowered < RESTS:
        return 0.0
    began_s = min([tip.card.record.issued_at, *(one.record.issued_at for one in tip.attestations)])
    if woken_at_s > began_s:
        return 0.0
    first_s = max(FIRST_REST_S, REST_CHECKPOINTS * timing.checkpoint_s)
    return began_s + min(first_s * 2.0 ** (lowered - RESTS), max(MAX_REST_S, first_s))


def rests(tip: Tip | None, now_s: float, timing: TimingSpec, woken_at_s: float = 0.0) -> bool:
    """Whether nobody should train the slot now."""
    return now_s < rests_until_s(tip, timing, woken_at_s)


def tolerance_after(tip: Tip | None, tolerance: float) -> float:
    """Returns how much worse than the best a card may be: less with a lower rate, which takes smaller steps,
    and not at all after a rest, which only something better ends.
    """
    lowered = tip.card.record.lowered if tip else 0
    return 0.0 if lowered >= RESTS else tolerance * rate_factor(lowered)


def goes_back(card: CardRecord, tip: Tip | None) -> bool:
    """Whether the card says that it is an older checkpoint once more, to be trained on with a lower rate."""
    return tip is not None and card.lowered == lowered_again(tip.card.record.lowered)


def words_after(lowered: int) -> str:
    """Returns what a person reads of a card that went back."""
    if lowered < RESTS:
        return f"trains on at {rate_factor(lowered):.2g} of the schedule's learning rate"
    return WORDS_OF_REST


def is_back_at(card: CardRecord, old: CardRecord) -> bool:
    """Whether a card that goes back is just that checkpoint: its files, and the rounds after them."""
    return all(getattr(card, field) == getattr(old, field) for field in _OF_A_CHECKPOINT)


def is_backed(tip: Tip, mine: Iterable[Envelope[RefusalRecord]]) -> bool:
    """Whether an attestor may sign a card that goes back: it measured a card after this tip, and found it
    worse.
    """
    return any(one.record.parent == tip.card.id and one.record.reason in WORSE for one in mine)


def refusal_counts(
    measured_worse: bool | None, refusers: Collection[str], attestors: Collection[str], quorum: int
) -> bool:
    """Whether a lead goes back because its card was refused.

    What it measured itself decides, so that no number of false refusals can. When it cannot measure (None),
    the refusals count once the attestors that are here and have not refused are too few for a quorum.
    """
    if measured_worse is not None:
        return measured_worse
    return bool(set(refusers) & set(attestors)) and len(set(attestors) - set(refusers)) < quorum
