"""The tips of one run in its ledger, so that a restart knows them before anybody speaks; beside each slot's
tip the last ones before it, each an entry of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingKeyError, RecordError
from paris_p2p.node.kept_history import KeptHistory
from paris_p2p.node.owners_word import Opener
from paris_p2p.rules.tips import Tip
from paris_p2p.store.ledger import Ledger

log = logging.getLogger(__name__)
_MAX_ATTESTATIONS = 64  # of a tip: as many as a quorum may have
_KINDS = ("card", "attestation")


class KeptTips:
    """Tips by slot; what is damaged, or cannot be, is forgotten: the swarm has it too."""

    def __init__(self, opener: Opener, ledger: Ledger):
        self.open, self.ledger = opener, ledger
        self.history = KeptHistory(ledger.path.parent / "history", opener)

    def save(self, slot: str, tip: Tip, beside: Sequence[Envelope[Any]]) -> None:
        """Keeps a tip and the cards `beside` it as one value: a card without its attestations would be no
        tip, and a crash may come between two.
        """
        self.ledger.put(f"tip/{slot}", _packed([*_envelopes(tip), *beside]))

    def forget(self, slot: str) -> None:
        self.ledger.delete(f"tip/{slot}")

    def load(self, take: Callable[[Envelope[Any]], None]) -> None:
        """Hands every record to `take`; where that raises RecordError, the slot's entry is deleted."""
        for key, data in self.ledger.items("tip/"):
            try:
                for part in _unpacked(data):
                    take(self.open(part, _KINDS))
            except RecordError as error:
                self._delete(key, error)

    def save_past(self, slot: str, tip: Tip) -> None:
        """Keeps a tip that another follows, here as long as the slot may go back to it, and in the history
        for good.
        """
        self.ledger.put(_past(slot, tip), _packed(_envelopes(tip)))
        self.history.add(tip)

    def forget_past(self, slot: str, tip: Tip) -> None:
        self.ledger.delete(_past(slot, tip))

    def load_past(self, slot: str, most: int) -> list[Tip]:
        """Returns the newest tips before the slot's own, the oldest first; others are deleted."""
        found: list[tuple[tuple[int, int], str, Tip]] = []
        for key, data in self.ledger.items(f"past/{slot}/"):
            try:
                card, *attestations = (self.open(part, _KINDS) for part in _unpacked(data))
                if card.record.kind != "card" or any(one.record.kind == "card" for one in attestations):
                    raise RecordError("it is not a card with its attestations")
                tip = Tip(card, tuple(attestations))
                if key != _past(slot, tip):
                    raise RecordError(f"it holds a card of {card.record.slot}")
                found.append(((card.record.epoch, card.record.seq), key, tip))
            except (RecordError, ValueError) as error:
                self._delete(key, error)
        found.sort(key=lambda one: one[:2])
        for _, key, _ in found[: max(0, len(found) - most)]:
            self.ledger.delete(key)
        for _, _, tip in found:
            self.history.add(tip)  # of a data directory from before there was one
        return [tip for _, _, tip in found[-most:]]

    def _delete(self, key: str, error: Exception) -> None:
        if isinstance(error, MissingKeyError):  # it is a private run's, and its key may come yet
            log.info("%s in the ledger cannot be read yet: %s", key, error)
            return
        log.warning("%s in the ledger is damaged and deleted, the swarm has it too: %s", key, error)
        self.ledger.delete(key)


def tips_in_ledger(ledger: Ledger, opener: Opener, slot: str) -> list[Tip]:
    """Returns a slot's last tips as a ledger has them, verified; what is damaged is left out, and left there:
    a node may be at work on it.
    """
    tips = []
    for key, data in ledger.items():
        if key != f"tip/{slot}" and not key.startswith(f"past/{slot}/"):
            continue
        try:
            card, *others = (opener(part, _KINDS) for part in _unpacked(data))
            attestations = tuple(one for one in others if one.record.kind == "attestation")
            tips.append(Tip(card, tuple(one for one in attestations if one.record.card == card.id)))
        except (RecordError, ValueError) as error:
            log.info("%s in the ledger is left out: %s", key, error)
    return tips


def _past(slot: str, tip: Tip) -> str:
    return f"past/{slot}/{tip.card.record.epoch}-{tip.card.record.seq}"


def _envelopes(tip: Tip) -> list[Envelope[Any]]:
    return [tip.card, *tip.attestations[:_MAX_ATTESTATIONS]]


def _packed(envelopes: Sequence[Envelope[Any]]) -> bytes:
    packed: bytes = msgpack.packb([envelope.data for envelope in envelopes])
    return packed


def _unpacked(data: bytes) -> list[bytes]:
    try:
        parts = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise RecordError(f"{len(data)} bytes are not a list of envelopes") from error
    if not isinstance(parts, list) or not all(isinstance(part, bytes) for part in parts):
        raise RecordError("it is not a list of envelopes")
    return parts
