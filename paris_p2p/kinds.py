"""Every kind of signed record, in tables: its class, its size, its life, and where it stands in the DHT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paris_p2p.crew_records import UpdateRecord, WorkerRecord
from paris_p2p.errors import RecordError
from paris_p2p.owner_records import (
    CertificateRecord,
    KeyBoxRecord,
    MemberRecord,
    NoticeRecord,
    TokenRecord,
)
from paris_p2p.records import (
    PROTOCOL,
    AttestationRecord,
    CardRecord,
    ClaimRecord,
    HolderRecord,
    PeerRecord,
    RefusalRecord,
    SealedRecord,
    Signed,
)

SIGNED_KINDS: dict[str, type[Signed]] = {
    "claim": ClaimRecord,
    "card": CardRecord,
    "attestation": AttestationRecord,
    "refusal": RefusalRecord,
    "holder": HolderRecord,
    "peer": PeerRecord,
    "notice": NoticeRecord,
    "member": MemberRecord,
    "keybox": KeyBoxRecord,
    "certificate": CertificateRecord,
    "token": TokenRecord,
    "update": UpdateRecord,
    "worker": WorkerRecord,
    "sealed": SealedRecord,
}
MAX_ENVELOPE_BYTES: dict[str, int] = {"peer": 256, "run": 4 << 20}
DEFAULT_MAX_ENVELOPE_BYTES = 2048
_YEAR_S = 365 * 86400.0
SIGNED_LIFETIME_S: dict[str, float] = {  # the longest expiry a reader accepts, from issued_at
    "claim": 3600.0,
    "card": 90 * 86400.0,
    "attestation": 90 * 86400.0,
    "refusal": 86400.0,
    "holder": 7200.0,
    "peer": 7200.0,
    "notice": 90 * 86400.0,
    "member": 86400.0,
    "keybox": 90 * 86400.0,
    "certificate": 10 * _YEAR_S,
    "token": _YEAR_S,
    "update": 86400.0,
    "worker": 3600.0,
    "sealed": 90 * 86400.0,
}


def dht_key(record: Signed) -> str:
    """Returns the one DHT key a record may stand under; its subkey is the signer's peer id.

    Raises RecordError for kinds that are handed over in person only.
    """
    if record.kind not in _KEYS:
        raise RecordError(f"a {record.kind} record has no place in the DHT")
    return _KEYS[record.kind](record)


def claims_key(run: str, slot: str) -> str:
    return f"paris/{PROTOCOL}/{run}/claims/{slot}"


def tips_key(run: str, slot: str) -> str:
    return f"paris/{PROTOCOL}/{run}/tips/{slot}"


def refusals_key(run: str, slot: str) -> str:
    # A key of their own: nodes that do not know the kind refuse the entry, and hivemind drops an entry's
    # whole dictionary.
    return f"paris/{PROTOCOL}/{run}/refusals/{slot}"


def holders_key(run: str, what: str) -> str:
    return f"paris/{PROTOCOL}/{run}/holders/{what}"


def peers_key(run: str) -> str:
    # One prefix serves a thousand peers (256 KB); more would split by the first digits of BLAKE3(peer id).
    return f"paris/{PROTOCOL}/{run}/peers/0"


def notices_key(run: str, number: int) -> str:
    # One notice a key, since a subkey is its signer and kind. A peer that is asked for the records under it
    # answers with all notices from this number on.
    return f"paris/{PROTOCOL}/{run}/notices/{number}"


def updates_key(run: str, slot: str) -> str:
    return f"paris/{PROTOCOL}/{run}/updates/{slot}"


def crews_key(run: str, slot: str) -> str:
    return f"paris/{PROTOCOL}/{run}/crews/{slot}"


def slot_keys(run: str, slot: str, *, crew: bool) -> tuple[str, ...]:
    """Returns the keys of a slot that peers read again and again, those of its `crew` where it may have one;
    refusals are asked for by the makers of cards alone.
    """
    own = (claims_key(run, slot), tips_key(run, slot))
    return (*own, crews_key(run, slot), updates_key(run, slot)) if crew else own


def members_key(run: str) -> str:
    return f"paris/{PROTOCOL}/{run}/members/0"


def key_box_key(run: str, number: int, peer: str) -> str:
    return f"paris/{PROTOCOL}/{run}/keys/{number}/{peer}"


def sealed_key(run: str, shelf: str) -> str:
    # of the second version: a node of the first refuses the kind
    return f"paris/{PROTOCOL + 1}/{run}/sealed/{shelf}"


def veiled_topic(name: str) -> str:
    return f"paris/{PROTOCOL + 1}/{name}"


def cards_topic(run: str) -> str:
    return f"paris/{PROTOCOL}/{run}/cards"


_KEYS: dict[str, Callable[[Any], str]] = {
    "claim": lambda record: claims_key(record.run, record.slot),
    "card": lambda record: tips_key(record.run, record.slot),
    "attestation": lambda record: tips_key(record.run, record.slot),
    "refusal": lambda record: refusals_key(record.run, record.slot),
    "holder": lambda record: holders_key(record.run, record.what),
    "peer": lambda record: peers_key(record.run),
    "notice": lambda record: notices_key(record.run, record.seq),
    "member": lambda record: members_key(record.run),
    "update": lambda record: updates_key(record.run, record.slot),
    "worker": lambda record: crews_key(record.run, record.slot),
    "keybox": lambda record: key_box_key(record.run, record.number, record.peer),
    "sealed": lambda record: sealed_key(record.run, record.shelf),
}
BOARD_KINDS = tuple(_KEYS)  # what a DHT node may hold
