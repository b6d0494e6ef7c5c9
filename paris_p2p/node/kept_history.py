"""The past tips of one run on this disk, and the rounds of its crews: what `paris-run history` and
`paris-run receipts` are made of (docs/protocol.md, "History").

The ledger keeps the last 32 tips of a slot, since tips may go back; this keeps all, in files that grow. It is
bounded, and what goes first is what the rest still proves (rules/history.py). Nothing in it is believed:
signatures are verified again whenever it is read.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
from blake3 import blake3

from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingKeyError, RecordError, StoreError
from paris_p2p.history_records import MAX_TOLD_ATTESTATIONS, ToldTip
from paris_p2p.node.owners_word import Opener
from paris_p2p.records import BlobRef, Manifest
from paris_p2p.rules.history import thinned
from paris_p2p.rules.tips import Tip
from paris_p2p.store.record_log import RecordLog

log = logging.getLogger(__name__)
MAX_TIPS = 4096  # of a slot: four weeks of a checkpoint every ten minutes
_SPARE_TIPS = 512  # above that before the file is written anew
MAX_RUN_TIPS = 1 << 16  # of all slots, each of which has as many as the others
MAX_ROUNDS_BYTES = 64 << 20  # of all slots' rounds; the older half of the slot's with most goes


@dataclass(frozen=True)
class KeptTip:
    """Is a tip as it lies on the disk: unverified, with what this node noted beside it."""

    id: str
    seq: int
    told: ToldTip

    @property
    def worth(self) -> int:
        return len(self.told.attestations)


class KeptHistory:
    """Keeps tips and rounds by slot; it may be read from threads, and beside the process that writes."""

    def __init__(self, folder: Path, opener: Opener):
        self.folder, self.open = folder, opener
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, int]] = {}  # slot -> card id -> attestations with it
        self._rounds: dict[str, set[str]] = {}  # slot -> ids of rounds
        self._thinning: set[str] = set()  # slots

    def add(self, tip: Tip) -> bool:
        """Keeps a verified tip; returns True where it, or more attestations of it, were not here.

        A full disk is said in the log: training does not stop for a line of history.
        """
        slot, id = tip.card.record.slot, tip.card.id
        with self._lock:
            known = self._tips_known(slot)
            attestations = tip.attestations[:MAX_TOLD_ATTESTATIONS]
            if known.get(id, -1) >= len(attestations):
                return False
            if not self._wrote(self._file(slot), _packed(KeptTip(id, tip.card.record.seq, told_tip(tip)))):
                return False
            known[id] = len(attestations)
            is_long = len(known) > _SPARE_TIPS and len(known) > self._most_tips() + _SPARE_TIPS
            if not is_long or slot in self._thinning:
                return True
            self._thinning.add(slot)
        _aside(self._thin, slot)
        return True

    def add_round(self, slot: str, ref: BlobRef, data: bytes) -> bool:
        """Keeps the bytes of a round's blob, as the card names it; returns True where they were not here."""
        with self._lock:
            known = self._rounds_known(slot)
            if ref.id in known:
                return False
            file = self._file(slot, "rounds")
            if not self._wrote(file, msgpack.packb([bytes.fromhex(ref.id), data])):
                return False
            known.add(ref.id)
            sizes = {path.stem: path.stat().st_size for path in self.folder.glob("*.rounds")}
            if sum(sizes.values()) > MAX_ROUNDS_BYTES:
                self._drop_rounds(max(sizes, key=sizes.__getitem__))
            return True

    def count(self, slot: str) -> int:
        """Returns how many of a slot's tips are kept."""
        with self._lock:
            return len(self._tips_known(slot))

    def has_round(self, slot: str, round_id: str) -> bool:
        with self._lock:
            return round_id in self._rounds_known(slot)

    def tips(self, slot: str) -> list[Tip]:
        """Returns the tips that open, in the order they came; whether they count is the caller's to judge."""
        opened = []
        for kept in self.kept(slot):
            try:
                opened.append(open_told(kept.told, self.open, slot))
            except MissingKeyError as error:
                log.info("a past tip of %s cannot be read yet: %s", slot, error)
            except RecordError as error:
                log.warning("a past tip of %s is left out: %s", slot, error)
        return opened

    def kept(self, slot: str, after: int = -1) -> list[KeptTip]:
        """Returns the tips whose `seq` is above `after`, by `seq`, as they lie there."""
        found: dict[str, KeptTip] = {}
        for entry in self._file(slot).entries():
            tip = _kept_tip(entry)
            if (
                tip is not None
                and tip.seq > after
                and (tip.id not in found or found[tip.id].worth < tip.worth)
            ):
                found[tip.id] = tip
        return sorted(found.values(), key=lambda one: (one.seq, one.id))

    def rounds(self, slot: str, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yields (id, bytes) of those of the wanted rounds that are here, verified against their ids."""
        left = set(wanted)
        for entry in self._file(slot, "rounds").entries() if left else ():
            if not left:
                return
            parts = _parts(entry, 2)
            if parts is None or not isinstance(parts[1], bytes) or parts[0].hex() not in left:
                continue
            if round_ref(parts[1]).id == parts[0].hex():
                left.discard(parts[0].hex())
                yield parts[0].hex(), parts[1]

    def _wrote(self, file: RecordLog, entry: bytes) -> bool:
        try:
            file.append(entry)
        except StoreError as error:
            log.warning("a line of the run's history is not kept: %s", error)
            return False
        return True

    def _drop_rounds(self, slot: str) -> None:
        """Writes a slot's rounds anew, without the older half."""
        file = self._file(slot, "rounds")
        entries = file.read()
        try:
            file.replace(entries[len(entries) // 2 :])
        except StoreError as error:
            log.warning("the rounds of %s are not thinned out: %s", slot, error)
        self._rounds.pop(slot, None)

    def _thin(self, slot: str) -> None:
        """Writes a slot's file anew, with fewer tips; what no key here opens stays as it is.

        Reading and verifying thousands of tips takes a second, in which others may add some: the file is
        locked only while those that go are left out of it.
        """
        try:
            go = self._thinned_out(slot)
            with self._lock:
                stay = self._entries_without(slot, go)
                self._file(slot).replace(stay.values())
                self._known[slot] = dict(stay.keys())
        except StoreError as error:
            log.warning("the history of %s is not thinned out: %s", slot, error)
        finally:
            self._thinning.discard(slot)

    def _thinned_out(self, slot: str) -> set[str]:
        """Returns the ids of the tips that go."""
        kept, tips, sealed = self.kept(slot), dict[str, Tip](), list[KeptTip]()
        for one in kept:
            try:
                # which of them go is read from the cards alone
                tips[one.id] = open_told(ToldTip(card=one.told.card, attestations=()), self.open, slot)
            except MissingKeyError:
                sealed.append(one)
            except RecordError as error:
                log.warning("a past tip of %s is left out: %s", slot, error)
        ranked = sorted(tips.values(), key=lambda tip: (tip.card.record.epoch, tip.card.record.seq))
        most = max(1, self._most_tips() - len(sealed))
        left = {tip.card.id for tip in thinned(ranked, most)} | {one.id for one in sealed[-MAX_TIPS:]}
        return {one.id for one in kept} - left

    def _entries_without(self, slot: str, go: set[str]) -> dict[tuple[str, int], bytes]:
        """Returns the entries of the tips that stay by (id, attestations), of each the one with most."""
        best: dict[str, tuple[int, bytes]] = {}
        for entry in self._file(slot).entries():
            parts = _parts(entry, 4)
            if parts is None or parts[0].hex() in go or not isinstance(parts[3], list):
                continue
            if parts[0].hex() not in best or best[parts[0].hex()][0] < len(parts[3]):
                best[parts[0].hex()] = len(parts[3]), entry
        return {(id, worth): entry for id, (worth, entry) in best.items()}

    def _most_tips(self) -> int:
        slots = sum(1 for _ in self.folder.glob("*.tips"))
        return min(MAX_TIPS, MAX_RUN_TIPS // max(1, slots))

    def _tips_known(self, slot: str) -> dict[str, int]:
        if slot not in self._known:
            self._known[slot] = {one.id: one.worth for one in self.kept(slot)}
        return self._known[slot]

    def _rounds_known(self, slot: str) -> set[str]:
        if slot not in self._rounds:
            entries = (_parts(entry, 2) for entry in self._file(slot, "rounds").entries())
            self._rounds[slot] = {parts[0].hex() for parts in entries if parts is not None}
        return self._rounds[slot]

    def _file(self, slot: str, what: str = "tips") -> RecordLog:
        return RecordLog(self.folder / f"{slot}.{what}")


def _aside(work: Callable[[str], None], slot: str) -> None:
    """Does what takes a while in a thread, where it would hold up a loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        work(slot)
    else:
        loop.run_in_executor(None, work, slot)


def round_ref(data: bytes) -> BlobRef:
    """Returns what a card names these bytes by, where they are a blob of one chunk."""
    manifest = Manifest(size_bytes=len(data), chunks=(blake3(data).digest(),))
    return BlobRef(id=manifest.blob_id, size_bytes=len(data))


def open_told(told: ToldTip, opener: Opener, slot: str) -> Tip:
    """Verifies the signatures of a tip that was told; RecordError for what is none of the slot's.

    Whether it counts is the caller's to judge (`proven` in rules/history.py).
    """
    card: Envelope[Any] = opener(told.card, ("card",))
    if card.record.slot != slot:
        raise RecordError(f"a tip of {card.record.slot} came as one of {slot}")
    return Tip(card, tuple(opener(one, ("attestation",)) for one in told.attestations))


def told_tip(tip: Tip) -> ToldTip:
    """Returns a tip as it is told to others."""
    return ToldTip(
        card=tip.card.data, attestations=tuple(one.data for one in tip.attestations[:MAX_TOLD_ATTESTATIONS])
    )


def _packed(tip: KeptTip) -> bytes:
    packed: bytes = msgpack.packb(
        [bytes.fromhex(tip.id), tip.seq, tip.told.card, list(tip.told.attestations)]
    )
    return packed


def _kept_tip(entry: bytes) -> KeptTip | None:
    parts = _parts(entry, 4)
    if parts is None:
        return None
    id, seq, card, attestations = parts
    try:
        return KeptTip(id.hex(), int(seq), ToldTip(card=card, attestations=tuple(attestations)))
    except (ValueError, TypeError):
        return None


def _parts(entry: bytes, count: int) -> Sequence[Any] | None:
    """Returns what an entry of the file holds, the first of which are 32 bytes; None for anything else."""
    try:
        parts = msgpack.unpackb(entry)
    except (ValueError, msgpack.UnpackException):
        return None
    is_right = isinstance(parts, list) and len(parts) == count
    return parts if is_right and isinstance(parts[0], bytes) and len(parts[0]) == 32 else None
