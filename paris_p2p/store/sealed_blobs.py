"""A file is taken into the store as a sealed blob, which alone stays there (sealing.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from paris_p2p.disk import explained, temporary_for
from paris_p2p.records import BlobRef
from paris_p2p.store.blob_files import ChunkHasher
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.past_cache import PastCacheWriter
from paris_p2p.store.sealing import BlobKey, open_blob, seal_file, sealed_bytes


def add_sealed(store: BlobStore, path: Path, key: BlobKey, *, move: bool = False) -> BlobRef:
    """Seals a file and takes the blob in; the same file under the same key makes the same blob.

    `move`: the file itself is deleted then. DiskFullError where the cap or the disk leaves no room.
    """
    size_bytes = sealed_bytes(path.stat().st_size)
    blob, hasher = temporary_for(store.root / "sealed"), ChunkHasher(size_bytes)
    with explained(blob):
        try:
            with (
                store.room_beside(size_bytes),
                blob.open("xb") as file,
                PastCacheWriter(file) as out,
            ):
                seal_file(path, key, _Hashed(out, hasher))
            ref = store.add_file(blob, move=True, manifest=hasher.manifest())
        finally:
            blob.unlink(missing_ok=True)
    if move:
        path.unlink()
    return ref


@dataclass(frozen=True)
class _Hashed:
    """Hashes what is written to a file on its way, so that it need not be read again."""

    file: PastCacheWriter
    hasher: ChunkHasher

    def write(self, piece: bytes, /) -> int:
        self.hasher.update(piece)
        return self.file.write(piece)


def open_into(file: BinaryIO, blob: Path, key: BlobKey, *, wanted: Callable[[], bool] = lambda: True) -> None:
    """Writes what a sealed blob holds into a file that is open and empty, as open_blob does."""
    with PastCacheWriter(file) as out:
        open_blob(blob, key, out, wanted=wanted)
