"""A blob on its way to this disk: chunks are verified and written in place.

After a crash they are believed only when hashed again.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from blake3 import blake3

from paris_p2p.disk import explained, sync_directory
from paris_p2p.errors import ChunkError, MissingBlobError
from paris_p2p.records import BlobRef, Manifest
from paris_p2p.store.past_cache import Buffer, PastCache, write_all

PROMISED_BYTES = 16 << 20  # kept free for a download of which nothing came yet


class PartialBlob:
    """A download in progress in `part`, which takes its room as it fills; `finish` makes it `data`.

    It is used from several threads. `make_room` is asked before a chunk of so many bytes is written,
    `on_growth` called after.
    """

    def __init__(
        self,
        manifest: Manifest,
        part: Path,
        data: Path,
        on_end: Callable[[], None],
        make_room: Callable[[int], None] = lambda _: None,
        on_growth: Callable[[], None] = lambda: None,
    ):
        self.manifest, self.blob_id = manifest, manifest.blob_id
        self._part, self._data, self._on_end = part, data, on_end
        self._make_room, self._on_growth = make_room, on_growth
        self._bitmap = (-1, b"")  # of how many chunks, and their bits
        self._lock = threading.Lock()
        self._descriptor = -1
        self._past_cache: PastCache | None = None
        self._writing = 0  # threads inside a write: descriptors stay open for them
        self._written = threading.Condition(self._lock)
        self._have: set[int] | None = None  # unknown until open

    def open(self) -> None:
        """Begins an empty file of the full length, which takes no room yet.

        Where an earlier process wrote one, that is hashed again.
        """
        if self.is_open:
            return
        fresh = not self._part.exists()
        with explained(self._part):
            self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                os.ftruncate(self._descriptor, self.manifest.size_bytes)
            except OSError:
                self.close()
                if fresh:
                    self._part.unlink(missing_ok=True)
                raise
        if fresh:
            self._have = set()
        elif self._have is None:
            self._have = self._believe()
        self._past_cache = PastCache(self._part)

    @property
    def is_open(self) -> bool:
        return self._descriptor >= 0

    def has(self, index: int) -> bool:
        return index in self._verified

    @property
    def count(self) -> int:
        """Counts the verified chunks that are here."""
        return len(self._verified)

    def bitmap(self) -> bytes:
        known = self._verified.copy()
        if self._bitmap[0] != len(known):  # chunks only come
            self._bitmap = len(known), bitmap(known, len(self.manifest.chunks))
        return self._bitmap[1]

    @property
    def here_bytes(self) -> int:
        """Returns the bytes of the verified chunks."""
        return min(self.count * self.manifest.chunk_bytes, self.manifest.size_bytes)

    @property
    def promised_bytes(self) -> int:
        """Returns the room that is kept free for what is still to come: as much as came, and a little more.

        A peer that names a large blob and sends nothing of it keeps nobody else out.
        """
        return (
            min(self.manifest.size_bytes - self.here_bytes, self.here_bytes + PROMISED_BYTES)
            if self.is_open
            else 0
        )

    def missing(self) -> list[int]:
        return [index for index in range(len(self.manifest.chunks)) if index not in self._verified]

    def write_chunk(self, index: int, data: Buffer) -> None:
        """Verifies and writes one chunk; ChunkError when it is not what the manifest says."""
        if not 0 <= index < len(self.manifest.chunks) or blake3(data).digest() != self.manifest.chunks[index]:
            raise ChunkError(
                f"chunk {index} of blob {self.blob_id[:16]}… does not match its hash; "
                "it is fetched from another peer"
            )
        with self._lock:
            if index in self._verified:
                return
            self._check_open()
            self._writing += 1
        try:
            self._make_room(len(data))
            with explained(self._part):
                self._write(data, index * self.manifest.chunk_bytes)
        finally:
            with self._lock:
                self._writing -= 1
                self._written.notify_all()
        self._verified.add(index)
        self._on_growth()

    def _write(self, data: Buffer, offset: int) -> None:
        if self._past_cache is None or not self._past_cache.write(data, offset):
            write_all(self._descriptor, data, offset)

    def flush(self) -> None:
        """Waits until what was written so far is on the disk, so that finish has little left to wait for."""
        with explained(self._part):
            with self._lock:
                if not self.is_open:
                    return
                descriptor = os.dup(self._descriptor)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)

    def finish(self) -> BlobRef:
        """Makes it a whole blob; MissingBlobError when chunks are missing."""
        ref = BlobRef(id=self.blob_id, size_bytes=self.manifest.size_bytes)
        missing = self.missing()
        if missing:
            raise MissingBlobError(f"blob {self.blob_id[:16]}… still misses {len(missing)} chunks")
        self.flush()
        with self._lock:
            if self._data.exists():  # finished before, or by another process
                self._part.unlink(missing_ok=True)
            else:
                self._check_open()
                with explained(self._part):
                    self._part.replace(self._data)
                    sync_directory(self._data.parent)
        self.close()
        self._on_end()
        return ref

    def close(self) -> None:
        """Leaves the download; what was written stays for the next `open`."""
        with self._lock:
            # A late write must not meet a closed descriptor's number in another's hands.
            self._written.wait_for(lambda: not self._writing)
            if self._past_cache is not None:
                self._past_cache.close()
            if self.is_open:
                os.close(self._descriptor)
                self._descriptor = -1

    @property
    def _verified(self) -> set[int]:
        """Returns the verified chunks; of a blob that was whole before anything was opened, all."""
        if self._have is None:
            self._have = set(range(len(self.manifest.chunks)))
        return self._have

    def _check_open(self) -> None:
        if not self.is_open:
            raise MissingBlobError(
                f"the download of blob {self.blob_id[:16]}… was closed or deleted meanwhile; start it again"
            )

    def _believe(self) -> set[int]:
        """Hashes again the chunks that an earlier process wrote, and returns the good ones.

        BLAKE3 does 4 GB/s, and holes are passed over unread.
        """
        believed = set()
        for index, digest in enumerate(self.manifest.chunks):
            offset, size_bytes = index * self.manifest.chunk_bytes, self.manifest.chunk_size(index)
            if not _has_data(self._descriptor, offset, size_bytes):
                continue
            if blake3(os.pread(self._descriptor, size_bytes, offset)).digest() == digest:
                believed.add(index)
        return believed


def bitmap(indexes: Collection[int], count: int) -> bytes:
    """Returns bits of which the i-th, lowest first, says whether `indexes` has i."""
    bits = bytearray(-(-count // 8))
    for index in indexes:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def _has_data(descriptor: int, offset: int, size_bytes: int) -> bool:
    """Says whether the file has no hole there; True, too, where the file system does not tell."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA) < offset + size_bytes
    except OSError as error:
        return error.errno != errno.ENXIO  # nothing but a hole up to the end
