"""Content-addressed blobs on this disk; a name is the hash of the manifest (docs/protocol.md).

A chunk is hashed at least once by this process before it is served, so that a bad disk does not make a liar
of this peer.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from paris_p2p.disk import explained, make_directory, sweep_temporaries, write_atomic
from paris_p2p.errors import ManifestError, MissingBlobError
from paris_p2p.records import BlobRef, Manifest
from paris_p2p.store import blob_files
from paris_p2p.store.partial import PartialBlob, bitmap
from paris_p2p.store.usage import Usage

log = logging.getLogger(__name__)


class BlobStore:
    """Keeps all blobs under one root, within `max_bytes` (0: no cap).

    Its methods may be called from several threads.
    """

    def __init__(self, root: Path, max_bytes: int = 0):
        self.root, self.max_bytes = root, max_bytes
        self._lock = threading.RLock()  # for what changes files, but never for reading
        self._partials: dict[str, PartialBlob] = {}
        self._manifests: dict[str, Manifest] = {}
        self._usage = Usage(
            lambda blob_id: (self._file(blob_id, kind) for kind in blob_files.KINDS),
            lambda: blob_files.known_ids(self.root),
        )
        # chunks of whole blobs that this process found right
        self._hashed: dict[str, set[int]] = defaultdict(set)
        with explained(root):
            make_directory(root)
            for directory in (root, *(place for place in root.iterdir() if place.is_dir())):
                sweep_temporaries(directory)
                blob_files.sweep_empty_downloads(directory)

    def add_file(self, path: Path, *, move: bool = False, manifest: Manifest | None = None) -> BlobRef:
        """Takes a file in: by hard link where the disk allows, by copy elsewhere.

        The same file twice costs nothing more. `manifest` is the file's own, where its writer knows it.
        """
        manifest = manifest or blob_files.hash_file(path)
        ref = BlobRef(id=manifest.blob_id, size_bytes=manifest.size_bytes)
        data = self._file(ref.id, "data")
        with self._lock, explained(data):
            if not self.has(ref.id):
                self._drop_part(ref.id)
                self._check_cap(ref.size_bytes, self._promised_bytes())
                make_directory(data.parent)
                write_atomic(self._file(ref.id, "manifest"), manifest.to_bytes())
                try:
                    blob_files.take_in(path, data)
                except OSError:
                    self._file(ref.id, "manifest").unlink(missing_ok=True)
                    raise
                self._hashed[ref.id] = set(range(len(manifest.chunks)))
                self._usage.recount(ref.id)
            if move and path.resolve() != data.resolve():
                path.unlink()
        return ref

    def has(self, blob_id: str) -> bool:
        return self._file(blob_id, "data").exists()

    def size_bytes(self, blob_id: str) -> int:
        """Returns how large a whole blob is; 0 where it is not here."""
        try:
            return self._file(blob_id, "data").stat().st_size
        except FileNotFoundError:
            return 0

    def path(self, blob_id: str) -> Path:
        """Returns the whole blob's file; MissingBlobError when it is not whole."""
        if not self.has(blob_id):
            raise MissingBlobError(f"blob {blob_id[:16]}… is not on this disk")
        return self._file(blob_id, "data")

    def manifest_bytes(self, blob_id: str) -> bytes | None:
        manifest = self.manifest(blob_id)
        return manifest.to_bytes() if manifest else None

    def manifest(self, blob_id: str) -> Manifest | None:
        """Reads a blob's manifest; None when there is none, or the one on disk is damaged.

        Then it is fetched, or hashed, again.
        """
        file = self._file(blob_id, "manifest")
        if blob_id not in self._manifests:
            try:
                self._manifests[blob_id] = Manifest.from_bytes(file.read_bytes(), blob_id)
            except FileNotFoundError:
                return None
            except ManifestError:
                log.warning("%s is damaged and ignored", file)
                return None
        return self._manifests[blob_id]

    def have(self, blob_id: str) -> bytes:
        """Returns a bitmap of the verified chunks that are here, bit i (lowest first) = chunk i.

        It is b"" when nothing is known.
        """
        manifest, partial = self.manifest(blob_id), self._partials.get(blob_id)
        if manifest is not None and self.has(blob_id):
            return bitmap(range(len(manifest.chunks)), len(manifest.chunks))
        return partial.bitmap() if partial else b""

    def read_chunk(self, blob_id: str, index: int, room: memoryview | None = None) -> bytes | memoryview:
        """Reads a chunk of a whole or partial blob, into `room` where it fits.

        MissingBlobError when it is not here, or found damaged.
        """
        manifest, partial = self.manifest(blob_id), self._partials.get(blob_id)
        if manifest is not None and 0 <= index < len(manifest.chunks):
            part = ["part"] if partial is not None and partial.has(index) else []
            for kind in ("data", *part, "data"):  # a download may end between two looks
                data = blob_files.read_file_chunk(self._file(blob_id, kind), manifest, index, room)
                if data is None:
                    continue
                if kind == "part" or self._is_right(blob_id, manifest, index, data):
                    return data
                self.verify(blob_id)
                break
        raise MissingBlobError(f"chunk {index} of blob {blob_id[:16]}… is not on this disk")

    def begin(self, blob_id: str, manifest_bytes: bytes, expected_size_bytes: int) -> PartialBlob:
        """Starts, or goes on with, a download.

        ManifestError before a byte is written; DiskFullError over the cap.
        """
        manifest = Manifest.from_bytes(manifest_bytes, blob_id)
        if manifest.size_bytes != expected_size_bytes:
            raise ManifestError(
                f"blob {blob_id[:16]}… should have {expected_size_bytes} bytes, "
                f"its manifest says {manifest.size_bytes}"
            )
        with self._lock:
            if blob_id in self._partials:
                self._partials[blob_id].open()
                return self._partials[blob_id]
            file, whole = self._file(blob_id, "manifest"), self.has(blob_id)
            if not whole and not self._file(blob_id, "part").exists():
                self._check_room(manifest.size_bytes)
            with explained(file):
                make_directory(file.parent)
                write_atomic(file, manifest_bytes)
            return self._partial(manifest, opened=not whole)

    def leave(self, blob_id: str) -> None:
        """Ends a download for now.

        What came stays for the next try; of a download that brought nothing, nothing is left.
        """
        with self._lock:
            partial = self._partials.get(blob_id)
            if partial is None or not partial.is_open:
                return
            partial.close()
            if not partial.count:
                self.delete(blob_id)

    def delete(self, blob_id: str) -> None:
        with self._lock, explained(self._file(blob_id, "data")):
            self._drop_part(blob_id)
            self._manifests.pop(blob_id, None)
            self._hashed.pop(blob_id, None)
            for kind in ("data", "manifest"):
                self._file(blob_id, kind).unlink(missing_ok=True)
            self._usage.recount(blob_id)

    @contextmanager
    def room_beside(self, size_bytes: int) -> Iterator[None]:
        """Counts so many bytes of other files as this store's, as long as the block lasts; DiskFullError."""
        with self._lock:
            self._check_room(size_bytes)
            self._usage.add_beside(size_bytes)
        try:
            yield
        finally:
            self._usage.add_beside(-size_bytes)

    def used_bytes(self) -> int:
        """Returns the bytes that all blobs and `room_beside` take, of downloads in progress what has come."""
        return self._usage.total_bytes()

    def ids(self) -> list[str]:
        """Lists the whole blobs."""
        return sorted(file.stem for file, _ in blob_files.named_files(self.root) if file.suffix == ".data")

    def evict(self, keep: set[str], need_bytes: int) -> int:
        """Deletes blobs not to be kept, and downloads that were given up, oldest first.

        It stops when `need_bytes` are free, and returns the bytes that it freed.
        """
        freed = 0
        with self._lock:
            for blob_id, size_bytes in blob_files.oldest_first(self.root):
                if freed >= need_bytes:
                    break
                partial = self._partials.get(blob_id)
                if blob_id not in keep and not (partial and partial.is_open):
                    self.delete(blob_id)
                    freed += size_bytes
        return freed

    def verify(self, blob_id: str) -> list[int]:
        """Hashes a whole blob again and returns its bad chunks.

        They become missing, so that a fetch heals them.
        """
        data = self.path(blob_id)
        manifest = self.manifest(blob_id)
        if manifest is None:  # damaged: the data can say what it should be
            manifest = self._recover_manifest(blob_id)
        bad = blob_files.bad_chunks(data, manifest)
        with self._lock:
            if not bad:
                self._hashed[blob_id] = set(range(len(manifest.chunks)))
            elif self.has(blob_id):
                log.warning(
                    "blob %s is damaged in %d of %d chunks; it is fetched again",
                    blob_id[:16],
                    len(bad),
                    len(manifest.chunks),
                )
                self._make_partial(manifest)
        return bad

    def _is_right(self, blob_id: str, manifest: Manifest, index: int, data: bytes | memoryview) -> bool:
        if index in self._hashed[blob_id]:
            return len(data) == manifest.chunk_size(index)
        if blake3(data).digest() != manifest.chunks[index]:
            return False
        self._hashed[blob_id].add(index)
        return True

    def _recover_manifest(self, blob_id: str) -> Manifest:
        manifest = blob_files.hash_file(self.path(blob_id))
        if manifest.blob_id != blob_id:
            self.delete(blob_id)
            raise MissingBlobError(
                f"blob {blob_id[:16]}… and its manifest were both damaged on this disk and are gone; "
                "fetch it again"
            )
        file = self._file(blob_id, "manifest")
        with explained(file):
            write_atomic(file, manifest.to_bytes())
        return manifest

    def _make_partial(self, manifest: Manifest) -> None:
        """Turns a damaged whole blob into a download that has its good chunks."""
        data, part = self._file(manifest.blob_id, "data"), self._file(manifest.blob_id, "part")
        with explained(part):
            blob_files.make_own(data, part)
        self._hashed.pop(manifest.blob_id, None)
        self._partial(manifest, opened=True)

    def _partial(self, manifest: Manifest, *, opened: bool) -> PartialBlob:
        blob_id = manifest.blob_id
        partial = PartialBlob(
            manifest,
            self._file(blob_id, "part"),
            self._file(blob_id, "data"),
            on_end=lambda: self._forget(blob_id, partial),
            make_room=self._check_cap,
            on_growth=lambda: self._usage.recount(blob_id),
        )
        if opened:
            partial.open()
            self._partials[blob_id] = partial
        self._usage.recount(blob_id)
        return partial

    def _forget(self, blob_id: str, partial: PartialBlob) -> None:
        if self._partials.get(blob_id) is partial:
            del self._partials[blob_id]
            if not partial.missing():
                self._hashed[blob_id] = set(range(partial.count))

    def _drop_part(self, blob_id: str) -> None:
        partial = self._partials.pop(blob_id, None)
        if partial is not None:
            partial.close()
        self._file(blob_id, "part").unlink(missing_ok=True)
        self._usage.recount(blob_id)

    def _promised_bytes(self) -> int:
        """Returns the room that downloads in progress still need, as far as they have earned it."""
        return sum(partial.promised_bytes for partial in self._partials.values())

    def _check_room(self, size_bytes: int) -> None:
        promised = self._promised_bytes()
        self._check_cap(size_bytes, promised)
        blob_files.check_free(self.root, size_bytes, promised)

    def _check_cap(self, size_bytes: int, promised_bytes: int = 0) -> None:
        if self.max_bytes:
            blob_files.check_cap(self.max_bytes, self.used_bytes(), size_bytes, promised_bytes)

    def _file(self, blob_id: str, kind: str) -> Path:
        return blob_files.blob_file(self.root, blob_id, kind)
