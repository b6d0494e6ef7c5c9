"""A node remembers over restarts which checkpoints' blobs lie on its disk, and deletes what is not needed.

What a peer made, copied or fetched to check is noted before it is there, so that what was refused or
overtaken goes, also when the peer was killed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

from paris_p2p.node.crowd import SlotRecords
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.rules.keeping import card_blobs, cards_kept
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.ledger import Ledger

_MAX_REFUSED = 4096
_NAME = "checkpoint-blobs"


class Keeping:
    """The checkpoints of one run on this disk."""

    def __init__(
        self,
        store: BlobStore,
        ledger: Ledger,
        data_blobs: Callable[[], Collection[str]],
        changed: Callable[[], None] = lambda: None,
        refs: Callable[[CardRecord], Iterable[BlobRef]] = lambda card: card_blobs(card, ()),
    ):
        self.store, self.ledger, self.data_blobs, self._changed = store, ledger, data_blobs, changed
        self._refs = refs  # of a card: all blobs that it consists of, as far as is known here
        self.good: set[str] = set()  # blobs that may be seeded: this peer made them, or checked them
        self.resumes: set[str] = set()  # of them, those that only trainers and attestors may have
        self._refused: dict[str, None] = {}  # card ids, in order
        known = ledger.get(_NAME) or b""
        self._here = {known[at : at + 32].hex() for at in range(0, len(known) - len(known) % 32, 32)}

    def note(self, blob_ids: Iterable[str]) -> None:
        """Notes that these blobs come to this disk now."""
        new = set(blob_ids) - set(self.data_blobs()) - self._here
        if new:
            self._here |= new
            self._save()
            self._changed()

    def holds(self, blob_id: str) -> bool:
        """Tells whether a blob came here as a checkpoint's, a round's or an update's of this run."""
        return blob_id in self._here

    def keep_good(self, card: CardRecord) -> None:
        """Lets this card's blobs be seeded: this peer made it, or checked it."""
        blobs = {ref.id for ref in self._refs(card)}
        self.note(blobs)
        self.good |= blobs
        self.resumes |= blobs - {card.weights.id}

    def refuse(self, card_id: str) -> None:
        """Lets the blobs of a card go that this peer will not attest."""
        self._refused[card_id] = None
        if len(self._refused) > _MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._changed()

    async def forget(self, slots: Iterable[SlotRecords], in_use: set[str]) -> None:
        """Deletes the blobs of checkpoints that are not needed any more."""
        keep = set(in_use)
        for slot in slots:
            attested = {card for card, _ in list(slot.attestations)}
            cards = dict(slot.cards)
            if slot.tip is not None:
                cards.setdefault(slot.tip.card.id, slot.tip.card)
            for card_id in cards_kept(list(cards.values()), slot.tip, attested, self._refused):
                if (card := cards.get(card_id)) is not None:
                    keep |= {ref.id for ref in self._refs(card.record)}
        gone = self._here - keep
        self.good &= keep
        self.resumes &= keep
        if not gone:
            return
        for blob_id in gone:
            await asyncio.to_thread(self.store.delete, blob_id)
        self._here -= gone
        self._save()

    def _save(self) -> None:
        self.ledger.put(_NAME, b"".join(bytes.fromhex(blob_id) for blob_id in sorted(self._here)))
