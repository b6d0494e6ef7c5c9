"""Sealed blobs: a file's bytes encrypted so that anybody may store and serve them (docs/protocol.md).

    header   64 bytes: magic 16, hint 8 (names the key), salt 32, zeros 8
    segments 1 MiB each, the last is shorter: AES-256-GCM of 1 MiB - 16 bytes of the file, then its tag

This is STREAM of Hoang et al. 2015 (eprint 2015/189): a segment's nonce is its number and whether it is the
last, so that none can be cut off, added, repeated or moved. Each segment also authenticates the header.
The blob's own key comes from the run's key and the salt, and the salt from the run's key and the file's hash:
one file makes one blob, and two files never share a key, so that no key and nonce meet two plaintexts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from paris_p2p.errors import MissingKeyError, SealError, StoreError

MAGIC = b"paris-sealed/1\0\0"
HINT_BYTES, SALT_BYTES, TAG_BYTES = 8, 32, 16
HEADER_BYTES = 64
SEGMENT_BYTES = 1 << 20
PLAIN_BYTES = SEGMENT_BYTES - TAG_BYTES  # of the file in a whole segment
_ZEROS = bytes(HEADER_BYTES - len(MAGIC) - HINT_BYTES - SALT_BYTES)
_LAST = 1


class BlobKey(Protocol):
    """What all blobs of one key number are sealed under: a key of the run's keyring."""

    @property
    def hint(self) -> bytes:
        """Returns the 8 bytes that name the key."""

    @property
    def blobs(self) -> bytes:
        """Returns 32 secret bytes, used for nothing but blobs."""


class Writable(Protocol):
    """Takes bytes, piece by piece."""

    def write(self, piece: bytes, /) -> int: ...


def sealed_bytes(plain_bytes: int) -> int:
    """Returns how long the sealed blob of a file of so many bytes is."""
    return HEADER_BYTES + plain_bytes + TAG_BYTES * max(1, -(-plain_bytes // PLAIN_BYTES))


def opened_bytes(blob_bytes: int) -> int:
    """Returns how long the file in a sealed blob of so many bytes is; SealError where none is so long."""
    plain_bytes = blob_bytes - HEADER_BYTES - TAG_BYTES * -(-(blob_bytes - HEADER_BYTES) // SEGMENT_BYTES)
    if plain_bytes < 0 or sealed_bytes(plain_bytes) != blob_bytes:
        raise SealError(f"no sealed blob has {blob_bytes} bytes; it was cut off, or is not sealed")
    return plain_bytes


def hint_of(blob: Path) -> bytes | None:
    """Returns the hint of the key that a blob is sealed under; None where it is not sealed."""
    with blob.open("rb") as file:
        header = file.read(HEADER_BYTES)
    return _hint(header) if _is_header(header) else None


def seal_file(source: Path, key: BlobKey, out: Writable) -> None:
    """Writes the sealed blob of the file `source` into `out`.

    StoreError when the file changes meanwhile: what was written by then must be thrown away, for its key
    belongs to what the file held before.
    """
    salt = _salt(key, _digest(source))
    header = MAGIC + key.hint + salt + _ZEROS
    cipher, hasher = _cipher(key, salt), blake3()
    out.write(header)
    with source.open("rb", buffering=0) as file:
        for index, piece, last in _pieces(file, PLAIN_BYTES):
            hasher.update(piece)
            out.write(cipher.encrypt(_nonce(index, last=last), piece, header))
    if _salt(key, hasher.digest()) != salt:
        raise StoreError(f"{source} changed while it was sealed; let it be finished first")


def open_blob(blob: Path, key: BlobKey, out: Writable, *, wanted: Callable[[], bool] = lambda: True) -> None:
    """Writes the file that a sealed blob holds into `out`, each segment after its tag was found right.

    SealError where the blob is not sealed, or under another key, damaged, cut off, lengthened, or put
    together of others; also, at the next segment, when it is not `wanted` any more.
    """
    opened_bytes(blob.stat().st_size)
    with blob.open("rb", buffering=0) as file:
        header = file.read(HEADER_BYTES)
        if not _is_header(header):
            raise SealError(f"blob {blob.stem[:16]}… is not sealed, though this run's must be")
        if _hint(header) != key.hint:
            raise SealError(
                f"blob {blob.stem[:16]}… is sealed under key {_hint(header).hex()}, not {key.hint.hex()}"
            )
        cipher = _cipher(key, header[len(MAGIC) + HINT_BYTES :][:SALT_BYTES])
        for index, piece, last in _pieces(file, SEGMENT_BYTES):
            if not wanted():
                raise SealError(f"blob {blob.stem[:16]}… is not wanted any more")
            try:
                out.write(cipher.decrypt(_nonce(index, last=last), piece, header))
            except InvalidTag as error:
                raise SealError(_words(blob, cipher, header, index, piece, last=last)) from error


def open_small(data: bytes, key_of: Callable[[bytes], BlobKey | None]) -> bytes:
    """Returns what a sealed blob of at most one segment holds; `key_of` returns the key with a hint.

    SealError where it is not sealed or does not open, MissingKeyError where its key is not here.
    """
    opened_bytes(len(data))
    header = data[:HEADER_BYTES]
    if not _is_header(header) or len(data) > HEADER_BYTES + SEGMENT_BYTES:
        raise SealError(f"{len(data)} bytes are no small sealed blob")
    if (key := key_of(_hint(header))) is None:
        raise MissingKeyError(f"a blob is sealed under key {_hint(header).hex()}, which is not here")
    try:
        return _cipher(key, header[len(MAGIC) + HINT_BYTES :][:SALT_BYTES]).decrypt(
            _nonce(0, last=True), data[HEADER_BYTES:], header
        )
    except InvalidTag as error:
        raise SealError("a small sealed blob does not open; it has to come from another peer") from error


def _words(blob: Path, cipher: AESGCM, header: bytes, index: int, piece: bytes, *, last: bool) -> str:
    """Says what is wrong with a segment whose tag is."""
    name = f"blob {blob.stem[:16]}…"
    try:
        cipher.decrypt(_nonce(index, last=not last), piece, header)
    except InvalidTag:
        return (
            f"segment {index} of {name} does not open: it is damaged, belongs elsewhere, "
            "or was sealed under another key; it has to come from another peer"
        )
    if last:
        return f"{name} was cut off after segment {index}; it has to come from another peer"
    return f"{name} goes on after segment {index}, its last; it has to come from another peer"


def _pieces(file: BinaryIO, size_bytes: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yields (number, bytes, whether it is the last) of a file's pieces; an empty file has one."""
    index, piece = 0, _read_full(file, size_bytes)
    while True:
        after = _read_full(file, size_bytes) if len(piece) == size_bytes else b""
        yield index, piece, not after
        if not after:
            return
        index, piece = index + 1, after


def _read_full(file: BinaryIO, size_bytes: int) -> bytes:
    """Reads so many bytes, fewer at the file's end alone: a raw read may return less before."""
    parts, left = [], size_bytes
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _salt(key: BlobKey, digest: bytes) -> bytes:
    """Returns the salt of the file with this BLAKE3."""
    return blake3(digest, key=key.blobs).digest()


def _cipher(key: BlobKey, salt: bytes) -> AESGCM:
    """Returns the cipher of the one blob that has this salt."""
    return AESGCM(HKDF(SHA256(), 32, salt, b"blob").derive(key.blobs))


def _digest(path: Path) -> bytes:
    hasher = blake3()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(SEGMENT_BYTES):
            hasher.update(piece)
    return hasher.digest()


def _nonce(index: int, *, last: bool) -> bytes:
    return index.to_bytes(11, "big") + bytes([_LAST if last else 0])


def _is_header(header: bytes) -> bool:
    return len(header) == HEADER_BYTES and header.startswith(MAGIC) and header.endswith(_ZEROS)


def _hint(header: bytes) -> bytes:
    return header[len(MAGIC) :][:HINT_BYTES]
