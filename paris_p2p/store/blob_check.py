"""Checks every blob under a root against its manifest and its name, without a store being open there: it
reads, changes nothing, and holds one chunk at a time. A peer may be working there meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paris_p2p.disk import is_temporary
from paris_p2p.errors import ManifestError
from paris_p2p.records import MAX_MANIFEST_BYTES, Manifest
from paris_p2p.store import blob_files

# damaged: chunks are not what the manifest says. unnamed: its manifest is gone or damaged, its bytes are
# right. lost: neither can be trusted. unreadable: the disk does not give it. part: a download that another
# start goes on with. orphan: a blob's file without what belongs to it. temporary: a killed writer's. foreign:
# nothing that a store writes, so somebody's.
BlobState = Literal[
    "right", "damaged", "unnamed", "lost", "unreadable", "part", "orphan", "temporary", "foreign"
]
BAD: tuple[BlobState, ...] = ("damaged", "unnamed", "lost", "unreadable")
LEFT_OVER: tuple[BlobState, ...] = ("orphan", "temporary")


@dataclass(frozen=True)
class BlobFinding:
    """Says what one file of a store is worth; `words` say why, for a person."""

    state: BlobState
    path: Path
    size_bytes: int = 0
    words: str = ""

    @property
    def blob_id(self) -> str:
        """Returns the blob that the file belongs to; empty for a file that is no blob's."""
        return self.path.stem if blob_files.is_blob_file(self.path) else ""


def check_blobs(
    root: Path, hashed: Callable[[int], None] = lambda _: None, only: Collection[str] | None = None
) -> Iterator[BlobFinding]:
    """Yields a finding for each blob, download and left-over file under `root`, or for `only` these blobs;
    none where nothing is there.

    `hashed` is called with the bytes that were hashed since its last call.
    """
    for path, status in sorted(_files(root)):
        if only is not None and path.stem not in only:
            continue
        found = _look_at(path, status, hashed)
        if found is not None:
            yield found


def blob_bytes(root: Path) -> int:
    """Returns how many bytes of whole blobs there are to hash."""
    files = blob_files.named_files(root) if root.is_dir() else ()
    return sum(status.st_size for path, status in files if path.suffix == ".data")


def left_over_again(path: Path) -> BlobFinding | None:
    """Looks at a file that was left over once more, since its writer may have come back; None where it is not
    left over, or gone.
    """
    try:
        found = _look_at(path, path.lstat(), lambda _: None) if path.suffix != ".data" else None
    except FileNotFoundError:
        return None
    return found if found is not None and found.state in LEFT_OVER else None


def _files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    yield from blob_files.all_files(root) if root.is_dir() else ()


def _look_at(path: Path, status: os.stat_result, hashed: Callable[[int], None]) -> BlobFinding | None:
    """Returns what a file is worth; None for a manifest that a blob or download has, and for what is gone."""
    size_bytes = status.st_size
    if not stat.S_ISREG(status.st_mode):
        return BlobFinding("foreign", path, 0, "it is no file, and no store made it")
    if is_temporary(path):
        return BlobFinding("temporary", path, size_bytes, "a writer that was killed left it")
    kind = path.suffix[1:]
    if not blob_files.is_blob_file(path):
        return BlobFinding("foreign", path, size_bytes, "no blob's file is called so, or lies there")
    if kind == "data":
        return _look_at_blob(path, size_bytes, hashed)
    data, part = path.with_suffix(".data"), path.with_suffix(".part")
    if kind == "manifest":
        alone = not data.exists() and not part.exists() and path.exists()
        return BlobFinding("orphan", path, size_bytes, "a manifest without its blob") if alone else None
    return _look_at_part(path, size_bytes) if path.exists() else None


def _look_at_part(path: Path, size_bytes: int) -> BlobFinding:
    if _manifest_of(path) is None:
        words = "what came of a download whose manifest is gone or damaged"
        return BlobFinding("orphan", path, size_bytes, words)
    return BlobFinding("part", path, size_bytes, "a download that is not whole yet")


def _look_at_blob(path: Path, size_bytes: int, hashed: Callable[[int], None]) -> BlobFinding | None:
    try:
        manifest = _manifest_of(path)
        if manifest is None:
            return _look_without_manifest(path, size_bytes, hashed)
        bad = _bad_chunks(path, manifest, hashed)
    except FileNotFoundError:
        return None  # superseded and deleted meanwhile
    except OSError as error:
        return BlobFinding("unreadable", path, size_bytes, f"the disk says: {error.strerror or error}")
    if not bad and size_bytes == manifest.size_bytes:
        return BlobFinding("right", path, size_bytes)
    if not path.exists():
        return None
    are = "is" if len(bad) == 1 else "are"
    words = f"{len(bad)} of {len(manifest.chunks)} chunks {are} not what its name says"
    if size_bytes != manifest.size_bytes:
        words += f"; it has {size_bytes} bytes in place of {manifest.size_bytes}"
    return BlobFinding("damaged", path, size_bytes, words)


def _look_without_manifest(path: Path, size_bytes: int, hashed: Callable[[int], None]) -> BlobFinding:
    hasher = blob_files.ChunkHasher(size_bytes)
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            hasher.update(data)
            hashed(len(data))
    if hasher.manifest().blob_id == path.stem:
        return BlobFinding(
            "unnamed", path, size_bytes, "its manifest is gone or damaged; its bytes are right"
        )
    return BlobFinding(
        "lost", path, size_bytes, "its manifest is gone or damaged, and its bytes are not right"
    )


def _bad_chunks(path: Path, manifest: Manifest, hashed: Callable[[int], None]) -> list[int]:
    bad = []
    for index in range(len(manifest.chunks)):
        bad += blob_files.bad_chunks(path, manifest, (index,))
        hashed(manifest.chunk_size(index))
    return bad


def _manifest_of(path: Path) -> Manifest | None:
    try:
        with path.with_suffix(".manifest").open("rb") as file:
            return Manifest.from_bytes(file.read(MAX_MANIFEST_BYTES + 1), path.stem)
    except (FileNotFoundError, ManifestError):
        return None
