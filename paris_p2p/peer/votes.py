"""What an attestor signed is in its ledger before anybody hears of it.

It signs at most one card per (slot, epoch, seq), also across crashes. The newest signature of each slot is
kept whole: a choice that was killed before anybody heard of it would bind its attestor for ever, so it is
told again at the next start.
"""

from __future__ import annotations

import logging

import msgpack

from paris_p2p.envelope import Envelope
from paris_p2p.errors import RecordError
from paris_p2p.node.owners_word import Opener
from paris_p2p.records import AttestationRecord, CardRecord
from paris_p2p.store.ledger import Ledger

log = logging.getLogger(__name__)
Vote = tuple[Envelope[CardRecord], Envelope[AttestationRecord]]


class Votes:
    """One attestor's choices in one run."""

    def __init__(self, ledger: Ledger, opener: Opener):
        self.ledger, self._open = ledger, opener

    def chosen(self, place: CardRecord) -> str | None:
        """Returns the card that was chosen for this card's place, if any."""
        data = self.ledger.get(_place_key(place))
        # damaged, it still binds: it is no other card's id
        return None if data is None else data.decode(errors="replace")

    def put(self, card: Envelope[CardRecord], attestation: Envelope[AttestationRecord]) -> None:
        """Returns the signature first: a choice without one is what must not be."""
        self.ledger.put(_newest_key(card.record.slot), msgpack.packb([card.data, attestation.data]))
        self.ledger.put(_place_key(card.record), card.id.encode())

    def newest(self, slot: str) -> Vote | None:
        data = self.ledger.get(_newest_key(slot))
        if data is None:
            return None
        try:
            card, attestation = msgpack.unpackb(data)
            return self._open(card, ("card",)), self._open(attestation, ("attestation",))
        except (ValueError, TypeError, msgpack.UnpackException, RecordError) as error:
            log.warning("the newest attestation of %s in the ledger is damaged: %s", slot, error)
            return None


def _newest_key(slot: str) -> str:
    return f"vote/{slot}"


def _place_key(record: CardRecord) -> str:
    return f"attested/{record.slot}/{record.epoch}/{record.seq}"
