"""Records as DHT nodes hold and hand them out: checked in full, and never older than what was seen before (DESIGN section 3)."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

from paris_p2p.envelope import Envelope, decode, open_envelope, parse, split_envelope
from paris_p2p.errors import RecordError, VersionError
from paris_p2p.records import DEFAULT_MAX_ENVELOPE_BYTES, SIGNED_KINDS, SIGNED_LIFETIME_S, dht_key
from paris_p2p.swarm.limits import Reasons, kind_of

log = logging.getLogger(__name__)
MAX_KEYS = 4096
MAX_ENTRIES_PER_KEY = 1024
_CACHED_ENVELOPES = 4096


def subkey_of(envelope: Envelope[Any]) -> str:
    return f"{envelope.signer}:{envelope.record.kind}"


def open_stored(data: bytes) -> Envelope[Any]:
    """Verify an envelope of whatever run it names; RecordError.

    A record that asks for a newer reader is accepted here, for storing only: one refused entry makes hivemind throw away
    the whole dictionary of its key, so one newer peer would hide everybody's records from older ones.
    """
    payload, signer, _ = split_envelope(data, DEFAULT_MAX_ENVELOPE_BYTES)
    raw = decode(payload)
    run = named_run(raw)
    try:
        return open_envelope(data, run=run)
    except VersionError:  # raised after the signature was found good
        record = parse(SIGNED_KINDS[raw["kind"]], {**raw, "oldest_reader": 1})
        if not record.issued_at < record.expires_at <= record.issued_at + SIGNED_LIFETIME_S[record.kind]:
            raise
        return Envelope(record=record, signer=signer, payload=payload, data=data)


def named_run(raw: dict[str, Any]) -> str:
    """The run that a record's payload names."""
    run = raw.get("run")
    return run.hex() if isinstance(run, bytes) else str(run)


class RecordView:
    """One peer's view of the bulletin board."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Reasons()
        self._stored: OrderedDict[bytes, Envelope[Any]] = OrderedDict()  # opened before, by bytes
        self._best: OrderedDict[str, dict[str, Envelope[Any]]] = OrderedDict()  # key -> subkey -> envelope

    def check(self, subkey: str, expires_at: float, data: bytes) -> Envelope[Any]:
        """An entry as a DHT node may hold it; never refused for being expired. RecordError."""
        envelope = self._stored.get(data)
        if envelope is None:
            envelope = open_stored(data)
            self._stored[data] = envelope
            if len(self._stored) > _CACHED_ENVELOPES:
                self._stored.popitem(last=False)
        if subkey != subkey_of(envelope):
            raise RecordError(f"a record of {envelope.signer} stands under the subkey {subkey[:64]!r}")
        if expires_at != envelope.record.expires_at:
            raise RecordError(f"a record that expires at {envelope.record.expires_at} is stored until {expires_at}")
        return envelope

    def merge(self, key: str, run: str, entries: Iterable[tuple[str, float, bytes]], now_s: float) -> list[Envelope[Any]]:
        """Check entries (subkey, expiry, data) read under `key`, and answer with the highest ever seen of each subkey."""
        for number, (subkey, expires_at, data) in enumerate(entries):
            if number == MAX_ENTRIES_PER_KEY:
                self.refused["too many records under one key"] += 1
                break
            try:
                envelope = self.check(subkey, expires_at, data)
                if dht_key(envelope.record) != key or envelope.record.run != run:
                    raise RecordError(f"a record of {dht_key(envelope.record)} was moved to {key}")
                self.remember(key, open_envelope(data, run=run))
            except RecordError as error:
                log.debug("a record under %s was refused: %s", key, error)
                self.refused[f"record: {kind_of(error)}"] += 1
        return self.known(key, now_s)

    def known(self, key: str, now_s: float) -> list[Envelope[Any]]:
        """What is remembered under a key and has not expired."""
        best = self._best.get(key, {})
        for subkey in [subkey for subkey, envelope in best.items() if envelope.record.expires_at <= now_s]:
            del best[subkey]
        return list(best.values())

    def remember(self, key: str, envelope: Envelope[Any]) -> None:
        """Keep a verified record if it is higher than the one of its signer and kind that is known."""
        best = self._best.setdefault(key, {})
        self._best.move_to_end(key)
        known = best.get(subkey_of(envelope))
        if known is None and len(best) >= MAX_ENTRIES_PER_KEY:
            self.refused["too many records under one key"] += 1
        elif known is None or _rank(envelope) > _rank(known):
            best[subkey_of(envelope)] = envelope
        if len(self._best) > MAX_KEYS:
            self._best.popitem(last=False)


def _rank(envelope: Envelope[Any]) -> tuple[int, int, float]:
    # A stale lead's card may have a higher seq than the cards it signs when it leads again, in a later epoch.
    record = envelope.record
    epoch = record.epoch if record.kind in ("card", "attestation", "refusal") else 0
    return epoch, record.seq, record.expires_at
