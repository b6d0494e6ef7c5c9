"""Ed25519 keys, libp2p peer ids and signatures (libp2p peer-ids specification; RFC 8032)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from base58 import b58decode, b58encode
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from paris_p2p.disk import write_atomic
from paris_p2p.errors import ReadOnlyError, RecordError, SignatureError, UsageError

# libp2p's protobuf messages, written by hand: field 1 (key type) = 1 (Ed25519), field 2 (data) = n bytes.
_PRIVATE_PREFIX = bytes([0x08, 0x01, 0x12, 0x40])  # + 32 private bytes + 32 public bytes
_PUBLIC_PREFIX = bytes([0x08, 0x01, 0x12, 0x20])  # + 32 public bytes
_IDENTITY_MULTIHASH = bytes([0x00, 0x24])  # identity hash, 36 bytes: the key is its own id
PEER_ID_BYTES = 38
_REMEMBERED = 4096  # peer ids, whose base58 takes 50 to 90 µs: every record and connection names one


@dataclass(frozen=True)
class Identity:
    """Holds one Ed25519 key: a peer signs all its records with it, a run owner the RunSpec."""

    key: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, private: bytes) -> Identity:
        return cls(Ed25519PrivateKey.from_private_bytes(private))

    @property
    def peer_id(self) -> str:
        """Returns the libp2p peer id in base58: `12D3Koo…`."""
        return b58encode(self.peer_id_bytes).decode()

    @property
    def peer_id_bytes(self) -> bytes:
        return _IDENTITY_MULTIHASH + _PUBLIC_PREFIX + self._public()

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message)

    def libp2p_private_key(self) -> bytes:
        """Returns the protobuf `PrivateKey` that p2pd reads with `-id`."""
        return _PRIVATE_PREFIX + self.key.private_bytes_raw() + self._public()

    def _public(self) -> bytes:
        return self.key.public_key().public_bytes_raw()


def verify(peer_id: str, message: bytes, signature: bytes) -> None:
    """Raises SignatureError unless `signature` over `message` is `peer_id`'s."""
    key = Ed25519PublicKey.from_public_bytes(peer_id_to_bytes(peer_id)[-32:])
    try:
        key.verify(signature, message)
    except InvalidSignature as error:
        raise SignatureError(
            f"the signature is not {peer_id}'s; the record was forged or damaged and is ignored"
        ) from error


@lru_cache(_REMEMBERED)
def peer_id_to_bytes(peer_id: str) -> bytes:
    """Returns the 38 bytes of an Ed25519 peer id; RecordError if it is not one."""
    try:
        raw = b58decode(peer_id) if len(peer_id) <= 64 else b""
    except ValueError:
        raw = b""
    # b58decode passes over spaces at the end; one peer has one id
    if not _is_peer_id(raw) or peer_id[-1:].isspace():
        raise RecordError(f"{peer_id[:64]!r} is not an Ed25519 peer id (12D3Koo…)")
    return raw


@lru_cache(_REMEMBERED)
def peer_id_from_bytes(raw: bytes) -> str:
    """Returns the base58 peer id of 38 bytes; RecordError if they are not an Ed25519 one."""
    if not _is_peer_id(raw):
        raise RecordError(f"{raw[:40].hex()} is not an Ed25519 peer id")
    return b58encode(raw).decode()


def _is_peer_id(raw: bytes) -> bool:
    return len(raw) == PEER_ID_BYTES and raw.startswith(_IDENTITY_MULTIHASH + _PUBLIC_PREFIX)


def load_or_create_peer_key(path: Path) -> Identity:
    """Returns the peer key at `path` (libp2p protobuf, file mode 0600), and makes it on first use."""
    if path.exists():
        return load_peer_key(path)
    identity = Identity.generate()
    write_private_file(path, identity.libp2p_private_key())
    return identity


def load_peer_key(path: Path) -> Identity:
    """Reads a peer key; UsageError when it is damaged, also in the public half that p2pd reads."""
    raw = _read_key_file(path)
    if len(raw) == 68 and raw.startswith(_PRIVATE_PREFIX):
        identity = Identity.from_private_bytes(raw[4:36])
        if identity.libp2p_private_key() == raw:
            return identity
    raise UsageError(
        f"{path} is not an Ed25519 libp2p key ({len(raw)} bytes) or damaged; "
        "move it away to get a new identity"
    )


def save_owner_key(identity: Identity, path: Path, passphrase: str | None) -> None:
    """Writes a run owner's key as PKCS#8 PEM (RFC 5958), encrypted when there is a passphrase."""
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(passphrase.encode())
    pem = identity.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
    )
    write_private_file(path, pem)


def load_owner_key(path: Path, passphrase: str | None) -> Identity:
    """Reads a key that save_owner_key wrote; UsageError when the passphrase is wrong or missing."""
    pem = _read_key_file(path)
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"cannot read the owner's key {path}: wrong or missing passphrase, or not a key"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is not an Ed25519 key; the owner's key is made by `paris-run create`")
    return Identity(key)


def _read_key_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the key {path}: {error.strerror}; check the path and who may read it"
        ) from error


def write_private_file(path: Path, data: bytes) -> None:
    """Creates `path` with mode 0600 and `data`, whole or not at all; never overwrites. ReadOnlyError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, mode=0o600, overwrite=False)
    except OSError as error:
        raise ReadOnlyError(
            f"cannot write {path}: {error.strerror}; choose another folder or free it"
        ) from error
