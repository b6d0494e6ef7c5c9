"""How the tips of one run move: forward as attested cards come, and back where the owner takes cards back.

Each move is in the ledger before anybody acts on it.
"""

from __future__ import annotations

from paris_p2p.envelope import Envelope
from paris_p2p.node.crowd import SlotRecords, drop_refusals
from paris_p2p.node.hearing import Hearing
from paris_p2p.node.kept_tips import KeptTips
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.records import CardRecord
from paris_p2p.rules.taken_back import MAX_PAST, newest_standing, still_stands
from paris_p2p.rules.tips import Age, Tip, may_replace, tip_id, tip_of


class TipLife:
    """Moves the tips of slots; while `is_loading`, nothing is written."""

    def __init__(self, word: OwnersWord, kept: KeptTips, hearing: Hearing):
        self.word, self.kept, self.hearing = word, kept, hearing
        self.is_loading = False

    def forward(self, slot: SlotRecords, name: str, now_s: float) -> None:
        """Finds the tip among the cards that may follow it."""
        old = slot.tip
        cards, attestations = list(slot.cards.values()), list(slot.attestations.values())
        if old is not None:  # never backwards, whatever was dropped
            cards, attestations = [old.card, *cards], [*old.attestations, *attestations]
        since = Age(now_s - slot.tip_since_s, self.word.spec.timing.checkpoint_s, slot.floor)

        def follows(card: CardRecord) -> bool:
            return may_replace(card, old, since)

        tip = tip_of(cards, attestations, lambda _: True, self.word.spec.gate.quorum, follows)
        if tip is None or (
            old is not None and tip.card.id == old.card.id and len(tip.attestations) == len(old.attestations)
        ):
            return
        if old is None or tip.card.id != old.card.id:
            goes_on = old is not None and old.card.signer == tip.card.signer and not self.is_loading
            self.hearing.note_tip(name, tip.card.signer, now_s - slot.tip_since_s if goes_on else None, now_s)
            slot.tip_since_s = now_s
            self._remember(slot, name, old)
        slot.tip = tip
        drop_refusals(slot)
        self.save(slot, name)

    def back(self, slot: SlotRecords, name: str, now_s: float) -> None:
        """Goes back to the newest tip that stands by the owner's word, where the present one does not."""
        state, old = self.word.state, slot.tip
        for card_id, past in list(slot.past.items()):
            if still_stands(past, state) is None:
                del slot.past[card_id]
                self.kept.forget_past(name, past)
        tip = newest_standing([*slot.past.values(), *([old] if old else [])], state)
        if tip == old:
            return
        slot.tip = tip
        if tip is None:
            self.kept.forget(name)
            return
        slot.past.pop(tip.card.id, None)
        if tip_id(old) != tip.card.id:
            self.hearing.note_tip(name, tip.card.signer, None, now_s)
            slot.tip_since_s = slot.tip_since_s or min(now_s, tip.card.record.issued_at)
            slot.cards.setdefault(tip.card.id, tip.card)
            slot.attestations.update({(tip.card.id, one.signer): one for one in tip.attestations})
            drop_refusals(slot)
        self.save(slot, name)

    def save(self, slot: SlotRecords, name: str) -> None:
        """Writes the slot's tip, and the lineage's best card beside it."""
        if not self.is_loading and slot.tip is not None:
            self.kept.save(name, slot.tip, older_best(slot))

    def _remember(self, slot: SlotRecords, name: str, old: Tip | None) -> None:
        """Keeps a tip that another follows, before that one is in the ledger."""
        if old is None:
            return
        slot.past[old.card.id] = old
        if not self.is_loading:
            self.kept.save_past(name, old)
        while len(slot.past) > MAX_PAST:
            _, oldest = slot.past.popitem(last=False)
            self.kept.forget_past(name, oldest)


def older_best(slot: SlotRecords) -> list[Envelope[CardRecord]]:
    """Returns the lineage's best card where it is not the tip: a slot that gets no better goes back to it."""
    if slot.tip is None or slot.tip.best == slot.tip.card.id:
        return []
    best = card_of(slot, slot.tip.best)
    return [] if best is None else [best]


def card_of(slot: SlotRecords, card_id: str) -> Envelope[CardRecord] | None:
    """Returns a card that is known, also one of the tips that were."""
    past = slot.past.get(card_id)
    return slot.cards.get(card_id) or (past.card if past else None)
