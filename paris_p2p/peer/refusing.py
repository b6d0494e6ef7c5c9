"""An attestor's refusals are signed for the maker to hear, and remembered over restarts.

A refusal that was measured also says that this peer may sign a card that goes back (rules/rest.py); it is in
the ledger before anybody hears of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgpack

from paris_p2p.envelope import Envelope
from paris_p2p.errors import RecordError
from paris_p2p.node.run_node import RunNode
from paris_p2p.records import CardRecord, RefusalRecord
from paris_p2p.rules.refusals import CODES_FOR_MAKERS, REASONS, WORSE, code_of
from paris_p2p.training.messages import GateResult

log = logging.getLogger(__name__)
_MAX_KEPT = 8  # of a slot: of one tip there are seldom two
_MAX_CARDS = 4096  # remembered, strangers' too


class Refusals:
    """One attestor's refusals in one run; `in` says whether a card was refused."""

    def __init__(self, node: RunNode, say: Callable[[str], None]):
        self.node, self.say = node, say
        self._mine = {slot: self._load(slot) for slot in node.spec.slots}
        self._cards = {one.record.card for mine in self._mine.values() for one in mine}
        # (slot, reason) -> parent of the card that was told of last
        self._told: dict[tuple[str, str], str] = {}

    def __contains__(self, card_id: object) -> bool:
        return card_id in self._cards

    def put(
        self, card: Envelope[CardRecord], reason: str, result: GateResult | None
    ) -> Envelope[RefusalRecord] | None:
        """Refuses a card for good; returns the refusal to tell its maker, if it is to hear one. `result` is
        what was measured.
        """
        code = (result.code if result and result.code else "") or code_of(reason)
        if len(self._cards) >= _MAX_CARDS:
            self._cards.clear()  # those still there are refused anew
        self._cards.add(card.id)
        self.node.keeping.refuse(card.id)
        self.node.refused[reason if code == "malformed" else REASONS.get(code, reason)] += 1
        self.say(f"refused {card.record.slot} seq {card.record.seq} of {card.signer[-8:]}: {reason}")
        if code not in CODES_FOR_MAKERS or (result is None and not self._is_new(card.record, code)):
            return None
        return self._sign(card, code, result)

    def measured(self, slot: str) -> list[Envelope[RefusalRecord]]:
        """Returns this peer's newest refusals of what it measured and found worse, oldest first."""
        return self._mine.setdefault(slot, [])

    def _is_new(self, card: CardRecord, code: str) -> bool:
        """Tells whether the maker did not hear this reason after this tip: what cost nothing to refuse is
        said once, or anybody who leads could have this peer sign without end.
        """
        key = card.slot, code
        if self._told.get(key) == card.parent:
            return False
        self._told[key] = card.parent
        return True

    def _sign(
        self, card: Envelope[CardRecord], code: str, result: GateResult | None
    ) -> Envelope[RefusalRecord]:
        record = card.record
        measured: dict[str, Any] = {}
        if result is not None:
            measured = {
                "loss": result.loss,
                "reference_loss": result.reference_loss,
                "gate_clips": result.gate_clips,
            }
        head = self.node.header("refusal", record.slot) | {"seq": record.seq}
        refusal = RefusalRecord(
            **head, epoch=record.epoch, card=card.id, parent=record.parent, reason=code, **measured
        )
        envelope: Envelope[RefusalRecord] = self.node.sign(refusal)
        if code in WORSE:
            mine = self._mine[record.slot] = [*self.measured(record.slot), envelope][-_MAX_KEPT:]
            self.node.ledger.put(_key(record.slot), msgpack.packb([one.data for one in mine]))
        return envelope

    def _load(self, slot: str) -> list[Envelope[RefusalRecord]]:
        data = self.node.ledger.get(_key(slot))
        if data is None:
            return []
        try:
            parts = msgpack.unpackb(data)
            return [self.node.swarm.open(part, ("refusal",)) for part in parts]
        except (ValueError, TypeError, msgpack.UnpackException, RecordError) as error:
            log.warning("the refusals of %s in the ledger are damaged and forgotten: %s", slot, error)
            return []


def _key(slot: str) -> str:
    return f"refusals/{slot}"
