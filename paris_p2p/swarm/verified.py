"""Checks records in full as DHT nodes hold and hand them out, and none older than what was seen before."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

from paris_p2p.envelope import Envelope, decode, open_envelope, parse, split_envelope
from paris_p2p.errors import RecordError, VersionError
from paris_p2p.kinds import BOARD_KINDS, DEFAULT_MAX_ENVELOPE_BYTES, SIGNED_KINDS, SIGNED_LIFETIME_S, dht_key
from paris_p2p.records import READER
from paris_p2p.swarm.limits import Reasons, kind_of

log = logging.getLogger(__name__)
MAX_KEYS = 4096
MAX_ENTRIES_PER_KEY = 1024
_CACHED_ENVELOPES = 4096


def subkey_of(envelope: Envelope[Any]) -> str:
    return f"{envelope.signer}:{envelope.record.kind}"


def open_stored(data: bytes) -> tuple[Envelope[Any], bool]:
    """Verifies an envelope of any run; RecordError.

    Returns (the envelope, whether this reader is too old to use it). A record that asks for a newer
    reader is accepted here, for storing only: one refused entry makes hivemind throw away the whole
    dictionary of its key, so one newer peer would hide everybody's records from older ones.
    """
    payload, signer, _ = split_envelope(data, DEFAULT_MAX_ENVELOPE_BYTES)
    raw = decode(payload)
    run = named_run(raw)
    try:
        return open_envelope(data, run=run, kinds=BOARD_KINDS), False
    except VersionError:  # raised after the signature was found good
        record = parse(SIGNED_KINDS[raw["kind"]], {**raw, "oldest_reader": 1})
        if not record.issued_at < record.expires_at <= record.issued_at + SIGNED_LIFETIME_S[record.kind]:
            raise
        return Envelope(record=record, signer=signer, payload=payload, data=data), True


def named_run(raw: dict[str, Any]) -> str:
    """Returns the run that a record's payload names."""
    run = raw.get("run")
    return run.hex() if isinstance(run, bytes) else str(run)


class RecordView:
    """Is what the peer `me` sees of the bulletin board.

    `check` and `open_all` may run in a thread, nothing else.
    """

    def __init__(self, me: str = "") -> None:
        self._me = me
        self.refused: Counter[str] = Reasons()
        self._lock = threading.Lock()
        self._stored: OrderedDict[bytes, tuple[Envelope[Any], bool]] = (
            OrderedDict()
        )  # opened before, by bytes
        # key -> subkey -> envelope, as seen last
        self._best: OrderedDict[str, dict[str, Envelope[Any]]] = OrderedDict()

    def count(self, reason: str) -> None:
        """Counts one more refusal."""
        with self._lock:
            self.refused[reason] += 1

    def check(self, subkey: str, expires_at: float, data: bytes) -> Envelope[Any]:
        """Checks an entry that a DHT node may hold; it is never refused for being expired. RecordError."""
        return self._check(subkey, expires_at, data)[0]

    def _check(self, subkey: str, expires_at: float, data: bytes) -> tuple[Envelope[Any], bool]:
        with self._lock:
            opened = self._stored.get(data)
        if opened is None:
            opened = open_stored(data)
            with self._lock:
                self._stored[data] = opened
                if len(self._stored) > _CACHED_ENVELOPES:
                    self._stored.popitem(last=False)
        envelope = opened[0]
        if subkey != subkey_of(envelope):
            raise RecordError(f"a record of {envelope.signer} stands under the subkey {subkey[:64]!r}")
        if expires_at != envelope.record.expires_at:
            raise RecordError(
                f"a record that expires at {envelope.record.expires_at} is stored until {expires_at}"
            )
        return opened

    def open_all(
        self, key: str, run: str, entries: Iterable[tuple[str, float, bytes]]
    ) -> list[Envelope[Any]]:
        """Opens the entries (subkey, expiry, data) under `key` that this reader may use, counts others."""
        opened = []
        for number, (subkey, expires_at, data) in enumerate(entries):
            if number == MAX_ENTRIES_PER_KEY:
                self.count("too many records under one key")
                break
            try:
                envelope, newer = self._check(subkey, expires_at, data)
                if newer:
                    raise VersionError(
                        f"a record of {envelope.signer} is for a newer reader than {READER}; update paris-p2p"
                    )
                if dht_key(envelope.record) != key or envelope.record.run != run:
                    raise RecordError(f"a record of {dht_key(envelope.record)} was moved to {key}")
                opened.append(envelope)
            except RecordError as error:
                log.debug("a record under %s was refused: %s", key, error)
                self.count(f"record: {kind_of(error)}")
        return opened

    def take(self, key: str, opened: Iterable[Envelope[Any]], now_s: float) -> list[Envelope[Any]]:
        """Remembers what `open_all` gave, and returns the highest ever seen of each subkey."""
        self.known(key, now_s)  # what has expired goes before anything that has not
        for envelope in opened:
            self.remember(key, envelope)
        return self.known(key, now_s)

    def merge(
        self, key: str, run: str, entries: Iterable[tuple[str, float, bytes]], now_s: float
    ) -> list[Envelope[Any]]:
        """Does `open_all` and `take` at once, for callers without a thread."""
        return self.take(key, self.open_all(key, run, entries), now_s)

    def known(self, key: str, now_s: float) -> list[Envelope[Any]]:
        """Returns what is remembered under a key and has not expired."""
        best = self._best.get(key, {})
        for subkey in [subkey for subkey, envelope in best.items() if envelope.record.expires_at <= now_s]:
            del best[subkey]
        return list(best.values())

    def remember(self, key: str, envelope: Envelope[Any]) -> None:
        """Keeps a verified record if it is higher than the known one of its signer and kind.

        Of too many signers under a key, the one that was not seen for longest goes, never this peer:
        keys cost nothing, so that no place is kept for who came first.
        """
        best = self._best.setdefault(key, {})
        self._best.move_to_end(key)
        known = best.pop(subkey_of(envelope), None)
        best[subkey_of(envelope)] = envelope if known is None or _rank(envelope) > _rank(known) else known
        if len(best) > MAX_ENTRIES_PER_KEY:
            del best[
                next((subkey for subkey, one in best.items() if one.signer != self._me), next(iter(best)))
            ]
            self.count("too many records under one key")
        if len(self._best) > MAX_KEYS:
            self._best.popitem(last=False)


def _rank(envelope: Envelope[Any]) -> tuple[int, int, float]:
    # A stale lead's card may have a higher seq than the cards it signs when it leads again, in a later epoch.
    record = envelope.record
    epoch = record.epoch if record.kind in ("card", "attestation", "refusal") else 0
    return epoch, record.seq, record.expires_at
