"""The folder of p2pd's unix sockets; those that killed nodes left go when the next node starts."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

CONTROL, STREAMS = "control.sock", "streams.sock"
_YOUNG_S, _EMPTY_S = 60.0, 3600.0  # before that, another node may just be starting its p2pd there


def new_socket_folder() -> Path:
    """Makes a folder for sockets, with a short path: a unix socket's may have 107 bytes, and $TMPDIR may be
    longer than that.
    """
    base = Path("/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir())
    clear_forgotten(base, time.time())
    return Path(tempfile.mkdtemp(prefix="paris-", dir=base))


def clear_forgotten(base: Path, now_s: float) -> int:
    """Deletes this user's socket folders in which nobody listens any more; returns how many."""
    return sum(_cleared(folder) for folder in base.glob("paris-????????") if _is_forgotten(folder, now_s))


def _is_forgotten(folder: Path, now_s: float) -> bool:
    try:
        status, names = folder.lstat(), set(os.listdir(folder))
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    is_old = now_s - status.st_mtime >= (_YOUNG_S if names else _EMPTY_S)
    return is_old and names <= {CONTROL, STREAMS} and all(_is_deaf(folder / name) for name in names)


def _is_deaf(path: Path) -> bool:
    """Tells whether a socket has no process any more."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.setblocking(False)
        try:
            asked.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _cleared(folder: Path) -> bool:
    with suppress(OSError):
        for name in os.listdir(folder):
            (folder / name).unlink()
        folder.rmdir()
        return True
    return False
