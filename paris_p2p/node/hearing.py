"""A node remembers what it heard of every slot's claims, for rules/heard.py, and over a restart what was
wasted.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import msgpack

from paris_p2p.envelope import Envelope
from paris_p2p.errors import RecordError
from paris_p2p.identity import peer_id_from_bytes, peer_id_to_bytes
from paris_p2p.node.owners_word import OwnersWord
from paris_p2p.records import ClaimRecord
from paris_p2p.rules.heard import Heard, Spell, hear, hear_slot, patience_s
from paris_p2p.store.ledger import Ledger

log = logging.getLogger(__name__)
# signers remembered per slot; keys are free, so a flood of them gains nothing by being remembered
_MAX_SPELLS = 1024
_MAX_SAVED = 64  # signers per slot, those that wasted most
_SAVE_EVERY_S = 60.0
_MAX_SECONDS = 4e9


@dataclass
class SlotHearing:
    """One slot: its spells, and how fast its tips come."""

    spells: dict[str, Spell] = field(default_factory=dict)  # by signer
    slot: Spell | None = None
    pace_s: float = 0.0  # between the last two tips, if one lead made both
    saved_at_s: float = 0.0
    is_saved: bool = False


class Hearing:
    """Takes from the board what came and when; `heard` is what the rules ask for."""

    def __init__(self, word: OwnersWord, ledger: Ledger, now_s: float):
        self.word, self.ledger = word, ledger
        # who is here and may attest; None: that was not read yet
        self.attestors: frozenset[str] | None = None
        # of a slot's checkpoints, where that is known: what its leads have to move
        self.state_bytes: dict[str, int] = {}
        self.slots: dict[str, SlotHearing] = {}
        for name in word.state.slots_ever:
            self.add_slot(name, now_s)

    def add_slot(self, name: str, now_s: float) -> None:
        """Listens to one more slot."""
        self.slots[name] = SlotHearing()
        self._load(name, now_s)

    def heard(self, name: str) -> Heard:
        slot = self.slots[name]
        patience = patience_s(self.word.spec.timing, self._moved_bytes(name), slot.pace_s)
        return Heard(patience, slot.slot, slot.spells)

    def note_claim(
        self,
        envelope: Envelope[ClaimRecord],
        before: Envelope[ClaimRecord] | None,
        is_live: bool,
        now_s: float,
    ) -> None:
        """Notes a claim that came here; `before` was its signer's newest until now."""
        name, signer = envelope.record.slot, envelope.signer
        slot, heard = self.slots[name], self.heard(name)
        counts = is_live and self._is_attended(signer)
        spell = hear(
            slot.spells.get(signer),
            envelope.record,
            before.record if before else None,
            now_s,
            heard,
            counts=counts,
        )
        slot.spells[signer] = spell
        if len(slot.spells) > _MAX_SPELLS:
            del slot.spells[min(slot.spells, key=lambda one: slot.spells[one].until_s)]
        slot.slot = hear_slot(slot.slot, slot.spells, now_s)
        is_saved_lately = 0 <= now_s - slot.saved_at_s < _SAVE_EVERY_S  # unless the clock was set back
        if not is_saved_lately and slot.slot.held_s(now_s) > 0:
            self._save(name, now_s)

    def note_tip(self, name: str, maker: str, pace_s: float | None, now_s: float) -> None:
        """Notes that a card of `maker` became the tip, `pace_s` after the one before, if that was its own
        too.
        """
        slot = self.slots[name]
        slot.pace_s = max(0.0, pace_s or 0.0)
        if maker in slot.spells:
            slot.spells[maker] = slot.spells[maker].proved(now_s)
        slot.slot = slot.slot.proved(now_s) if slot.slot else None
        if slot.is_saved:
            self._save(name, now_s)

    def _is_attended(self, lead: str) -> bool:
        """Tells whether a card of this lead's could become the tip; where too few are here to sign it, its
        time is not wasted.
        """
        return self.attestors is None or len(self.attestors - {lead}) >= self.word.spec.gate.quorum

    def _moved_bytes(self, name: str) -> int:
        """Returns what a new lead moves: it fetches its shards and the tip's state, and its first card's goes
        out.
        """
        shards = sum(shard.blob.size_bytes for shard in self.word.spec.shards_for(name, "train"))
        return shards + 2 * self.state_bytes.get(name, 0)

    def _save(self, name: str, now_s: float) -> None:
        slot, heard = self.slots[name], self.heard(name)
        worst = sorted(slot.spells, key=lambda signer: -slot.spells[signer].held_s(now_s))[:_MAX_SAVED]
        wasted = [
            (peer_id_to_bytes(one), slot.spells[one].held_s(now_s))
            for one in worst
            if heard.wasted(one, now_s)
        ]
        held_s = slot.slot.held_s(now_s) if slot.slot else 0.0
        self.ledger.put(f"heard/{name}", msgpack.packb([now_s, held_s, wasted]))
        slot.saved_at_s, slot.is_saved = now_s, True

    def _load(self, name: str, now_s: float) -> None:
        data = self.ledger.get(f"heard/{name}")
        if data is None:
            return
        slot = self.slots[name]
        try:
            saved_at_s, held_s, wasted = msgpack.unpackb(data)
            at_s = min(_seconds(saved_at_s), now_s)
            slot.slot = Spell(now_s, now_s, now_s, _seconds(held_s))
            slot.spells = {
                peer_id_from_bytes(one): Spell(now_s, at_s, at_s, _seconds(s))
                for one, s in wasted[:_MAX_SAVED]
            }
            slot.is_saved = True
        except (ValueError, TypeError, msgpack.UnpackException, RecordError) as error:
            log.warning(
                "heard/%s in the ledger is damaged and deleted, claims are heard anew: %s", name, error
            )
            slot.slot, slot.spells = None, {}
            self.ledger.delete(f"heard/{name}")


def _seconds(value: float) -> float:
    if not 0 <= value <= _MAX_SECONDS:
        raise ValueError(f"{value!r} is no time")
    return float(value)
