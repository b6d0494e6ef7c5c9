"""Checks what a ledger holds: each value has its key's form, and each record in it its signature, its run and
its slot. It reads and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgpack

from paris_p2p.disk import is_temporary
from paris_p2p.envelope import Envelope, open_envelope
from paris_p2p.errors import MissingKeyError, RecordError, VersionError
from paris_p2p.keyring import Keyring
from paris_p2p.veil import open_sealed

OpenRecord = Callable[[bytes, tuple[str, ...]], Envelope[Any]]
_CARDS = ("card", "attestation")
# By the first word of a key: whether several records stand in one value, and of which kinds they are.
_RECORDS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "tip": (True, _CARDS),
    "past": (True, _CARDS),
    "vote": (True, _CARDS),
    "own-card": (False, _CARDS),
    "refusals": (True, ("refusal",)),
    "notice": (False, ("notice",)),
    "fork": (True, ("notice",)),
    "member": (False, ("member",)),
    "certificate": (False, ("certificate",)),
    "invite-token": (False, ("token",)),
    "token": (False, ("certificate",)),
}
_FORMS = {
    "attested": re.compile(rb"[0-9a-f]{64}"),
    "seq": re.compile(rb"[0-9]{1,16}"),
    "own-before": re.compile(rb"([0-9a-f]{64}( [0-9a-f]{64})*)?"),
}
_FROM_OTHERS = ("tip", "past", "notice", "fork", "member", "refusals")  # the swarm has them too
_PLAIN = ("certificate", "token")  # kinds that are never sealed
_MAX_VALUE_BYTES = 1 << 20


@dataclass(frozen=True)
class LedgerFinding:
    """Says what is wrong with one value; `is_ours` says that nobody else has it."""

    path: Path
    key: str
    words: str
    is_ours: bool


def opener_of(run: str, ring: Keyring, *, private: bool) -> OpenRecord:
    """Returns what verifies a run's records as they stand in a ledger, sealed ones by the keys in `ring`."""

    def open_record(data: bytes, kinds: tuple[str, ...]) -> Envelope[Any]:
        if private and not set(kinds) <= set(_PLAIN):
            return open_sealed(data, ring, run, kinds)
        return open_envelope(data, run=run, kinds=kinds)

    return open_record


def check_ledger(folder: Path, open_record: OpenRecord) -> Iterator[LedgerFinding | None]:
    """Yields, of each value in a ledger's folder, what is wrong with it; None where nothing is.

    What a newer version wrote, or a key that is not here would open, is not wrong.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        key = unquote(path.name)
        if is_temporary(path):
            continue
        try:
            with path.open("rb") as file:
                _check(key, file.read(_MAX_VALUE_BYTES + 1), open_record)
        except FileNotFoundError:  # the peer that runs here deleted it
            continue
        except (VersionError, MissingKeyError):
            yield None
        except (RecordError, OSError) as error:
            yield LedgerFinding(path, key, str(error), key.partition("/")[0] not in _FROM_OTHERS)
        else:
            yield None


def records_in(key: str, data: bytes, open_record: OpenRecord) -> list[Envelope[Any]]:
    """Returns the verified records in a ledger's value; none for a key whose values are no records.

    RecordError where one does not hold.
    """
    word = key.partition("/")[0]
    if word not in _RECORDS:
        return []
    several, kinds = _RECORDS[word]
    return [open_record(part, kinds) for part in (_parts(data) if several else [data])]


def _check(key: str, data: bytes, open_record: OpenRecord) -> None:
    word, _, rest = key.partition("/")
    if len(data) > _MAX_VALUE_BYTES:
        raise RecordError(f"it has more than {_MAX_VALUE_BYTES} bytes")
    form = _FORMS.get(word)
    if form is not None and not form.fullmatch(data):
        raise RecordError(f"{len(data)} bytes are not what stands under such a name")
    for envelope in records_in(key, data, open_record):
        slot = envelope.record.slot
        if word in ("tip", "past", "vote", "own-card", "refusals") and slot != rest.partition("/")[0]:
            raise RecordError(f"it holds a record of {slot or 'no slot'}")


def _parts(data: bytes) -> list[bytes]:
    try:
        parts = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise RecordError(f"{len(data)} bytes are not a list of records") from error
    if not isinstance(parts, list) or not all(isinstance(part, bytes) for part in parts):
        raise RecordError("it is not a list of records")
    return parts
