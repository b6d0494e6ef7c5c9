"""Blobs of a few small chunks, so that tests of many chunks are quick."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

from blake3 import blake3

from paris_p2p.records import BlobRef, Manifest
from paris_p2p.store.blobs import BlobStore

CHUNK = 1000


def made_bytes(count: int, rng_seed: int = 0) -> bytes:
    return random.Random(rng_seed).randbytes(count)


def manifest_of(data: bytes, chunk_bytes: int = CHUNK) -> Manifest:
    pieces = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    return Manifest(
        size_bytes=len(data),
        chunk_bytes=chunk_bytes,
        chunks=tuple(blake3(piece).digest() for piece in pieces),
    )


def ref_of(data: bytes, chunk_bytes: int = CHUNK) -> BlobRef:
    return BlobRef(id=manifest_of(data, chunk_bytes).blob_id, size_bytes=len(data))


def chunk_of(data: bytes, index: int, chunk_bytes: int = CHUNK) -> bytes:
    return data[index * chunk_bytes : (index + 1) * chunk_bytes]


def add_bytes(store: BlobStore, data: bytes) -> BlobRef:
    """Adds a file of `data`, which is gone afterwards."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        path.write_bytes(data)
        return store.add_file(path, move=True)
