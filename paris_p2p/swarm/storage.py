"""What this DHT node holds for others, within bounds: hivemind's own storage keeps all that is validly signed, for as long as it asks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgpack
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.utils.timed_storage import ValueWithExpiration

from paris_p2p.envelope import decode, split_envelope
from paris_p2p.errors import RecordError
from paris_p2p.records import DEFAULT_MAX_ENVELOPE_BYTES, SIGNED_LIFETIME_S
from paris_p2p.swarm.verified import MAX_ENTRIES_PER_KEY, named_run

MAX_LIFETIME_S = max(SIGNED_LIFETIME_S.values()) + 3600.0  # from now: a signer may have dated its record into the future
SWEEP_EVERY_S = 10.0  # at most, when there is no room
# What Python takes beside the bytes of values and subkeys; measured, see tests/swarm/test_storage.py.
_KEY_BYTES = 640
_ENTRY_BYTES = 200


@dataclass(frozen=True)
class StorageLimits:
    """Bytes are of memory. A run of nine slots with a thousand peers needs about 1 MB."""

    total_bytes: int = 64 << 20
    run_bytes: int = 16 << 20  # of any one run
    others_bytes: int = 16 << 20  # of all runs together that this peer takes no part in
    entries_per_key: int = MAX_ENTRIES_PER_KEY
    handed_over_bytes: int = 1 << 20  # to a node that was met; hivemind sends it as one message, of at most 4 MiB


@dataclass(slots=True)
class _Shelf:
    """The records under one key."""

    run: str
    size_bytes: int = 0
    entries: dict[str, tuple[bytes, float]] = field(default_factory=dict)  # subkey -> value, expiry


class RecordStorage:
    """Stands in for hivemind's DHTLocalStorage. What was here first stays until it expires; what finds no room is not kept.

    Anybody can sign records of runs that nobody else knows of. They have a part of the room to themselves, so that they
    take nothing from `own_runs`, and do not push each other out: the flood that comes is what is turned away.
    """

    def __init__(self, limits: StorageLimits, refused: Counter[str]):
        self.limits, self._refused = limits, refused
        self.own_runs: set[str] = set()  # whoever owns this storage adds to it
        self._shelves: dict[DHTID, _Shelf] = {}
        self.used_bytes = 0
        self._run_bytes: Counter[str] = Counter()
        self._swept_s = float("-inf")

    def store(self, key: DHTID, value: bytes, expiration_time: float, subkey: str | None = None) -> bool:
        """As hivemind calls it; a value without subkey is no record."""
        return subkey is not None and self.store_subkey(key, subkey, value, expiration_time)

    def store_subkey(self, key: DHTID, subkey: str, value: bytes, expiration_time: float) -> bool:
        """False when what is here expires no earlier, or there is no room. The value has been validated."""
        now = time.time()
        if not now <= expiration_time <= now + MAX_LIFETIME_S:
            return False
        kept = self._put(key, subkey, value, expiration_time)
        if kept is None and now >= self._swept_s + SWEEP_EVERY_S:
            self._sweep(now)
            kept = self._put(key, subkey, value, expiration_time)
        if kept is None:
            self._refused["DHT storage: no room"] += 1
        return bool(kept)

    def get(self, key: DHTID) -> ValueWithExpiration[DictionaryDHTValue] | None:
        """A copy: hivemind merges what other nodes answer into the value it is given."""
        shelf, now = self._shelves.get(key), time.time()
        current = {subkey: entry for subkey, entry in shelf.entries.items() if entry[1] >= now} if shelf else {}
        if not current:
            return None
        value = DictionaryDHTValue()
        for subkey, (data, expires_at) in current.items():
            value.store(subkey, data, expires_at)
        return ValueWithExpiration(value, value.latest_expiration_time)

    def items(self) -> Iterator[tuple[DHTID, ValueWithExpiration[DictionaryDHTValue]]]:
        """For hivemind, which hands them to a node that is new to it: own runs first, as much as fits into one message."""
        left_bytes = self.limits.handed_over_bytes
        for key in sorted(self._shelves, key=lambda key: self._shelves[key].run not in self.own_runs):
            if self._shelves[key].size_bytes <= left_bytes and (value := self.get(key)) is not None:
                left_bytes -= self._shelves[key].size_bytes
                yield key, value

    def __contains__(self, key: DHTID) -> bool:
        return self.get(key) is not None

    def _put(self, key: DHTID, subkey: str, value: bytes, expires_at: float) -> bool | None:
        """None when there is no room."""
        shelf = self._shelves.get(key)
        held = shelf.entries.get(subkey) if shelf else None
        if held is not None and held[1] >= expires_at:
            return False
        if shelf is None:
            try:
                shelf = _Shelf(_run_of(value))
            except (RecordError, ValueError, msgpack.UnpackException):
                return False
        more_bytes = _entry_bytes(subkey, value) - (_entry_bytes(subkey, held[0]) if held else 0) + (0 if shelf.entries else _KEY_BYTES)
        if (held is None and len(shelf.entries) >= self.limits.entries_per_key) or not self._has_room(shelf.run, more_bytes):
            return None
        shelf.entries[subkey] = value, expires_at
        self._shelves[key] = shelf
        self._count(shelf, more_bytes)
        return True

    def _has_room(self, run: str, more_bytes: int) -> bool:
        if more_bytes <= 0:
            return True
        others_bytes = self.used_bytes - sum(self._run_bytes[own] for own in self.own_runs)
        return (
            self.used_bytes + more_bytes <= self.limits.total_bytes
            and self._run_bytes[run] + more_bytes <= self.limits.run_bytes
            and (run in self.own_runs or others_bytes + more_bytes <= self.limits.others_bytes)
        )

    def _count(self, shelf: _Shelf, more_bytes: int) -> None:
        shelf.size_bytes += more_bytes
        self.used_bytes += more_bytes
        self._run_bytes[shelf.run] += more_bytes
        if not self._run_bytes[shelf.run]:
            del self._run_bytes[shelf.run]

    def _sweep(self, now: float) -> None:
        """Drop what has expired."""
        self._swept_s = now
        for key, shelf in list(self._shelves.items()):
            for subkey in [subkey for subkey, (_, expires_at) in shelf.entries.items() if expires_at < now]:
                self._count(shelf, -_entry_bytes(subkey, shelf.entries.pop(subkey)[0]))
            if not shelf.entries:
                del self._shelves[key]
                self._count(shelf, -_KEY_BYTES)


def _entry_bytes(subkey: str, value: bytes) -> int:
    return _ENTRY_BYTES + len(subkey) + len(value)


def _run_of(value: bytes) -> str:
    payload, _, _ = split_envelope(msgpack.unpackb(value), DEFAULT_MAX_ENVELOPE_BYTES)
    return named_run(decode(payload))
