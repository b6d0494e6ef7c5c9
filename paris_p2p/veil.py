"""The records of a private run as others see them: sealed, under names that tell nothing.

A sealed record has an outer part that any DHT node can bound and verify, and a body that is the run's own
record under AES-256-GCM (docs/protocol.md, "Private runs"). The key is derived for each record, with a salt
that is a keyed hash of all that the record holds: as in a synthetic-IV construction (Rogaway and Shrimpton
2006), a key and its nonce meet one plaintext and one associated data only.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from paris_p2p.envelope import Envelope, decode, encode_record, open_envelope, parse, seal
from paris_p2p.errors import MissingKeyError, RecordError
from paris_p2p.identity import Identity, peer_id_to_bytes
from paris_p2p.keyring import HINT_BYTES, DoorRing, Keyring, derive, keyed_hash
from paris_p2p.kinds import (
    BOARD_KINDS,
    DEFAULT_MAX_ENVELOPE_BYTES,
    MAX_ENVELOPE_BYTES,
    SIGNED_KINDS,
    SIGNED_LIFETIME_S,
    dht_key,
    sealed_key,
    veiled_topic,
)
from paris_p2p.owner_records import Admit, End, NoticeRecord, Pause, Resume, Revoke
from paris_p2p.records import SealedRecord, Signed

Ring = Keyring | DoorRing
SALT_BYTES = 32
_NONCE = bytes(12)  # one for all: no key meets two plaintexts
_SPEC_OVERHEAD_BYTES = HINT_BYTES + SALT_BYTES + 16
MAX_SEALED_SPEC_BYTES = MAX_ENVELOPE_BYTES["run"] + _SPEC_OVERHEAD_BYTES
INNER_KINDS = tuple(kind for kind in BOARD_KINDS if kind != "sealed")
# Records of these stand under names that storage nodes can compute, too.
_DOOR_SHELVES = frozenset({"peers", "members", "keys", "notices"})
_DOOR_KINDS = frozenset({"peer", "member", "keybox"})
_DOOR_ACTS = (Admit, Revoke, Pause, Resume, End)
# what stands under a plain key, by its fourth part
_KINDS_UNDER = {
    "claims": ("claim",),
    "tips": ("card", "attestation"),
    "refusals": ("refusal",),
    "holders": ("holder",),
    "peers": ("peer",),
    "notices": ("notice",),
    "members": ("member",),
    "keys": ("keybox",),
    "updates": ("update",),
    "crews": ("worker",),
}


def is_for_the_door(record: Signed) -> bool:
    """Tells whether storage nodes may read a record: it says who takes part, and nothing of what is made."""
    if isinstance(record, NoticeRecord):
        return isinstance(record.change, _DOOR_ACTS)
    return record.kind in _DOOR_KINDS


# names


def shelf_of(ring: Ring, key: str, kind: str) -> str:
    """Returns the name under which records of one kind stand that have the plain DHT key `key`.

    RecordError where the ring has no key to it.
    """
    return keyed_hash(_address(ring, key), f"{key} {kind}")


def shelves_under(ring: Ring, key: str) -> list[str]:
    """Returns the veiled DHT keys of all that stands under a plain one."""
    kinds = _KINDS_UNDER.get(_shelf_name(key), ())
    return [sealed_key(ring.veiled_run, shelf_of(ring, key, kind)) for kind in kinds]


def question_of(ring: Ring, key: str) -> str:
    """Returns what a peer is asked for that is to tell all it knows of a plain DHT key."""
    return sealed_key(ring.veiled_run, keyed_hash(_address(ring, key), key))


def topic_of(ring: Ring) -> str:
    """Returns the gossip topic; storage nodes know it, too, so that they hear of a revocation at once."""
    return veiled_topic(keyed_hash(ring.address_door, "topic"))


def _shelf_name(key: str) -> str:
    parts = key.split("/")
    return parts[3] if len(parts) > 3 else ""


def _address(ring: Ring, key: str) -> bytes:
    if _shelf_name(key) in _DOOR_SHELVES:
        return ring.address_door
    if ring.address_run is None:
        raise RecordError(f"the name of {key[-40:]} is not for storage nodes")
    return ring.address_run


# records


def seal_record(identity: Identity, record: Signed, ring: Ring, seq: int) -> Envelope[Any]:
    """Signs and seals a record under the ring's newest key.

    The envelope's record, payload and id are the inner ones, as in an open run; its data is what leaves this
    machine. `seq` must be higher than that of everything this signer sealed before: it says what is newer.
    MissingKeyError where the ring has no key for this record, RecordError where it is too large.
    """
    hint, secret = _newest(ring, record)
    payload = encode_record(record)
    outer = SealedRecord(
        run=ring.veiled_run,
        shelf=shelf_of(ring, dht_key(record), record.kind),
        hint=hint,
        seq=seq,
        issued_at=record.issued_at,
        expires_at=record.expires_at,
        body=b"\0",
    )
    head = _head(identity.peer_id, outer)
    salt = blake3(head + payload, key=_salt_key(secret)).digest()
    body = salt + AESGCM(_cipher_key(secret, salt, "record")).encrypt(_NONCE, payload, head)
    if len(body) > DEFAULT_MAX_ENVELOPE_BYTES:
        raise RecordError(f"a {record.kind} record of {len(payload)} bytes is too large to be sealed")
    sealed = seal(identity, outer.model_copy(update={"body": body}))
    return Envelope(record=record, signer=identity.peer_id, payload=payload, data=sealed.data)


def open_sealed(data: bytes, ring: Ring, run: str, kinds: tuple[str, ...] = INNER_KINDS) -> Envelope[Any]:
    """Verifies a sealed record, opens it, and checks that it says inside what it says outside.

    MissingKeyError where its key is not in the ring; SignatureError, VersionError or RecordError for all
    else. Expiry is the caller's to judge.
    """
    return open_outer(open_envelope(data, run=ring.veiled_run, kinds=("sealed",)), ring, run, kinds)


def open_outer(
    outer: Envelope[SealedRecord], ring: Ring, run: str, kinds: tuple[str, ...] = INNER_KINDS
) -> Envelope[Any]:
    """Opens a sealed record whose signature has been verified, as `open_sealed` does."""
    sealed = outer.record
    payload, for_door = _opened(outer, ring)
    raw = decode(payload)
    kind = raw.get("kind")
    if kind not in kinds or kind not in INNER_KINDS:
        raise RecordError(f"expected a sealed record of kind {' or '.join(kinds)}, got {str(kind)[:32]!r}")
    if len(payload) > MAX_ENVELOPE_BYTES.get(kind, DEFAULT_MAX_ENVELOPE_BYTES):
        raise RecordError(f"a {kind} record of {len(payload)} bytes is over its limit")
    record = parse(SIGNED_KINDS[kind], raw)
    if record.run != run:
        raise RecordError(f"the sealed record belongs to run {record.run[:16]}, not {run[:16]}")
    if (record.issued_at, record.expires_at) != (sealed.issued_at, sealed.expires_at):
        raise RecordError("a sealed record has other dates inside than outside")
    if not record.issued_at < record.expires_at <= record.issued_at + SIGNED_LIFETIME_S[kind]:
        raise RecordError(f"a {kind} record may live {SIGNED_LIFETIME_S[kind]:.0f} s, this one asks for more")
    if is_for_the_door(record) != for_door:
        raise RecordError(f"a {kind} record is sealed under a key that is not for it")
    if shelf_of(ring, dht_key(record), kind) != sealed.shelf:
        raise RecordError(f"a sealed record of {dht_key(record)} was moved")
    return Envelope(record=record, signer=outer.signer, payload=payload, data=outer.data)


def _opened(outer: Envelope[SealedRecord], ring: Ring) -> tuple[bytes, bool]:
    """Returns what is inside, and whether it was sealed under a door key."""
    sealed = outer.record
    found = _secrets(ring).get(sealed.hint)
    if found is None:
        raise MissingKeyError(
            f"a record of {outer.signer} is sealed under key {sealed.hint.hex()}, which is not here; "
            "a member has to give it first"
        )
    secret, for_door = found
    salt, head = sealed.body[:SALT_BYTES], _head(outer.signer, sealed)
    try:
        payload = AESGCM(_cipher_key(secret, salt, "record")).decrypt(_NONCE, sealed.body[SALT_BYTES:], head)
    except (InvalidTag, ValueError) as error:
        raise RecordError(
            f"a sealed record of {outer.signer} does not open; it was changed or moved"
        ) from error
    if blake3(head + payload, key=_salt_key(secret)).digest() != salt:
        raise RecordError(f"a sealed record of {outer.signer} has a salt that is not its own")
    return payload, for_door


def _head(signer: str, sealed: SealedRecord) -> bytes:
    """Returns the outer part, which the body is bound to."""
    named = bytes.fromhex(sealed.run + sealed.shelf) + sealed.hint
    dates = struct.pack(">Qdd", sealed.seq, sealed.issued_at, sealed.expires_at)
    return b"paris-p2p/2 sealed\0" + peer_id_to_bytes(signer) + named + dates


def _newest(ring: Ring, record: Signed) -> tuple[bytes, bytes]:
    """Returns (hint, secret) of the key that a record is sealed under now."""
    if is_for_the_door(record) and ring.doors:
        return ring.doors[-1].hint, ring.doors[-1].secret
    if ring.keys:
        return ring.keys[-1].hint, ring.keys[-1].records
    raise MissingKeyError(
        f"there is no key here to seal a {record.kind} record; a member has to give it first"
    )


@lru_cache(maxsize=256)
def _secrets(ring: Ring) -> dict[bytes, tuple[bytes, bool]]:
    """Returns what opens records, by hint, and whether it is a door key's."""
    runs = {key.hint: (key.records, False) for key in ring.keys}
    return runs | {door.hint: (door.secret, True) for door in ring.doors}


@lru_cache(maxsize=256)
def _salt_key(secret: bytes) -> bytes:
    return derive(secret, "salt")


def _cipher_key(secret: bytes, salt: bytes, label: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, b"paris-p2p/2 " + label.encode()).derive(secret)


# the RunSpec


def seal_spec(data: bytes, ring: Keyring) -> bytes:
    """Seals a run's signed RunSpec under the newest key, for members that ask for it."""
    key = ring.current
    salt = blake3(data, key=_salt_key(key.records)).digest()
    head = key.hint + salt
    body = AESGCM(_cipher_key(key.records, salt, "spec")).encrypt(_NONCE, data, _spec_head(ring, head))
    return head + body


def open_spec(data: bytes, ring: Keyring) -> bytes:
    """Returns the signed RunSpec that a member sent sealed; nothing of it is verified yet.

    MissingKeyError where its key is not in the ring, RecordError where it does not open.
    """
    if not _SPEC_OVERHEAD_BYTES <= len(data) <= MAX_SEALED_SPEC_BYTES:
        raise RecordError(f"a sealed RunSpec of {len(data)} bytes is out of bounds; ask another peer")
    hint, head = data[:HINT_BYTES], data[: HINT_BYTES + SALT_BYTES]
    key = next((key for key in ring.keys if key.hint == hint), None)
    if key is None:
        raise MissingKeyError(f"the RunSpec is sealed under key {hint.hex()}, which is not here")
    salt = head[HINT_BYTES:]
    try:
        return AESGCM(_cipher_key(key.records, salt, "spec")).decrypt(
            _NONCE, data[len(head) :], _spec_head(ring, head)
        )
    except InvalidTag as error:
        raise RecordError("the sealed RunSpec does not open; ask another peer") from error


def _spec_head(ring: Keyring, head: bytes) -> bytes:
    return b"paris-p2p/2 spec\0" + bytes.fromhex(ring.veiled_run) + head
