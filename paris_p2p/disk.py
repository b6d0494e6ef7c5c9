"""Writes files so that a crash leaves the old one or the new, and explains what a disk refuses."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import BinaryIO

from paris_p2p.errors import DiskFullError, ReadOnlyError, StoreError, UsageError

FORGOTTEN_S = 3600.0  # a temporary file that nobody touched for so long belongs to a process that died
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)  # of a file system
_TEMPORARY = re.compile(r"\..+\.\d+-\d+-[0-9a-f]{6}\.tmp", re.DOTALL)  # names of `temporary_for`
_MAX_NAME_BYTES = 200  # of a file, within its temporary one's name; file systems allow 255 in all


@contextmanager
def replacing(
    path: Path, *, mode: int | None = None, durable: bool = True, overwrite: bool = True, sweep: bool = True
) -> Iterator[BinaryIO]:
    """Yields a new file that gets the name `path`, whole, when the block ends without an error.

    `mode`: its permissions; where None, those of the file that it replaces, or what the umask leaves.
    `durable`: on the disk, name and all, before this returns; a power cut then leaves no empty file either.
    `overwrite=False`: FileExistsError where `path` exists. OSError names `path`.
    `sweep=False`: a caller with a folder of many files deletes by itself what killed writers left there.
    """
    temporary = temporary_for(path)
    try:
        kept = _mode_of(path) if mode is None else mode
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o666 if kept is None else kept), "w+b") as file:
            if kept is not None:
                os.fchmod(file.fileno(), kept)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _rename_to_new(temporary, path)
        if durable:
            sync_directory(path.parent)
        if durable and sweep:
            sweep_temporaries(path.parent, _stem(path))
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_atomic(
    path: Path,
    data: bytes | str,
    *,
    mode: int | None = None,
    durable: bool = True,
    overwrite: bool = True,
    sweep: bool = True,
) -> None:
    """Writes the whole file or leaves the one before, as `replacing` does; text is written as UTF-8."""
    with replacing(path, mode=mode, durable=durable, overwrite=overwrite, sweep=sweep) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError of writing `path` into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(
                f"no space left for {path} ({free_bytes(path) / 1e6:.1f} MB are free); "
                "free some or choose another --data-dir"
            ) from error
        if error.errno in FORBIDDEN:
            raise ReadOnlyError(
                f"cannot write {path}: {os.strerror(error.errno)}; "
                "choose another --data-dir or mend its permissions"
            ) from error
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; check the disk, or choose another --data-dir"
        ) from error


def free_bytes(path: Path) -> int:
    """Returns what the disk of `path`, which need not exist yet, has free for this user."""
    there = next((place for place in (path, *path.parents) if place.exists()), Path("/"))
    return shutil.disk_usage(there).free


def temporary_for(path: Path) -> Path:
    """Returns a hidden name beside `path` that no other process or thread writes to."""
    return path.with_name(f"{_stem(path)}{os.getpid()}-{threading.get_native_id()}-{os.urandom(3).hex()}.tmp")


def is_temporary(path: Path) -> bool:
    """Tells whether a file has a name of `temporary_for`: its writer works on it, or was killed."""
    return _TEMPORARY.fullmatch(path.name) is not None


def sweep_temporaries(directory: Path, stem: str = "") -> None:
    """Deletes what processes that died while writing left behind; others may be writing right now, and a file
    with a name that they do not give is somebody's.
    """
    for file in filter(is_temporary, directory.glob(f"{escape(stem)}*.tmp")):
        try:
            if time.time() - file.stat().st_ctime > FORGOTTEN_S:
                file.unlink()
        except OSError:
            # its writer finished it meanwhile, or the disk is read-only: then writing will say so
            continue


def named_path(words: str | Path) -> Path:
    """Returns the path that somebody named, in a home where it begins with `~`; UsageError for words that no
    file can be called: none at all, too many, or the home of nobody.
    """
    try:
        path = Path(words).expanduser()
        if not str(words).strip():
            raise ValueError("it is empty")
        path.stat()
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            return path  # whether something is there is another question
        raise UsageError(f"{str(words)[:100]!r} is no path: {error.strerror}; name another") from error
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{str(words)[:100]!r} is no path: {str(error)[:100]}; name another") from error
    return path


def make_directory(path: Path) -> None:
    """Makes a directory and its parents, each of which outlives a power cut."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Waits until the names in a directory are on the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    _sync(path, os.O_RDONLY)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Renames a file; FileExistsError where the name is taken, which a rename alone does not notice."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links, such as exFAT; a node's files have one writer (DataDirLock).
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.replace(path)
    else:
        temporary.unlink()


def _stem(path: Path) -> str:
    return "." + os.fsdecode(os.fsencode(path.name)[:_MAX_NAME_BYTES]) + "."


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mode_of(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o777
    except FileNotFoundError:
        return None
