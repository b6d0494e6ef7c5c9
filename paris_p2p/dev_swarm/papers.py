"""What the nodes' ledgers hold of a run: signed cards, and who attested which. It asks no node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from paris_p2p.envelope import Envelope
from paris_p2p.errors import RecordError
from paris_p2p.node.ledger_check import OpenRecord, records_in
from paris_p2p.records import AttestationRecord, CardRecord

_READ = ("tip", "past", "vote", "own-card")
_CHOICE = "attested"


@dataclass
class Papers:
    """Holds verified cards and attestations of one run, from all ledgers that were read."""

    cards: dict[str, Envelope[CardRecord]] = field(default_factory=dict)  # by id
    attested: dict[str, set[str]] = field(default_factory=dict)  # card -> signers
    signed: list[Envelope[AttestationRecord]] = field(default_factory=list)
    choices: dict[tuple[str, str, int, int], str] = field(
        default_factory=dict
    )  # node, slot, epoch, seq -> card
    broken: list[str] = field(default_factory=list)  # in words
    _seen: set[str] = field(default_factory=set)  # attestations, by id
    _read: dict[Path, float] = field(default_factory=dict)  # a file's time when it was read

    def read(self, node: str, ledger: Path, open_record: OpenRecord) -> None:
        """Reads what is new in one node's ledger; a file that goes away meanwhile was overtaken."""
        for path in sorted(ledger.iterdir()) if ledger.is_dir() else ():
            key = unquote(path.name)
            word = key.partition("/")[0]
            if word not in (*_READ, _CHOICE):
                continue
            try:
                changed_s = path.stat().st_mtime
                if self._read.get(path) == changed_s:
                    continue
                data = path.read_bytes()
                self._read[path] = changed_s
                if word == _CHOICE:
                    self._note_choice(node, key, data)
                else:
                    self._take(records_in(key, data, open_record))
            except FileNotFoundError:
                continue
            except (RecordError, ValueError) as error:
                self.broken.append(f"{node}: {key}: {error}")

    def lineage(self, slot: str) -> list[Envelope[CardRecord]]:
        """Returns the cards from the slot's highest attested one back to its first, in the order they were
        made; shorter where a card between was seen on no disk.
        """
        of_slot = [self.cards[card] for card in self.attested if card in self.cards]
        ranked = [card for card in of_slot if card.record.slot == slot]
        newest = max(ranked, key=lambda one: (one.record.epoch, one.record.seq), default=None)
        found: list[Envelope[CardRecord]] = []
        while newest is not None and newest not in found:
            found.append(newest)
            newest = self.cards.get(newest.record.parent)
        return found[::-1]

    def _take(self, envelopes: Iterable[Envelope[Any]]) -> None:
        for envelope in envelopes:
            record = envelope.record
            if isinstance(record, CardRecord):
                self.cards[envelope.id] = envelope
            elif isinstance(record, AttestationRecord) and envelope.id not in self._seen:
                self._seen.add(envelope.id)
                self.signed.append(envelope)
                self.attested.setdefault(record.card, set()).add(envelope.signer)

    def _note_choice(self, node: str, key: str, data: bytes) -> None:
        _, slot, epoch, seq = key.split("/")
        self.choices[node, slot, int(epoch), int(seq)] = data.decode()
