"""The keys of a run that is sealed: numbered secrets, and everything that is derived from them.

All derivation is HKDF-SHA256 (RFC 5869) with one salt and a label for each purpose, so that no key serves two
(docs/protocol.md, "Private runs").
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgpack
from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from paris_p2p.disk import explained, make_directory, write_atomic
from paris_p2p.errors import RecordError
from paris_p2p.packed import Bounds, unpack

SECRET_BYTES = 32
HINT_BYTES = 8
KEYS_FILE = "keys"  # in a run's folder
MAX_KEYS = 4096  # of one run
_SALT = b"paris-p2p/2"
_BOUNDS = Bounds(items=MAX_KEYS + 8, depth=3)


def derive(secret: bytes, label: str, size_bytes: int = SECRET_BYTES) -> bytes:
    """Returns key material for one purpose (HKDF-SHA256)."""
    return HKDF(hashes.SHA256(), size_bytes, _SALT, label.encode()).derive(secret)


def keyed_hash(key: bytes, text: str) -> str:
    """Returns 64 hex digits that tell nothing of `text` to those who have not the key."""
    return blake3(text.encode(), key=key).hexdigest()


def secret_hash(secret: bytes) -> str:
    """Returns what a RunSpec or a notice names a secret by; the secret cannot be had from it."""
    return blake3(b"paris-p2p/2 secret\0" + secret).hexdigest()


@dataclass(frozen=True)
class DoorKey:
    """Opens what says who takes part in a private run, and nothing else: storage nodes have no more."""

    secret: bytes
    mark: str  # the hash of the secret that this one was derived from

    @cached_property
    def hash(self) -> str:
        """Returns what the owner names this key by, and the one that it was derived from."""
        return blake3(b"paris-p2p/2 key\0" + bytes.fromhex(self.mark + secret_hash(self.secret))).hexdigest()

    @cached_property
    def hint(self) -> bytes:
        return derive(self.secret, "hint", HINT_BYTES)


@dataclass(frozen=True)
class RunKey:
    """Is one numbered secret of a private run."""

    secret: bytes

    @classmethod
    def generate(cls) -> RunKey:
        return cls(secrets.token_bytes(SECRET_BYTES))

    @property
    def hash(self) -> str:
        """Returns what the RunSpec or a notice names this key by; its door key can be checked by it too."""
        return self.door.hash

    @cached_property
    def door(self) -> DoorKey:
        return DoorKey(derive(self.secret, "door"), secret_hash(self.secret))

    @cached_property
    def records(self) -> bytes:
        return derive(self.secret, "records")

    @cached_property
    def blobs(self) -> bytes:
        return derive(self.secret, "blobs")

    @cached_property
    def hint(self) -> bytes:
        """Names this key where its number would tell how many there were."""
        return derive(self.secret, "hint", HINT_BYTES)


@dataclass(frozen=True)
class GateKey:
    """Opens a run's gate clips; those have it who may attest."""

    secret: bytes

    @classmethod
    def generate(cls) -> GateKey:
        return cls(secrets.token_bytes(SECRET_BYTES))

    @cached_property
    def hash(self) -> str:
        return secret_hash(self.secret)

    @cached_property
    def blobs(self) -> bytes:
        return derive(self.secret, "blobs")

    @cached_property
    def hint(self) -> bytes:
        return derive(self.secret, "hint", HINT_BYTES)


@dataclass(frozen=True)
class DoorRing:
    """Holds what a storage node has of a run's keys: `doors` are numbered from 1, and none is left out."""

    address_door: bytes
    doors: tuple[DoorKey, ...] = ()

    @property
    def keys(self) -> tuple[RunKey, ...]:
        return ()

    @property
    def address_run(self) -> None:
        return None

    @cached_property
    def veiled_run(self) -> str:
        """Returns what outsiders see for the run's id."""
        return keyed_hash(self.address_door, "run")


@dataclass(frozen=True)
class Keyring:
    """Holds what a peer has of a run's keys: `keys` are numbered from 1, and none is left out."""

    keys: tuple[RunKey, ...] = ()
    gate: GateKey | None = None

    @property
    def current(self) -> RunKey:
        """Returns the newest key; IndexError where there is none."""
        return self.keys[-1]

    @property
    def doors(self) -> tuple[DoorKey, ...]:
        return tuple(key.door for key in self.keys)

    @property
    def for_storage(self) -> DoorRing:
        """Returns all that a storage node is given."""
        return DoorRing(self.address_door, self.doors)

    def as_of(self, count: int) -> Keyring:
        """Returns the ring as it was when it had `count` keys."""
        return replace(self, keys=self.keys[:count])

    @cached_property
    def address_door(self) -> bytes:
        """Hides where the records that storage nodes read stand; the same for the life of the run."""
        return derive(self.keys[0].secret, "address door")

    @cached_property
    def address_run(self) -> bytes:
        """Hides where all other records stand; the same for the life of the run."""
        return derive(self.keys[0].secret, "address")

    @cached_property
    def veiled_run(self) -> str:
        """Returns what outsiders see for the run's id."""
        return keyed_hash(self.address_door, "run")

    def with_key(self, secret: bytes) -> Keyring:
        """Returns the ring with one more key; the same ring when it has that key."""
        if any(key.secret == secret for key in self.keys):
            return self
        return replace(self, keys=(*self.keys, RunKey(secret)))

    def with_gate(self, secret: bytes) -> Keyring:
        return replace(self, gate=GateKey(secret))


def check_secrets(keys: Iterable[bytes], named: Iterable[str], first: int = 1) -> tuple[RunKey, ...]:
    """Returns the keys from number `first` on, each of which must have the hash that the owner signed.

    RecordError; keys beyond those that are named are left out.
    """
    checked = []
    for number, (secret, expected) in enumerate(zip(keys, named, strict=False), first):
        if len(secret) != SECRET_BYTES or RunKey(secret).hash != expected:
            raise RecordError(f"key {number} is not the one that the run's owner named; ask another member")
        checked.append(RunKey(secret))
    return tuple(checked)


def load_keyring(folder: Path) -> Keyring:
    """Returns the keys kept in a run's folder; an empty ring where there are none. RecordError."""
    path = folder / KEYS_FILE
    if not path.exists():
        return Keyring()
    with explained(path):
        data = path.read_bytes()
    try:
        raw = unpack(data, _BOUNDS)
    except RecordError:
        raw = None
    held = raw if isinstance(raw, dict) else {}
    keys, gate = held.get("keys", ()), held.get("gate")
    known = (*keys, *([] if gate is None else [gate])) if isinstance(keys, tuple) else (None,)
    if not held or not all(isinstance(one, bytes) and len(one) == SECRET_BYTES for one in known):
        raise RecordError(
            f"{path} is damaged; take it from a backup, or delete it and join again with a new invite"
        )
    return Keyring(tuple(RunKey(secret) for secret in keys), GateKey(gate) if gate else None)


def save_keyring(folder: Path, ring: Keyring) -> None:
    """Keeps the keys in a run's folder, readable by this user alone."""
    path = folder / KEYS_FILE
    held = {"keys": [key.secret for key in ring.keys], "gate": ring.gate.secret if ring.gate else None}
    with explained(path):
        make_directory(folder)
        write_atomic(path, msgpack.packb(held), mode=0o600)
