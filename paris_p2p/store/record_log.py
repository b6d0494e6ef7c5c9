"""A file that grows by one entry at a time; each has a checksum, so that damage costs the entries it hit.

It is no ledger: what is lost by a power cut is asked of other peers again.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from paris_p2p.disk import explained, make_directory, write_atomic

log = logging.getLogger(__name__)
_MARK = b"\xf1PH1"
_HEAD = struct.Struct(">4sI8s")  # mark, bytes of the entry, the beginning of its BLAKE3
_MAX_ENTRY_BYTES = 1 << 20
_WINDOW_BYTES = 4 << 20  # read at once


class RecordLog:
    """Keeps entries in the order they came; several may read it while one process appends."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[bytes]:
        """Returns the entries that are whole; what lies between them is passed over, and left as it is."""
        return list(self.entries())

    def entries(self) -> Iterator[bytes]:
        """Yields them one by one, so that of a long file a few megabytes are in memory at once."""
        try:
            with self.path.open("rb") as file:
                yield from self._entries(file)
        except FileNotFoundError:
            return

    def _entries(self, file: BinaryIO) -> Iterator[bytes]:
        data, at, lost, is_over = b"", 0, 0, False
        while True:
            start = data.find(_MARK, at)
            if not is_over and (start < 0 or len(data) - start < _HEAD.size + _MAX_ENTRY_BYTES):
                stays = start if start >= 0 else max(at, len(data) - len(_MARK) + 1)
                more = file.read(_WINDOW_BYTES)
                data, at, lost, is_over = data[stays:] + more, 0, lost + stays - at, not more
                continue
            if start < 0:
                break
            lost += start - at
            entry = _entry(data, start)
            if entry is None:
                at, lost = start + len(_MARK), lost + len(_MARK)
                continue
            yield entry
            at = start + _HEAD.size + len(entry)
        lost += len(data) - at
        if lost:
            log.info("%d bytes of %s are damaged and passed over; other peers have them", lost, self.path)

    def append(self, entry: bytes) -> None:
        """Adds an entry in one write; StoreError and its kin where the disk takes none."""
        with explained(self.path):
            make_directory(self.path.parent)
            with self.path.open("ab", buffering=0) as file:
                file.write(_framed(entry))

    def replace(self, entries: Iterable[bytes]) -> None:
        """Puts these entries in the place of all."""
        with explained(self.path):
            make_directory(self.path.parent)
            write_atomic(self.path, b"".join(_framed(entry) for entry in entries), durable=False)

    def size_bytes(self) -> int:
        """Returns what the file takes on disk; 0 where there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0


def _framed(entry: bytes) -> bytes:
    return _HEAD.pack(_MARK, len(entry), blake3(entry).digest()[:8]) + entry


def _entry(data: bytes, start: int) -> bytes | None:
    if start + _HEAD.size > len(data):
        return None
    _, size_bytes, check = _HEAD.unpack_from(data, start)
    if size_bytes > _MAX_ENTRY_BYTES:
        return None
    entry = data[start + _HEAD.size : start + _HEAD.size + size_bytes]
    is_whole = len(entry) == size_bytes
    return entry if is_whole and blake3(entry).digest()[:8] == check else None
