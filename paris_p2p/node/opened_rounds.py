"""The rounds of crews' cards, opened: which updates they merged, and so which blobs a card consists of
(docs/protocol.md, "Crews").

A round's blob is small, and where it is on this disk the node knows the updates that it names. What is
remembered of it is bounded; the rest is read again.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from paris_p2p.crew_records import MAX_ROUND_BYTES
from paris_p2p.errors import MissingKeyError, ParisError, RecordError, SealError
from paris_p2p.node.owners_word import Opener
from paris_p2p.node.run_blobs import RunBlobs
from paris_p2p.records import BlobRef, CardRecord
from paris_p2p.round_file import decode_round
from paris_p2p.rules.keeping import card_blobs
from paris_p2p.rules.round_checks import OpenedRound
from paris_p2p.store.sealing import sealed_bytes

log = logging.getLogger(__name__)
_REMEMBERED = 1024  # rounds


@dataclass(frozen=True)
class MergedBlobs:
    """What a node remembers of a round: the blobs of the updates that it merged, and who made them."""

    blobs: tuple[BlobRef, ...] = ()
    signers: frozenset[str] = frozenset()


class OpenedRounds:
    """Opens rounds from this disk; it may be asked from threads.

    `opener` verifies and opens a record of the run; `refused` counts rounds that are none.
    """

    def __init__(self, run: str, blobs: RunBlobs, opener: Opener, refused: Counter[str]):
        self.run, self.blobs, self.refused, self._opener = run, blobs, refused, opener
        self.locked: set[str] = set()  # rounds here that no key on this machine opens yet
        self._known: OrderedDict[str, MergedBlobs] = OrderedDict()  # by round
        self._lock = threading.Lock()

    def open(self, ref: BlobRef, slot: str) -> OpenedRound | None:
        """Returns a round with its updates' records verified; None where it is not whole on this disk.

        Raises MissingKeyError where its key is not here, and RecordError or SealError for what is no round of
        the slot. Whether it keeps to the rules is not judged (rules/round_checks.py).
        """
        if ref.size_bytes > sealed_bytes(MAX_ROUND_BYTES):
            raise RecordError(f"a round of {ref.size_bytes} bytes is over the limit of {MAX_ROUND_BYTES}")
        if not (size_bytes := self.blobs.store.size_bytes(ref.id)):
            return None
        if size_bytes != ref.size_bytes:  # a card may name whatever lies here: it is neither read nor hashed
            raise RecordError(f"blob {ref.id[:16]}… has {size_bytes} bytes, not {ref.size_bytes} as was said")
        try:
            made = decode_round(self.blobs.read(ref), self.run, slot)
            return OpenedRound(made, tuple(self._opener(one.envelope, ("update",)) for one in made.updates))
        except MissingKeyError:
            raise
        except (RecordError, SealError):
            if self.blobs.store.verify(ref.id):  # this disk damaged it: it is fetched again
                return None
            raise

    def merged(self, ref: BlobRef, slot: str) -> MergedBlobs | None:
        """Returns what is remembered of a round; None where it is not here, or cannot be opened yet.

        A round that is none has merged nothing.
        """
        with self._lock:
            if (known := self._known.get(ref.id)) is not None:
                self._known.move_to_end(ref.id)
                return known
        try:
            opened = self.open(ref, slot)
        except MissingKeyError:
            self.locked.add(ref.id)
            return None
        except ParisError as error:
            log.info("round %s… of %s cannot be opened: %s", ref.id[:16], slot, error)
            self.refused["round: malformed"] += 1
            return self._remember(ref, MergedBlobs())
        if opened is None:
            return None
        blobs = tuple(one.record.blob for one in opened.updates)
        return self._remember(ref, MergedBlobs(blobs, frozenset(one.signer for one in opened.updates)))

    def refs(self, card: CardRecord) -> tuple[BlobRef, ...]:
        """Returns the blobs of a card as far as its rounds are here: its files, rounds, and their updates."""
        return card_blobs(card, (ref for one in self._of(card) if one is not None for ref in one.blobs))

    def missing(self, card: CardRecord) -> list[str]:
        """Returns the ids of a card's rounds that are not here, or cannot be opened yet."""
        return [ref.id for ref in card.rounds if self.merged(ref, card.slot) is None]

    def is_whole(self, card: CardRecord) -> bool:
        """Tells whether everything that a card consists of is on this disk."""
        has, found = self.blobs.store.has, list(self._of(card))
        return None not in found and all(has(ref.id) for ref in self.refs(card))

    def signers(self, card: CardRecord) -> frozenset[str]:
        """Returns whose updates a card's rounds merged, as far as they are here."""
        return frozenset(peer for one in self._of(card) if one is not None for peer in one.signers)

    def _of(self, card: CardRecord) -> Iterator[MergedBlobs | None]:
        for ref in card.rounds:
            yield self.merged(ref, card.slot)

    def _remember(self, ref: BlobRef, found: MergedBlobs) -> MergedBlobs:
        with self._lock:
            self._known[ref.id] = found
            self.locked.discard(ref.id)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found
