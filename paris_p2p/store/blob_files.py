"""The files of blobs on this disk: where they lie, how they are hashed, read and taken in (docs/protocol.md).

<root>/ab/<id>.manifest   canonical manifest bytes
<root>/ab/<id>.data       the whole blob, there only when it is whole
<root>/ab/<id>.part       a download in progress, a sparse file that takes its room as it fills
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from blake3 import blake3

from paris_p2p.disk import FORGOTTEN_S, free_bytes, sync_directory, sync_file, temporary_for
from paris_p2p.errors import DiskFullError, StoreError
from paris_p2p.records import CHUNK_BYTES, MAX_MANIFEST_BYTES, Manifest

KINDS = ("data", "part", "manifest")
_ID = re.compile(r"[0-9a-f]{64}")
_MAX_CHUNKS = MAX_MANIFEST_BYTES // 32 - 1


def blob_file(root: Path, blob_id: str, kind: str) -> Path:
    """Returns where a blob's file of one of KINDS lies; StoreError when that is no blob's id."""
    if not _ID.fullmatch(blob_id):
        raise StoreError(f"not a blob id: {blob_id[:80]!r}")
    return root / blob_id[:2] / f"{blob_id}.{kind}"


def all_files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yields every file under `root` with its status; one that another thread deletes is passed over."""
    for directory in root.iterdir():
        for file in directory.iterdir() if directory.is_dir() else ():
            try:
                yield file, file.stat()
            except FileNotFoundError:
                continue


def named_files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yields the files under `root` that have a blob's name and place; others are somebody's."""
    return ((file, status) for file, status in all_files(root) if is_blob_file(file))


def is_blob_file(path: Path) -> bool:
    """Tells whether a store would have called and put a file so."""
    return (
        _ID.fullmatch(path.stem) is not None
        and path.suffix[1:] in KINDS
        and path.parent.name == path.stem[:2]
    )


def oldest_first(root: Path) -> list[tuple[str, int]]:
    """Lists (blob id, bytes on the disk) of blobs and downloads under `root`, the oldest first."""
    files = [(file, status) for file, status in named_files(root) if file.suffix in (".data", ".part")]
    sizes = [
        (status.st_mtime, file.stem, min(status.st_size, 512 * status.st_blocks)) for file, status in files
    ]
    return [(blob_id, size_bytes) for _, blob_id, size_bytes in sorted(sizes)]


def known_ids(root: Path) -> set[str]:
    """Returns the ids of all blobs that have a file under `root`."""
    return {file.stem for file, _ in named_files(root)}


def sweep_empty_downloads(directory: Path) -> None:
    """Deletes manifests that nothing came for, of a process that died.

    A living one may have begun the download right now.
    """
    for manifest in filter(is_blob_file, directory.glob("*.manifest")):
        part = manifest.with_suffix(".part")
        try:
            came = manifest.with_suffix(".data").exists() or (part.exists() and part.stat().st_blocks)
            if not came and time.time() - manifest.stat().st_mtime > FORGOTTEN_S:
                part.unlink(missing_ok=True)
                manifest.unlink()
        except OSError:  # gone meanwhile, or the disk is read-only: then writing will say so
            continue


class ChunkHasher:
    """Makes the manifest of bytes that are written one after the other; `size_bytes` is how many will be.

    Chunks have CHUNK_BYTES, and more where the manifest would grow too large.
    """

    def __init__(self, size_bytes: int):
        self._chunk_bytes = CHUNK_BYTES
        while size_bytes > self._chunk_bytes * _MAX_CHUNKS:
            self._chunk_bytes *= 2
        self._chunks: list[bytes] = []
        self._hash, self._hashed_bytes = blake3(), 0

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room_bytes = self._chunk_bytes - self._hashed_bytes
            part, view = view[:room_bytes], view[room_bytes:]
            self._hash.update(part)
            self._hashed_bytes += len(part)
            if self._hashed_bytes == self._chunk_bytes:
                self._end_chunk()

    def manifest(self) -> Manifest:
        """Returns the manifest of all that came; nothing may come after."""
        size_bytes = len(self._chunks) * self._chunk_bytes + self._hashed_bytes
        if self._hashed_bytes:
            self._end_chunk()
        return Manifest(size_bytes=size_bytes, chunk_bytes=self._chunk_bytes, chunks=tuple(self._chunks))

    def _end_chunk(self) -> None:
        self._chunks.append(self._hash.digest())
        self._hash, self._hashed_bytes = blake3(), 0


def hash_file(path: Path) -> Manifest:
    """Reads a file once and returns its manifest."""
    hasher = ChunkHasher(path.stat().st_size)
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            hasher.update(data)
    return hasher.manifest()


def read_file_chunk(
    file: Path, manifest: Manifest, index: int, room: memoryview | None = None
) -> bytes | memoryview | None:
    """Reads a chunk of a file, short when the file is; None when there is no file."""
    size_bytes, offset = manifest.chunk_size(index), index * manifest.chunk_bytes
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if room is None or len(room) < size_bytes:
            return os.pread(descriptor, size_bytes, offset)
        return room[: os.preadv(descriptor, [room[:size_bytes]], offset)]
    finally:
        os.close(descriptor)


def take_in(source: Path, data: Path) -> None:
    """Links or copies `source` to `data`, whole or not at all."""
    temporary = temporary_for(data)
    try:
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)
        sync_file(temporary)
        temporary.replace(data)
    finally:
        temporary.unlink(missing_ok=True)  # rename leaves it there when both were links to one file
    sync_directory(data.parent)


def bad_chunks(data: Path, manifest: Manifest, indexes: Iterable[int] | None = None) -> list[int]:
    """Hashes a file again, or the chunks of it that are asked for, and returns the indexes of those that are
    not what the manifest says. The last is not where bytes follow it.
    """
    last = len(manifest.chunks) - 1
    is_longer = data.stat().st_size > manifest.size_bytes
    chunks = (
        (index, read_file_chunk(data, manifest, index))
        for index in (range(last + 1) if indexes is None else indexes)
    )
    return [
        index
        for index, chunk in chunks
        if chunk is None or blake3(chunk).digest() != manifest.chunks[index] or (is_longer and index == last)
    ]


def make_own(data: Path, part: Path) -> None:
    """Renames `data` to `part`, which is then this store's to change.

    A file that is linked elsewhere is copied: mending that one is not ours to do.
    """
    if data.stat().st_nlink > 1:
        temporary = temporary_for(part)
        shutil.copyfile(data, temporary)
        temporary.replace(part)
        data.unlink()
    else:
        data.replace(part)
    sync_directory(data.parent)


def check_free(root: Path, size_bytes: int, promised_bytes: int) -> None:
    """Raises DiskFullError where the disk lacks room for so much, beside what is kept for other downloads."""
    free = free_bytes(root) - promised_bytes
    if size_bytes > free:
        raise DiskFullError(
            f"{size_bytes / 1e6:.1f} MB needed, {max(0, free) / 1e6:.1f} MB free under "
            f"{root}{_besides(promised_bytes)}; "
            "free some or choose another --data-dir"
        )


def check_cap(max_bytes: int, used_bytes: int, size_bytes: int, promised_bytes: int) -> None:
    """Raises DiskFullError where so much more is above `max_bytes`."""
    if used_bytes + promised_bytes + size_bytes > max_bytes:
        raise DiskFullError(
            f"{size_bytes / 1e6:.1f} MB needed, but {used_bytes / 1e6:.1f} of --max-disk "
            f"{max_bytes / 1e6:.1f} MB are used"
            f"{_besides(promised_bytes)}; raise --max-disk"
        )


def _besides(promised_bytes: int) -> str:
    return f", {promised_bytes / 1e6:.1f} MB kept for other downloads" if promised_bytes else ""
