"""Opened copies of sealed blobs, for programs that read plain files: trainer, gate, generator.

There is one copy of a blob, however many use it. It counts into --max-disk, lies where this user alone may
look, and is deleted when the last lets go. What a killed process left, `sweep_work` deletes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from paris_p2p.disk import explained, make_directory, replacing
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import open_into
from paris_p2p.store.sealing import BlobKey, opened_bytes

WORK = "work"  # in a run's folder: what trainers write and what is opened, none of it for long
OPEN = "open"  # in there

log = logging.getLogger(__name__)


def work_folder(data_dir: Path, run: str, name: str) -> Path:
    """Returns the folder for one use within a run's work; it need not exist."""
    return data_dir / "runs" / run / WORK / name


def make_work_folder(path: Path) -> None:
    """Makes a folder that work_folder named, for this user alone."""
    with explained(path):
        make_directory(path.parent.parent)
        for folder in (path.parent, path):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)


def sweep_work(data_dir: Path) -> None:
    """Deletes what a killed process left in the work of any run; the caller holds the data directory."""
    for folder in data_dir.glob(f"runs/*/{WORK}"):
        log.info("deleting %s, which a process that was killed left", folder)
        with explained(folder):
            shutil.rmtree(folder)


def clear_work(data_dir: Path) -> None:
    """Deletes the work of all runs, as far as that can be, when a node stops: the next start looks again."""
    for folder in data_dir.glob(f"runs/*/{WORK}"):
        shutil.rmtree(folder, ignore_errors=True)


class OpenCopies:
    """Opens blobs of a store into `folder`, which is made when the first is opened."""

    def __init__(self, store: BlobStore, folder: Path):
        self.store, self.folder = store, folder
        self._copies: dict[str, _Copy] = {}
        self._numbers = itertools.count()

    @asynccontextmanager
    async def of(self, blob_id: str, key: BlobKey) -> AsyncIterator[Path]:
        """Yields the opened copy of a whole blob. Raises SealError, DiskFullError, MissingBlobError."""
        copy = self._copies.get(blob_id)
        if copy is None:
            path = self.folder / f"{blob_id}.{next(self._numbers)}"
            copy = self._copies[blob_id] = _Copy(self.store, self.store.path(blob_id), key, path)
        copy.users += 1
        try:
            yield await asyncio.shield(copy.opening)
        finally:
            copy.users -= 1
            if not copy.users:
                del self._copies[blob_id]
                copy.close()


class _Copy:
    """One copy, from the moment it is asked for; `opening` ends when it is whole."""

    def __init__(self, store: BlobStore, blob: Path, key: BlobKey, path: Path):
        self.path, self.users, self.opening = path, 0, asyncio.create_task(self._open(store, blob, key))
        self._given_up = False
        self._room = ExitStack()

    def close(self) -> None:
        """Deletes the copy, also one that is not whole yet."""
        self._given_up = True
        self.path.unlink(missing_ok=True)
        if self.opening.done():
            self._ended(self.opening)
        else:
            self.opening.add_done_callback(self._ended)

    async def _open(self, store: BlobStore, blob: Path, key: BlobKey) -> Path:
        self._room.enter_context(store.room_beside(opened_bytes(blob.stat().st_size)))
        await asyncio.to_thread(self._write, blob, key)
        return self.path

    def _write(self, blob: Path, key: BlobKey) -> None:
        make_work_folder(self.path.parent)
        with explained(self.path), replacing(self.path, mode=0o600, durable=False) as out:
            open_into(out, blob, key, wanted=lambda: not self._given_up)
        if self._given_up:  # closed after the last segment
            self.path.unlink(missing_ok=True)

    def _ended(self, opening: asyncio.Task[Path]) -> None:
        self._room.close()
        if not opening.cancelled():
            opening.exception()  # those who waited for it had it, or nobody did
