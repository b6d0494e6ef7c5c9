"""Keeps what a swarm leaves on its disks: every signed card with its attestations, and the blobs that cards
name. It reads ledgers and links files, and asks no node for anything.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import msgpack

from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import ParisError
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.store.blob_files import blob_file

LOOK_S = 1.0
_KINDS = ("card", "attestation")
_READ = ("tip/", "past/", "own-card/")


@dataclass
class SeenCard:
    """A card that some disk held; times are monotonic seconds."""

    card: Envelope[CardRecord]
    seen_s: float
    attested_by: dict[str, float] = field(default_factory=dict)  # signer -> loss
    attested_at: float = math.inf  # Unix time of its first attestation

    @property
    def record(self) -> CardRecord:
        return self.card.record

    @property
    def is_merged(self) -> bool:
        return bool(self.record.merged)


@dataclass
class Evidence:
    """Looks at all data directories again and again, until `close`; `kept` holds links to blobs."""

    run: str
    kept: Path
    data_dirs: Callable[[], Iterable[Path]]
    cards: dict[str, SeenCard] = field(default_factory=dict)
    _read: dict[tuple[Path, str], float] = field(default_factory=dict)  # a file's time when it was read
    _over: threading.Event = field(default_factory=threading.Event)

    _thread: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        return self._thread is not None

    def open(self) -> Evidence:
        self.kept.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self.look()

    def look(self) -> None:
        """Reads what is new in the ledgers, and links the blobs that are new."""
        for folder in list(self.data_dirs()):
            self._read_ledger(folder / "runs" / self.run / "ledger")
            self._link_blobs(folder / "blobs")

    def path(self, ref: BlobRef) -> Path | None:
        """Returns the kept file of a blob; None where no disk had it when it was looked at."""
        file = self.kept / ref.id
        return file if file.exists() else None

    def merged(self, slot: str) -> list[SeenCard]:
        """Returns the slot's attested cards of crews, in the order of the slot's lineage."""
        those = [one for one in self.attested(slot) if one.is_merged]
        return sorted(those, key=lambda one: (one.record.epoch, one.record.seq))

    def attested(self, slot: str) -> list[SeenCard]:
        return [one for one in self.cards.values() if one.record.slot == slot and one.attested_by]

    def _watch(self) -> None:
        while not self._over.is_set():
            self.look()
            self._over.wait(LOOK_S)

    def _read_ledger(self, folder: Path) -> None:
        for file in _files(folder):
            if not unquote(file.name).startswith(_READ):
                continue
            with suppress(FileNotFoundError, ParisError):
                changed_s = file.stat().st_mtime
                if self._read.get((folder, file.name)) != changed_s:
                    for part in _parts(file.read_bytes(), unquote(file.name)):
                        self._take(open_envelope(part, run=self.run, kinds=_KINDS))
                    self._read[folder, file.name] = changed_s

    def _take(self, envelope: Envelope) -> None:  # type: ignore[type-arg]
        record = envelope.record
        if record.kind == "card":
            self.cards.setdefault(envelope.id, SeenCard(envelope, time.monotonic()))
        elif (of := self.cards.get(record.card)) is not None:
            of.attested_by[envelope.signer] = record.loss
            of.attested_at = min(of.attested_at, record.issued_at)

    def _link_blobs(self, root: Path) -> None:
        """Links each blob of a store that cards may name: all but the run's shards, which stay."""
        for shelf in _files(root):
            for file in _files(shelf):
                if file.suffix == ".data" and not (link := self.kept / file.stem).exists():
                    with suppress(FileExistsError, FileNotFoundError):
                        os.link(blob_file(root, file.stem, "data"), link)


def _files(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return list(folder.iterdir())
    return []


def _parts(data: bytes, name: str) -> list[bytes]:
    """Returns the envelopes in one ledger file: an own card is one, a tip a list with its attestations."""
    return [data] if name.startswith("own-card/") else list(msgpack.unpackb(data))
