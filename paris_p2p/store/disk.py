"""Writing to this disk so that a crash leaves the old state or the new, with errors a person can act on."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from paris_p2p.errors import DiskFullError, ReadOnlyError, StoreError

log = logging.getLogger(__name__)
FORGOTTEN_S = 3600.0  # a temporary file that nobody touched for so long belongs to a process that died


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError of writing `path` into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(
                f"no space left for {path} ({free_bytes(path) / 1e6:.1f} MB are free); "
                "free some or choose another --data-dir"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ReadOnlyError(
                f"cannot write {path}: {os.strerror(error.errno)}; "
                "choose another --data-dir or mend its permissions"
            ) from error
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; check the disk, or choose another --data-dir"
        ) from error


def free_bytes(path: Path) -> int:
    """What the disk of `path`, which need not exist yet, has free for us."""
    there = next((place for place in (path, *path.parents) if place.exists()), Path("/"))
    return shutil.disk_usage(there).free


def default_cap_bytes(used_bytes: int, free: int, own_bytes: int = 0) -> int:
    """What blobs may take where nobody said: half of what is free or theirs already, and all that is this
    user's own data.
    """
    return own_bytes + (free + max(0, used_bytes - own_bytes)) // 2


def write_atomic(path: Path, data: bytes) -> None:
    """The whole file or the one before, also after a power cut: temp file, fsync, rename, directory fsync."""
    temporary = temporary_for(path)
    with explained(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def temporary_for(path: Path) -> Path:
    """A name beside `path` that no other process or thread writes to."""
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")


def sweep_temporaries(directory: Path) -> None:
    """Delete what processes that died while writing left behind; others may be writing right now."""
    for file in directory.glob("*.tmp"):
        try:
            if time.time() - file.stat().st_ctime > FORGOTTEN_S:
                file.unlink()
        except OSError:
            # its writer finished it meanwhile, or the disk is read-only: then writing will say so
            continue


def make_directory(path: Path) -> None:
    """Make a directory and its parents, each of them kept over a power cut."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def make_private(path: Path, *, is_new: bool) -> None:
    """Mode 0700: keys, tokens and records here are this user's alone. Said when it was wider."""
    status = path.stat()
    wide = stat.S_IMODE(status.st_mode) & 0o077
    if not wide:
        return
    if status.st_uid != os.geteuid():
        log.warning(
            "%s may be read by others (mode %o) and belongs to another user: give it mode 700",
            path,
            status.st_mode & 0o777,
        )
        return
    path.chmod(0o700)
    if not is_new:
        log.warning(
            "%s could be entered by others (mode %o); it has mode 700 now", path, status.st_mode & 0o777
        )


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DataDirLock:
    """Only one node per data directory: two with one identity and one ledger would contradict each other."""

    def __init__(self, data_dir: Path):
        self.data_dir = data_dir
        self._descriptor = -1

    def __enter__(self) -> DataDirLock:
        with explained(self.data_dir):
            is_new = not self.data_dir.exists()
            make_directory(self.data_dir)
            make_private(self.data_dir, is_new=is_new)
            self._descriptor = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            who = f" (process {holder})" if re.fullmatch("[0-9]+", holder) else ""
            raise StoreError(
                f"another node{who} already runs on {self.data_dir}; stop it, "
                "or give this one its own --data-dir"
            ) from error
        with explained(self.data_dir):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
