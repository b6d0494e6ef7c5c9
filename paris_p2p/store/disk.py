"""Writing to this disk so that a crash leaves the old state or the new, with errors a person can act on."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from paris_p2p.errors import DiskFullError, ReadOnlyError, StoreError


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError about space or permission into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no space left for {path}; free some, choose another --data-dir, or set --max-disk") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise ReadOnlyError(
                f"cannot write {path}: {os.strerror(error.errno)}; choose another --data-dir or mend its permissions"
            ) from error
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """The whole file or the one before, also after a power cut: temp file, fsync, rename, directory fsync."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
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


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
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
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise StoreError(f"another node already runs on {self.data_dir}; stop it, or give this one its own --data-dir") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)
