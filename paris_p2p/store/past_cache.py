"""Writes past the page cache (O_DIRECT), for large files that are not read again soon.

A downloaded checkpoint would push what training reads out of memory, and filling the page cache costs more
processor time than receiving and hashing it.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path
from typing import BinaryIO

ALIGNMENT_BYTES = 4096  # of offset, length and memory; what disks and file systems in use ask for at most

Buffer = bytes | memoryview


class PastCache:
    """Writes to one file that exists, from several threads."""

    def __init__(self, path: Path):
        self._buffers = threading.local()
        self._descriptor = -1
        if hasattr(os, "O_DIRECT"):
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
            except OSError:  # tmpfs and some network file systems have no such thing
                return

    def write(self, data: Buffer, offset: int) -> bool:
        """Writes, and returns whether all of `data` is on its way to the disk.

        False: it has to be written the common way. OSError for what the common way would raise, too:
        a full disk above all.
        """
        if self._descriptor < 0 or not data or len(data) % ALIGNMENT_BYTES or offset % ALIGNMENT_BYTES:
            return False
        try:
            return os.pwrite(self._descriptor, self._aligned(data), offset) == len(data)
        except OSError as error:
            if error.errno == errno.EINVAL:
                # this disk wants another alignment, or the memory was a map's middle
                return False
            raise

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _aligned(self, data: Buffer) -> memoryview | mmap.mmap:
        """Returns the data itself when it lies in a memory map, which starts at a page.

        Else it is a copy in this thread's own map.
        """
        if isinstance(data, memoryview) and isinstance(data.obj, mmap.mmap):
            return data
        buffer: mmap.mmap | None = getattr(self._buffers, "buffer", None)
        if buffer is None or len(buffer) != len(data):
            buffer = self._buffers.buffer = mmap.mmap(-1, len(data))
        buffer[:] = data
        return buffer


class PastCacheWriter:
    """Writes a file that is open and empty from its beginning on; the last part goes the common way."""

    def __init__(self, file: BinaryIO, buffer_bytes: int = 1 << 20):
        self._descriptor = file.fileno()
        self._past_cache = PastCache(Path(f"/proc/self/fd/{self._descriptor}"))
        self._buffer, self._filled_bytes, self._offset = mmap.mmap(-1, buffer_bytes), 0, 0

    def __enter__(self) -> PastCacheWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._filled_bytes:
                with memoryview(self._buffer) as view:
                    write_all(self._descriptor, view[: self._filled_bytes], self._offset)
        finally:
            self._past_cache.close()
            self._buffer.close()

    def write(self, piece: bytes, /) -> int:
        view = memoryview(piece)
        while view:
            room_bytes = len(self._buffer) - self._filled_bytes
            part, view = view[:room_bytes], view[room_bytes:]
            self._buffer[self._filled_bytes : self._filled_bytes + len(part)] = part
            self._filled_bytes += len(part)
            if self._filled_bytes == len(self._buffer):
                self._flush()
        return len(piece)

    def _flush(self) -> None:
        with memoryview(self._buffer) as view:
            if not self._past_cache.write(view, self._offset):
                write_all(self._descriptor, view, self._offset)
        self._offset += self._filled_bytes
        self._filled_bytes = 0


def write_all(descriptor: int, data: Buffer, offset: int) -> None:
    """Writes as os.pwrite does, which may write less than it was given when the disk fills up."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
