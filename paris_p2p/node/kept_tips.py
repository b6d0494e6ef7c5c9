"""The tips of one run in its ledger, so that a restart knows them before anybody speaks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import RecordError
from paris_p2p.rules.tips import Tip
from paris_p2p.store.ledger import Ledger

log = logging.getLogger(__name__)
_MAX_ATTESTATIONS = 64  # of a tip: as many as a quorum may have


class KeptTips:
    """Tips by slot; what is damaged, or cannot be, is forgotten: the swarm has it too."""

    def __init__(self, run: str, ledger: Ledger):
        self.run, self.ledger = run, ledger

    def save(self, slot: str, tip: Tip, beside: Sequence[Envelope[Any]]) -> None:
        """Keeps a tip and the cards `beside` it as one value: a card without its attestations would be no
        tip, and a crash may come between two.
        """
        envelopes: list[Envelope[Any]] = [tip.card, *tip.attestations[:_MAX_ATTESTATIONS], *beside]
        self.ledger.put(f"tip/{slot}", msgpack.packb([envelope.data for envelope in envelopes]))

    def load(self, take: Callable[[Envelope[Any]], None]) -> None:
        """Hands every record to `take`; where that raises RecordError, the slot's entry is deleted."""
        for key, data in self.ledger.items("tip/"):
            try:
                for part in _unpacked(data):
                    take(open_envelope(part, run=self.run, kinds=("card", "attestation")))
            except RecordError as error:
                log.warning("%s in the ledger is damaged and deleted, the swarm has it too: %s", key, error)
                self.ledger.delete(key)


def _unpacked(data: bytes) -> list[bytes]:
    try:
        parts = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise RecordError(f"{len(data)} bytes are not a list of envelopes") from error
    if not isinstance(parts, list) or not all(isinstance(part, bytes) for part in parts):
        raise RecordError("it is not a list of envelopes")
    return parts
