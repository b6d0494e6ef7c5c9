"""Keys on their way to a member: sealed to the Ed25519 key that names it, as libsodium's sealed boxes are
(X25519 and XSalsa20-Poly1305; Bernstein 2006), so that those who carry them learn nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgpack
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey
from pydantic import Field

from paris_p2p.envelope import parse
from paris_p2p.errors import RecordError
from paris_p2p.identity import Identity, peer_id_to_bytes
from paris_p2p.keyring import (
    MAX_KEYS,
    SECRET_BYTES,
    DoorKey,
    DoorRing,
    GateKey,
    Keyring,
    check_secrets,
)
from paris_p2p.packed import Bounds, unpack
from paris_p2p.records import Record

_BOUNDS = Bounds(items=4 * MAX_KEYS + 16, depth=4)
MAX_GIFT_BYTES = 1 << 18
Secret = Annotated[bytes, Field(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]


class KeyGift(Record):
    """Holds the keys that a peer's rights open, numbered from `first` on.

    `gate` is b"" where the peer gets no gate key; `address` and `doors`, each with its mark (keyring.py), are
    for storage nodes alone.
    """

    first: Annotated[int, Field(ge=1, le=MAX_KEYS)] = 1
    keys: tuple[Secret, ...] = Field(default=(), max_length=MAX_KEYS)
    gate: Annotated[bytes, Field(max_length=SECRET_BYTES)] = b""
    address: Annotated[bytes, Field(max_length=SECRET_BYTES)] = b""
    doors: tuple[tuple[Secret, Secret], ...] = Field(default=(), max_length=MAX_KEYS)


def gift_for(ring: Keyring | DoorRing, rights: frozenset[str], first: int = 1) -> KeyGift | None:
    """Returns what a peer with these rights gets of the keys from number `first` on; None for nothing."""
    reads = not rights.isdisjoint({"train", "attest", "generate"})
    gate = ring.gate.secret if isinstance(ring, Keyring) and ring.gate and "attest" in rights else b""
    if reads and ring.keys:
        return KeyGift(first=first, keys=tuple(key.secret for key in ring.keys[first - 1 :]), gate=gate)
    if gate:
        return KeyGift(gate=gate)
    if "store" not in rights or not ring.doors:
        return None
    doors = tuple((door.secret, bytes.fromhex(door.mark)) for door in ring.doors[first - 1 :])
    return KeyGift(first=first, address=ring.address_door, doors=doors)


def with_gift(ring: Keyring, gift: KeyGift, named: Sequence[str], gate_hash: str) -> Keyring:
    """Returns the ring with the keys of a gift that the owner named by their hashes.

    `named` are those of the keys 1, 2, … that notices up to now made; what is beyond is left out. RecordError
    when a key is another than the owner named.
    """
    if gift.first <= len(ring.keys) + 1 and named:
        checked = check_secrets(gift.keys, named[gift.first - 1 :], gift.first)
        for key in checked[max(0, len(ring.keys) - gift.first + 1) :]:
            ring = ring.with_key(key.secret)
    if gift.gate and gate_hash:
        if GateKey(gift.gate).hash != gate_hash:
            raise RecordError("the gate's key is not the one that the run's owner named; ask another member")
        ring = ring.with_gate(gift.gate)
    return ring


def doors_with(ring: DoorRing | None, gift: KeyGift, named: Sequence[str]) -> DoorRing | None:
    """Returns a storage node's ring with the door keys of a gift; None where there is nothing yet.

    `named` are the hashes of the keys 1, 2, … as far as they are known; what is beyond cannot be checked yet,
    and is taken on the giver's word: a false one opens nothing.
    """
    if ring is None:
        if len(gift.address) != SECRET_BYTES or gift.first != 1 or not gift.doors:
            return None
        ring = DoorRing(gift.address)
    known = len(ring.doors)
    for number, (secret, mark) in enumerate(gift.doors, gift.first):
        if number != known + 1:
            continue
        door = DoorKey(secret, mark.hex())
        if number <= len(named) and door.hash != named[number - 1]:
            raise RecordError(
                f"door key {number} is not the one that the run's owner named; ask another member"
            )
        ring, known = DoorRing(ring.address_door, (*ring.doors, door)), number
    return ring


def is_key(peer: str) -> bool:
    """Tells whether a peer id is a key that somebody can have: a letter that is wrong makes most ids none,
    and they look as good as others.
    """
    return bool(crypto_core_ed25519_is_valid_point(peer_id_to_bytes(peer)[-32:]))


def seal_gift(peer: str, gift: KeyGift) -> bytes:
    """Returns a gift that only `peer` can open; RecordError where its id is nobody's key."""
    if not is_key(peer):
        raise RecordError(
            f"{peer} is nobody's key, so nothing can be sealed to it; it was mistyped or made up"
        )
    public = VerifyKey(peer_id_to_bytes(peer)[-32:]).to_curve25519_public_key()
    return bytes(SealedBox(public).encrypt(msgpack.packb(gift.model_dump(exclude_defaults=True))))


def open_gift(identity: Identity, data: bytes) -> KeyGift:
    """Opens what was sealed to this identity; RecordError for all else. The keys are yet to be checked."""
    if len(data) > MAX_GIFT_BYTES:
        raise RecordError(f"a box of {len(data)} bytes with keys is over the limit of {MAX_GIFT_BYTES}")
    private = SigningKey(identity.key.private_bytes_raw()).to_curve25519_private_key()
    try:
        opened = SealedBox(private).decrypt(data)
    except (CryptoError, ValueError, TypeError) as error:
        raise RecordError("a box with keys does not open: it is damaged, or for another peer") from error
    raw = unpack(bytes(opened), _BOUNDS)
    if not isinstance(raw, dict):
        raise RecordError("a box with keys holds something else")
    return parse(KeyGift, raw)
