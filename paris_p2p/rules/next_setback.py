"""What a lead does when its cards are refused: pure functions (docs/protocol.md, "Going back").

    none of its cards after the tip was refused as worse:       train on
    one of them measured as badly here:                         go back
    its newest one was not measured here yet:                   measure it, once
    it measures as badly here, or (where it cannot be
    measured) too few attestors are left that did not refuse:   go back
    otherwise:                                                  train on

False refusals cost a check by the gate for each card and no more, however many keys sign them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord, RefusalRecord
from paris_p2p.rules.rates import RESTS
from paris_p2p.rules.refusals import REASONS, WORSE, words_of
from paris_p2p.rules.rest import refusal_counts
from paris_p2p.rules.tips import Tip

READ_S = 15.0  # gossip is a hint: while a card waits, its refusals are read too

WayBack = Literal["to the best", "to the beginning", "give up"]


@dataclass(frozen=True)
class Refused:
    """What one leadership knows of refusals of its cards after the tip."""

    said: frozenset[tuple[str, str]] = frozenset()  # (card, code) that a person was told of
    worse: Mapping[str, bool | None] = field(default_factory=dict)  # measured here; None: came to no end
    read_at_s: float = 0.0  # monotonic, when refusals were last read

    @property
    def read_due_s(self) -> float:
        """Returns when the refusals of a card that waits are read again."""
        return self.read_at_s + READ_S

    def read(self, now_s: float) -> Refused:
        """Notes that refusals are read now."""
        return replace(self, read_at_s=now_s)

    def told(self, view: SetbackView) -> Refused:
        """Notes that all of the view's refusals were said; cards that are no longer of the view go."""
        mine = {card.id for card in view.mine}
        said = frozenset(key for key in {*self.said, *map(_key, view.refusals)} if key[0] in mine)
        return replace(self, said=said)

    def measured(self, card_id: str, worse: bool | None, view: SetbackView) -> Refused:
        """Notes what this peer's gate found of a card; cards that are no longer of the view go."""
        kept = {card.id: self.worse[card.id] for card in view.mine if card.id in self.worse}
        return replace(self, worse=kept | {card_id: worse})


@dataclass(frozen=True)
class SetbackView:
    """A lead's cards that would follow the tip, the newest last, and who refused or may attest them."""

    mine: tuple[Envelope[CardRecord], ...]
    refusals: tuple[Envelope[RefusalRecord], ...]  # of these cards alone
    attestors: frozenset[str]  # other peers that are here
    quorum: int


@dataclass(frozen=True)
class SetbackDecision:
    """What to do about refusals; `card` is the one to measure."""

    action: Literal["train on", "measure", "go back"]
    card: Envelope[CardRecord] | None = None


def next_setback(state: Refused, view: SetbackView) -> SetbackDecision:
    """Returns whether a card of this training was refused, and measures as badly here."""
    worse = [one for one in view.refusals if one.record.reason in WORSE]
    if not view.mine or not worse:
        return SetbackDecision("train on")
    # also when a newer one went out while it was measured, or a slow gate would never decide
    if any(state.worse.get(card.id) for card in view.mine):
        return SetbackDecision("go back")
    newest = view.mine[-1]
    if newest.id not in state.worse:
        return SetbackDecision("measure", newest)
    refusers = {one.signer for one in worse if one.record.card == newest.id}
    back = refusal_counts(state.worse[newest.id], refusers, view.attestors, view.quorum)
    return SetbackDecision("go back" if back else "train on")


def not_yet_said(state: Refused, view: SetbackView) -> tuple[Envelope[RefusalRecord], ...]:
    """Returns one refusal for each card and reason that a person was not told of yet."""
    new: dict[tuple[str, str], Envelope[RefusalRecord]] = {}
    for one in view.refusals:
        if _key(one) not in state.said:
            new.setdefault(_key(one), one)
    return tuple(new.values())


def words_of_refusal(refusal: Envelope[RefusalRecord]) -> str:
    """Returns who refused which card, and why."""
    record = refusal.record
    figures = f", {record.loss:.4g} against {record.reference_loss:.4g}" if record.reference_loss else ""
    words = words_of(record.reason)
    return f"{refusal.signer[-8:]} refused {record.slot} seq {record.seq}: {words}{figures}"


def way_back(tip: Tip | None, lowered: int) -> WayBack:
    """Returns where training goes on with a lower rate: from the lineage's best card, or, while there is no
    tip, from the slot's beginning until every rate was tried.
    """
    if tip is not None:
        return "to the best"
    return "give up" if lowered + 1 >= RESTS else "to the beginning"


def _key(refusal: Envelope[RefusalRecord]) -> tuple[str, str]:
    """Codes nobody knows count as one: anybody may make up reasons without end."""
    reason = refusal.record.reason
    return refusal.record.card, reason if reason in REASONS else ""
