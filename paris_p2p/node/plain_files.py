"""The plain files of a fetched run, for one command: the store's own, or opened copies of what is sealed.

Copies lie in a folder of the command's own, which is deleted when it ends. The next command deletes what one
that was killed left; a lock, which a process's death opens, tells the two apart.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from paris_p2p.disk import explained, make_directory, replacing
from paris_p2p.node.open_copies import make_work_folder
from paris_p2p.node.run_keys import RunKeys
from paris_p2p.records import BlobRef
from paris_p2p.spec import Pinned
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import open_into
from paris_p2p.store.sealing import opened_bytes

OPENED = "opened"  # in a generator's data directory


class PlainFiles(Protocol):
    """Where a run's blobs can be read."""

    def weights(self, slot: str, ref: BlobRef) -> Path: ...

    def folder(self, name: str, pinned: Pinned) -> Path: ...


class StoreFiles:
    """Files of a run that is not sealed: the store's own, and folders of links to them."""

    def __init__(self, store: BlobStore, run_folder: Path):
        self.store, self._run_folder = store, run_folder

    def weights(self, slot: str, ref: BlobRef) -> Path:
        return self.store.path(ref.id)

    def folder(self, name: str, pinned: Pinned) -> Path:
        return lay_out(self.store, pinned, self._run_folder / name)


class OpenedFiles:
    """Opened copies, each made when it is asked for, until `closing` is closed."""

    def __init__(self, store: BlobStore, keys: RunKeys, folder: Path, closing: ExitStack):
        self.store, self.keys, self._folder, self._closing = store, keys, folder, closing

    def weights(self, slot: str, ref: BlobRef) -> Path:
        return self._open(ref, self._folder / slot)

    def folder(self, name: str, pinned: Pinned) -> Path:
        make_work_folder(self._folder / name)
        for file, ref in pinned.files.items():
            self._open(ref, self._folder / name / file)
        return self._folder / name

    def _open(self, ref: BlobRef, path: Path) -> Path:
        if not path.exists():
            blob = self.store.path(ref.id)
            key = self.keys.opening(ref, blob)
            self._closing.enter_context(self.store.room_beside(opened_bytes(blob.stat().st_size)))
            with explained(path), replacing(path, mode=0o600, durable=False) as out:
                open_into(out, blob, key)
        return path


def lay_out(store: BlobStore, pinned: Pinned, folder: Path) -> Path:
    """Makes a codec's or encoder's folder of links into the store, and nothing else; Pinned has checked the
    names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in pinned.files:
            path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)
    for name, ref in pinned.files.items():
        path, blob = folder / name, store.path(ref.id)
        if not (path.is_file() and path.samefile(blob)):
            path.unlink(missing_ok=True)
            os.link(blob, path)
    return folder


@contextmanager
def opened_folder(data_dir: Path) -> Iterator[Path]:
    """Yields a new folder for opened copies, deleted when the block ends; first those of the dead are."""
    home = data_dir / OPENED
    with explained(home):
        make_directory(data_dir)
        home.mkdir(mode=0o700, exist_ok=True)
        with _locked(home / "lock"):
            _sweep(home)
            folder = home / f"{os.getpid()}-{os.urandom(4).hex()}"
            folder.mkdir(mode=0o700)
            living = os.open(_lock_of(folder), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(living, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        with explained(home):
            shutil.rmtree(folder)
            _lock_of(folder).unlink(missing_ok=True)
        os.close(living)


def sweep_opened(data_dir: Path) -> None:
    """Deletes what killed commands of this machine left opened, in its generator's folder too: the next one
    of them may be long in coming.
    """
    for home in (*data_dir.glob(OPENED), *data_dir.glob(f"*/{OPENED}")):
        with explained(home), _locked(home / "lock"):
            _sweep(home)


def _sweep(home: Path) -> None:
    for folder in home.iterdir():
        if folder.is_dir() and not _is_held(_lock_of(folder)):
            shutil.rmtree(folder)
            _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _is_held(lock: Path) -> bool:
    """Tells whether a living process holds a lock."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for a lock that is held for a moment only."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
