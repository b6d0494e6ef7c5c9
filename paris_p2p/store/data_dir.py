"""A node's data directory belongs to this user and to one process at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
from pathlib import Path
from types import TracebackType

from paris_p2p.disk import explained, make_directory
from paris_p2p.errors import StoreError

log = logging.getLogger(__name__)


def default_cap_bytes(used_bytes: int, free: int, own_bytes: int = 0) -> int:
    """Returns what blobs may take by default.

    It is half of what is free or holds blobs already, and all that is this user's own data.
    """
    return own_bytes + (free + max(0, used_bytes - own_bytes)) // 2


def make_private(path: Path, *, is_new: bool) -> None:
    """Gives a directory of keys, tokens and records mode 0700, and logs a warning where it was wider."""
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


class DataDirLock:
    """Holds a data directory for one node: two with one identity and ledger would contradict each other."""

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
