"""Content-addressed blobs on this disk, whole or in part; a name is the hash of the manifest (docs/protocol.md).

    <root>/ab/<id>.manifest   canonical manifest bytes
    <root>/ab/<id>.data       the whole blob, there only when it is whole
    <root>/ab/<id>.part       a download in progress, at its full length, with holes

Resuming hashes the download in progress again (BLAKE3 does 4 GB/s), so nothing has to be believed that a crash left behind.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from paris_p2p.errors import ChunkError, DiskFullError, ManifestError, MissingBlobError, StoreError
from paris_p2p.records import CHUNK_BYTES, BlobRef, Manifest
from paris_p2p.store.disk import explained, sync_directory, write_atomic

_ID = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """All blobs under one root, within `max_bytes` (0: no cap). Its methods may be called from several threads."""

    def __init__(self, root: Path, max_bytes: int = 0):
        self.root, self.max_bytes = root, max_bytes
        self._lock = threading.RLock()
        self._partials: dict[str, PartialBlob] = {}
        self._manifests: dict[str, Manifest] = {}
        with explained(root):
            root.mkdir(parents=True, exist_ok=True)

    def add_file(self, path: Path, *, move: bool = False) -> BlobRef:
        """Take a file in: by hard link where the disk allows, by copy elsewhere. The same file twice costs nothing more."""
        manifest = hash_file(path)
        ref = BlobRef(id=manifest.blob_id, size_bytes=manifest.size_bytes)
        with self._lock:
            if not self.has(ref.id):
                self._need(ref.size_bytes)
                data = self._file(ref.id, "data")
                with explained(data):
                    data.parent.mkdir(exist_ok=True)
                    temporary = data.with_suffix(f".{os.getpid()}.tmp")
                    temporary.unlink(missing_ok=True)
                    _link_or_copy(path, temporary)
                    _sync_file(temporary)
                    write_atomic(self._file(ref.id, "manifest"), manifest.to_bytes())
                    temporary.replace(data)
                    sync_directory(data.parent)
            if move:
                path.unlink()
        return ref

    def add_bytes(self, data: bytes) -> BlobRef:
        temporary = self.root / f"bytes.{os.getpid()}.{threading.get_ident()}.tmp"
        with explained(temporary):
            temporary.write_bytes(data)
        return self.add_file(temporary, move=True)

    def has(self, blob_id: str) -> bool:
        return self._file(blob_id, "data").exists()

    def path(self, blob_id: str) -> Path:
        """The whole blob's file; MissingBlobError when it is not whole."""
        if not self.has(blob_id):
            raise MissingBlobError(f"blob {blob_id[:16]}… is not on this disk")
        return self._file(blob_id, "data")

    def manifest_bytes(self, blob_id: str) -> bytes | None:
        try:
            return self._file(blob_id, "manifest").read_bytes()
        except FileNotFoundError:
            return None

    def manifest(self, blob_id: str) -> Manifest | None:
        if blob_id not in self._manifests:
            data = self.manifest_bytes(blob_id)
            if data is None:
                return None
            self._manifests[blob_id] = Manifest.from_bytes(data, blob_id)
        return self._manifests[blob_id]

    def have(self, blob_id: str) -> bytes:
        """Bitmap of the verified chunks that are here, bit i (lowest first) = chunk i; b"" when nothing is known."""
        manifest = self.manifest(blob_id)
        if manifest is None:
            return b""
        if self.has(blob_id):
            return _bitmap(range(len(manifest.chunks)), len(manifest.chunks))
        partial = self._partials.get(blob_id)
        return partial.bitmap() if partial else b""

    def read_chunk(self, blob_id: str, index: int) -> bytes:
        """A chunk of a whole or partial blob; MissingBlobError when it is not here."""
        manifest = self.manifest(blob_id)
        if manifest is None or not 0 <= index < len(manifest.chunks):
            raise MissingBlobError(f"chunk {index} of blob {blob_id[:16]}… is not on this disk")
        partial = self._partials.get(blob_id)
        whole = self.has(blob_id)
        if not whole and (partial is None or not partial.has(index)):
            raise MissingBlobError(f"chunk {index} of blob {blob_id[:16]}… is not on this disk")
        with self._file(blob_id, "data" if whole else "part").open("rb") as file:
            return os.pread(file.fileno(), manifest.chunk_size(index), index * manifest.chunk_bytes)

    def begin(self, blob_id: str, manifest_bytes: bytes, expected_size_bytes: int) -> PartialBlob:
        """Start, or go on with, a download. ManifestError before a byte is written; DiskFullError over the cap."""
        manifest = Manifest.from_bytes(manifest_bytes, blob_id)
        if manifest.size_bytes != expected_size_bytes:
            raise ManifestError(f"blob {blob_id[:16]}… should have {expected_size_bytes} bytes, its manifest says {manifest.size_bytes}")
        with self._lock:
            if blob_id not in self._partials:
                if not self._file(blob_id, "part").exists():
                    self._need(manifest.size_bytes)
                directory = self._file(blob_id, "manifest").parent
                with explained(directory):
                    directory.mkdir(exist_ok=True)
                write_atomic(self._file(blob_id, "manifest"), manifest_bytes)
                self._partials[blob_id] = PartialBlob(self, blob_id, manifest)
            return self._partials[blob_id]

    def delete(self, blob_id: str) -> None:
        with self._lock:
            self._partials.pop(blob_id, None)
            self._manifests.pop(blob_id, None)
            for kind in ("data", "part", "manifest"):
                self._file(blob_id, kind).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Bytes on disk, holes not counted."""
        return sum(file.stat().st_blocks * 512 for file in self._files())

    def ids(self) -> list[str]:
        """Whole blobs."""
        return sorted(file.stem for file in self._files() if file.suffix == ".data")

    def evict(self, keep: set[str], need_bytes: int) -> int:
        """Delete blobs that are not to be kept, oldest first, until `need_bytes` are free; returns bytes freed."""
        freed = 0
        old = sorted((self.path(blob_id).stat().st_mtime, blob_id) for blob_id in self.ids() if blob_id not in keep)
        for _, blob_id in old:
            if freed >= need_bytes:
                break
            freed += self.path(blob_id).stat().st_size
            self.delete(blob_id)
        return freed

    def verify(self, blob_id: str) -> list[int]:
        """Hash a whole blob again; bad chunks are named and become missing, so that a fetch heals them."""
        manifest = self.manifest(blob_id)
        if manifest is None:
            raise MissingBlobError(f"blob {blob_id[:16]}… is not on this disk")
        bad = [i for i in range(len(manifest.chunks)) if blake3(self.read_chunk(blob_id, i)).digest() != manifest.chunks[i]]
        if bad:
            with self._lock:
                # A copy: the file may be hard-linked elsewhere, and mending that is not ours to do.
                shutil.copyfile(self.path(blob_id), self._file(blob_id, "part"))
                self._file(blob_id, "data").unlink()
        return bad

    def _files(self) -> Iterator[Path]:
        for directory in self.root.iterdir():
            if directory.is_dir():
                yield from directory.iterdir()

    def _file(self, blob_id: str, kind: str) -> Path:
        if not _ID.fullmatch(blob_id):
            raise StoreError(f"not a blob id: {blob_id[:80]!r}")
        return self.root / blob_id[:2] / f"{blob_id}.{kind}"

    def _need(self, size_bytes: int) -> None:
        free = shutil.disk_usage(self.root).free
        if size_bytes > free:
            raise DiskFullError(
                f"{size_bytes / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free under {self.root}; free some or choose another --data-dir"
            )
        if self.max_bytes:
            used = self.used_bytes()
            if used + size_bytes > self.max_bytes:
                raise DiskFullError(
                    f"{size_bytes / 1e6:.0f} MB needed, but {used / 1e6:.0f} of --max-disk {self.max_bytes / 1e6:.0f} MB are used; "
                    "raise --max-disk"
                )


class PartialBlob:
    """A download in progress. Nothing is believed after a crash that is not hashed again."""

    def __init__(self, store: BlobStore, blob_id: str, manifest: Manifest):
        self.store, self.blob_id, self.manifest = store, blob_id, manifest
        self._lock = threading.Lock()
        self._part = store._file(blob_id, "part")
        with explained(self._part):
            self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._descriptor, manifest.size_bytes)
        self._have = self._believe()

    def has(self, index: int) -> bool:
        return index in self._have

    @property
    def count(self) -> int:
        """Verified chunks that are here."""
        return len(self._have)

    def bitmap(self) -> bytes:
        return _bitmap(set(self._have), len(self.manifest.chunks))

    def missing(self) -> list[int]:
        return [index for index in range(len(self.manifest.chunks)) if index not in self._have]

    def write_chunk(self, index: int, data: bytes) -> None:
        """Verify and write one chunk; ChunkError when it is not what the manifest says."""
        if not 0 <= index < len(self.manifest.chunks) or blake3(data).digest() != self.manifest.chunks[index]:
            raise ChunkError(f"chunk {index} of blob {self.blob_id[:16]}… does not match its hash; it is fetched from another peer")
        with explained(self._part):
            os.pwrite(self._descriptor, data, index * self.manifest.chunk_bytes)
        with self._lock:
            self._have.add(index)

    def finish(self) -> BlobRef:
        """Make it a whole blob; MissingBlobError when chunks are missing."""
        missing = self.missing()
        if missing:
            raise MissingBlobError(f"blob {self.blob_id[:16]}… still misses {len(missing)} chunks")
        with explained(self._part):
            os.fdatasync(self._descriptor)
            os.close(self._descriptor)
            data = self.store._file(self.blob_id, "data")
            self._part.replace(data)
            sync_directory(data.parent)
        self.store._partials.pop(self.blob_id, None)
        return BlobRef(id=self.blob_id, size_bytes=self.manifest.size_bytes)

    def _believe(self) -> set[int]:
        """Chunks that an earlier process wrote, hashed again."""
        count = len(self.manifest.chunks)
        believed = set()
        for index in range(count):
            data = os.pread(self._descriptor, self.manifest.chunk_size(index), index * self.manifest.chunk_bytes)
            if blake3(data).digest() == self.manifest.chunks[index]:
                believed.add(index)
        return believed


def hash_file(path: Path, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    """The manifest of a file, read once."""
    chunks, size = [], 0
    with path.open("rb") as file:
        while data := file.read(chunk_bytes):
            chunks.append(blake3(data).digest())
            size += len(data)
    return Manifest(size_bytes=size, chunk_bytes=chunk_bytes, chunks=tuple(chunks))


def _bitmap(indexes: range | set[int], count: int) -> bytes:
    bits = bytearray(-(-count // 8))
    for index in indexes:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
