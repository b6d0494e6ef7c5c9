"""Holds, within bounds, what this DHT node keeps for others; hivemind's own storage has none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, partial

from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.utils.timed_storage import ValueWithExpiration

from paris_p2p.envelope import decode, split_envelope
from paris_p2p.errors import RecordError
from paris_p2p.kinds import BOARD_KINDS, DEFAULT_MAX_ENVELOPE_BYTES, SIGNED_LIFETIME_S
from paris_p2p.packed import Bounds, unpack
from paris_p2p.swarm.entries import MAX_ENTRIES
from paris_p2p.swarm.shares import Giver, Shares
from paris_p2p.swarm.verified import MAX_ENTRIES_PER_KEY, named_run

MAX_LIFETIME_S = (
    max(SIGNED_LIFETIME_S[kind] for kind in BOARD_KINDS) + 3600.0
)  # from now: a signer may have dated its record into the future
SWEEP_EVERY_S = 10.0  # at most, when there is no room
# What Python takes beside the bytes of values and subkeys; measured, see tests/swarm/test_storage.py.
_ENTRY_BYTES = 600


@dataclass(frozen=True)
class StorageLimits:
    """Bounds memory, in bytes. A run of nine slots with a thousand peers needs about 1 MB."""

    total_bytes: int = 64 << 20
    run_bytes: int = 16 << 20  # of any one run
    others_bytes: int = 16 << 20  # of all runs together that this peer takes no part in
    entries_per_key: int = MAX_ENTRIES_PER_KEY
    key_bytes: int = 1 << 20  # a key's records are answered in one message, of at most 4 MiB
    handed_over_bytes: int = 1 << 20  # to a node that was met; hivemind sends it as one message
    handed_over_entries: int = MAX_ENTRIES  # a message with more is refused whole


@dataclass(slots=True)
class _Held:
    value: bytes
    expires_at: float
    giver: Giver


@dataclass(slots=True)
class _Shelf:
    """Holds the records under one key; `answer_bytes` is what they take in a message."""

    run: str
    answer_bytes: int = 0
    entries: dict[str, _Held] = field(default_factory=dict)  # by subkey


_Place = tuple[DHTID, str]  # key, subkey
_OTHERS = ""  # the room of all runs that this peer takes no part in


class RecordStorage:
    """Stands in for hivemind's DHTLocalStorage; where there is no room, the largest holder gives way.

    Each run this peer takes part in has a room of its own, and all other runs have one together: anybody
    can sign records of runs that nobody else knows of. Rooms and keys are shared fairly between those who
    bring records (`shares`).
    """

    def __init__(
        self, limits: StorageLimits, refused: Counter[str], address_of: Callable[[str], str] = lambda peer: ""
    ):
        self.limits, self._refused, self.address_of = limits, refused, address_of
        self.bringing: ContextVar[str] = ContextVar(
            "bringing", default=""
        )  # the peer whose records are being stored
        self.answering: ContextVar[bool] = ContextVar("answering", default=False)  # by the door
        self.own_runs: set[str] = set()  # changed by take_part and leave
        self._shelves: dict[DHTID, _Shelf] = {}
        self._rooms: dict[str, Shares[_Place]] = {_OTHERS: Shares()}
        self._swept_s = float("-inf")

    @property
    def used_bytes(self) -> int:
        return sum(room.used_bytes for room in self._rooms.values())

    def take_part(self, run: str) -> None:
        """Gives the run a room of its own from now on."""
        self._move(run, own=True)

    def leave(self, run: str) -> None:
        """Makes the run one of the others again."""
        self._move(run, own=False)

    def answer_bytes(self, key: DHTID) -> int:
        """Returns the size of an answer with a key's records."""
        shelf = self._shelves.get(key)
        return shelf.answer_bytes if shelf else 0

    def store(self, key: DHTID, value: bytes, expiration_time: float, subkey: str | None = None) -> bool:
        """Stores as hivemind calls it; a value without subkey is no record."""
        return subkey is not None and self.store_subkey(key, subkey, value, expiration_time)

    def store_subkey(self, key: DHTID, subkey: str, value: bytes, expiration_time: float) -> bool:
        """Stores a value that has been validated.

        Returns False when what is here expires no earlier, or there is no room.
        """
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
        """Returns a copy: hivemind merges what other nodes answer into the value it is given."""
        return None if self.answering.get() else self._copy(key)

    def _copy(self, key: DHTID) -> ValueWithExpiration[DictionaryDHTValue] | None:
        current = self.values(key)
        if not current:
            return None
        value = DictionaryDHTValue()
        for subkey, data, expires_at in current:
            value.store(subkey, data, expires_at)
        return ValueWithExpiration(value, value.latest_expiration_time)

    def values(self, key: DHTID) -> list[tuple[str, bytes, float]]:
        """Lists (subkey, value, expiry) of what is held under a key and has not expired."""
        shelf, now = self._shelves.get(key), time.time()
        held = shelf.entries.items() if shelf else ()
        return [(subkey, entry.value, entry.expires_at) for subkey, entry in held if entry.expires_at >= now]

    def items(self) -> Iterator[tuple[DHTID, ValueWithExpiration[DictionaryDHTValue]]]:
        """Yields, for hivemind to hand to a node that it met, own runs first, within one message.

        The node may have been met by its question: the task that hands over was made while that was
        answered.
        """
        left_bytes, left = self.limits.handed_over_bytes, self.limits.handed_over_entries
        for key in sorted(self._shelves, key=lambda key: self._shelves[key].run not in self.own_runs):
            size_bytes, count = self.answer_bytes(key), len(self._shelves[key].entries)
            if size_bytes <= left_bytes and count <= left and (value := self._copy(key)) is not None:
                left_bytes, left = left_bytes - size_bytes, left - count
                yield key, value

    def __contains__(self, key: DHTID) -> bool:
        return self.get(key) is not None

    def _put(self, key: DHTID, subkey: str, value: bytes, expires_at: float) -> bool | None:
        """Puts a record in its room; None when there is none."""
        shelf = self._shelves.get(key)
        held = shelf.entries.get(subkey) if shelf else None
        if held is not None and held.expires_at >= expires_at:
            return False
        if shelf is None:
            try:
                shelf = _Shelf(_run_of(value))
            except RecordError:
                return False
        peer = self.bringing.get()
        giver = held.giver if held else _giver(peer, self.address_of(peer) if peer else "")
        more_bytes = len(value) - len(held.value) if held else _entry_bytes(subkey, value)
        if not self._make_room(key, shelf, giver, more_bytes, is_new=held is None):
            return None
        if held is not None and subkey not in shelf.entries:  # it gave way to its own successor
            more_bytes = _entry_bytes(subkey, value)
        shelf.answer_bytes += more_bytes if subkey in shelf.entries else _answer_bytes(subkey, value)
        shelf.entries[subkey] = _Held(value, expires_at, giver)
        self._shelves[key] = shelf
        self._room(shelf.run).add(giver, (key, subkey), more_bytes)
        return True

    def _make_room(self, key: DHTID, shelf: _Shelf, giver: Giver, more_bytes: int, *, is_new: bool) -> bool:
        """Says whether there is room for `more_bytes` of this giver's, after the largest holder gave way."""
        if more_bytes <= 0:
            return True
        key_is_full = partial(self._key_is_full, shelf, more_bytes, is_new)
        shares = _shares_of(shelf) if key_is_full() else Shares()
        while key_is_full():
            subkey = shares.to_give_way(giver, more_bytes)
            if subkey is None:
                return False
            shares.remove(
                shelf.entries[subkey].giver, subkey, _entry_bytes(subkey, shelf.entries[subkey].value)
            )
            self._drop(key, shelf, subkey)
        room = self._room(shelf.run)
        limit_bytes = self.limits.run_bytes if shelf.run in self.own_runs else self.limits.others_bytes
        while (
            room.used_bytes + more_bytes > limit_bytes
            or self.used_bytes + more_bytes > self.limits.total_bytes
        ):
            full = (
                room
                if room.used_bytes + more_bytes > limit_bytes
                else max(self._rooms.values(), key=lambda r: r.used_bytes)
            )
            # Of another run that holds more than this one, the largest holder there gives way.
            asking = giver if full is room else Giver("another run")
            place = full.to_give_way(asking, more_bytes)
            if place is None:
                return False
            self._drop(place[0], self._shelves[place[0]], place[1])
        return True

    def _key_is_full(self, shelf: _Shelf, more_bytes: int, is_new: bool) -> bool:
        too_many = len(shelf.entries) + is_new > self.limits.entries_per_key
        return too_many or shelf.answer_bytes + more_bytes > self.limits.key_bytes

    def _drop(self, key: DHTID, shelf: _Shelf, subkey: str) -> None:
        held = shelf.entries.pop(subkey)
        size_bytes = _entry_bytes(subkey, held.value)
        shelf.answer_bytes -= _answer_bytes(subkey, held.value)
        self._room(shelf.run).remove(held.giver, (key, subkey), size_bytes)
        if not shelf.entries:
            self._shelves.pop(key, None)

    def _room(self, run: str) -> Shares[_Place]:
        return self._rooms.setdefault(run, Shares()) if run in self.own_runs else self._rooms[_OTHERS]

    def _move(self, run: str, *, own: bool) -> None:
        if (run in self.own_runs) == own:
            return
        places = [
            (key, shelf, subkey)
            for key, shelf in self._shelves.items()
            if shelf.run == run
            for subkey in shelf.entries
        ]
        before = self._room(run)
        (self.own_runs.add if own else self.own_runs.discard)(run)
        for key, shelf, subkey in places:
            held = shelf.entries[subkey]
            size_bytes = _entry_bytes(subkey, held.value)
            before.remove(held.giver, (key, subkey), size_bytes)
            self._room(run).add(held.giver, (key, subkey), size_bytes)
        if not own:
            self._rooms.pop(run, None)

    def _sweep(self, now: float) -> None:
        """Drops what has expired."""
        self._swept_s = now
        for key, shelf in list(self._shelves.items()):
            for subkey in [subkey for subkey, held in shelf.entries.items() if held.expires_at < now]:
                self._drop(key, shelf, subkey)


def _entry_bytes(subkey: str, value: bytes) -> int:
    return _ENTRY_BYTES + len(subkey) + len(value)


def _answer_bytes(subkey: str, value: bytes) -> int:
    return 16 + len(subkey) + len(value)


def _shares_of(shelf: _Shelf) -> Shares[str]:
    """Counts who holds how much of a key; it is looked at only when the key is full."""
    shares: Shares[str] = Shares()
    for subkey, held in shelf.entries.items():
        shares.add(held.giver, subkey, _entry_bytes(subkey, held.value))
    return shares


@lru_cache(maxsize=4096)
def _giver(peer: str, address: str) -> Giver:
    return Giver(peer, address)  # one object for all that a peer brings


def _run_of(value: bytes) -> str:
    payload, _, _ = split_envelope(unpack(value, Bounds(items=1, depth=0)), DEFAULT_MAX_ENVELOPE_BYTES)
    return named_run(decode(payload))
