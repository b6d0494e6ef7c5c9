"""The keys of one run that this peer has, in memory and on its disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from paris_p2p.errors import MissingKeyError, RecordError, SealError
from paris_p2p.keyring import KEYS_FILE, GateKey, Keyring, RunKey, load_keyring, save_keyring
from paris_p2p.records import BlobRef
from paris_p2p.spec import RunSpec
from paris_p2p.store.sealing import BlobKey, hint_of


class RunKeys:
    """`ring` is what is in the run's folder."""

    def __init__(self, folder: Path):
        self.folder, self.ring = folder, load_keyring(folder)
        self.in_force: Callable[[], int] = lambda: len(self.ring.keys)  # how many keys the run has by now
        self.wanted = threading.Event()  # a key was missing; the exchange of keys clears it
        self.has_part: Callable[[str], bool] = lambda peer: True

    def check(self, spec: RunSpec) -> None:
        """Raises MissingKeyError where a private run's keys are not here, RecordError where others are."""
        if not self.ring.keys:
            raise MissingKeyError(
                f"run {spec.name!r} is private, and its keys are not in {self.folder / KEYS_FILE}; "
                "take that file from a backup, or join again with a new invite"
            )
        if self.ring.keys[0].hash != spec.key_hash:
            raise RecordError(
                f"the keys in {self.folder / KEYS_FILE} are not those of run {spec.name!r}; "
                "take the file from a backup, or delete it and join again with a new invite"
            )

    def miss(self, signer: str) -> None:
        """Notes that a record is sealed under a key that is not here, unless a stranger signed it: anybody
        can name a key that does not exist.
        """
        if self.has_part(signer):
            self.wanted.set()

    def keep(self, ring: Keyring) -> None:
        """Keeps the keys; when this returns, a power cut does not lose them."""
        save_keyring(self.folder, ring)
        self.ring = ring

    @property
    def is_behind(self) -> bool:
        """Whether a private run's newest key is not here; the exchange of keys is asked to get it."""
        behind = bool(self.ring.keys) and self.in_force() > len(self.ring.keys)
        if behind:
            self.wanted.set()
        return behind

    def for_new_blobs(self) -> RunKey:
        """Returns the key that what is published now is sealed under; MissingKeyError without it."""
        number = self.in_force()
        if not 0 < number <= len(self.ring.keys):
            self.wanted.set()
            raise MissingKeyError(
                f"this run is sealed and its key {number} is not here yet; a member has to give it first"
            )
        return self.ring.keys[number - 1]

    def named(self, hint: bytes) -> RunKey | GateKey | None:
        """Returns the key with this hint, where this peer has it."""
        gate = () if self.ring.gate is None else (self.ring.gate,)
        return next((key for key in (*self.ring.keys, *gate) if key.hint == hint), None)

    def for_gate(self) -> GateKey:
        """Returns the key of the gate's clips; MissingKeyError where this peer lacks it, as most do."""
        if self.ring.gate is None:
            raise MissingKeyError(
                "the gate's clips are sealed to those who may attest, and their key is not here"
            )
        return self.ring.gate

    def opening(self, ref: BlobRef, blob: Path) -> BlobKey:
        """Returns the key that opens a blob of a private run, by the hint that the blob bears.

        SealError where it is not sealed, MissingKeyError where this peer has no such key.
        """
        hint = hint_of(blob)
        if hint is None:
            raise SealError(
                f"blob {ref.id[:16]}… is not sealed, as everything of a private run must be; it is not opened"
            )
        key = self.named(hint)
        if key is None:
            self.wanted.set()
            raise MissingKeyError(
                f"blob {ref.id[:16]}… is sealed under key {hint.hex()}, which is not here yet; "
                "a member has to give it first"
            )
        return key
