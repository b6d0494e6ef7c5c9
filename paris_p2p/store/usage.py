"""Counts the bytes a store takes on disk once, and keeps the count, so that asking costs nothing.

What lies beside it and counts as its own, such as opened copies of sealed blobs, is told and not looked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path


class Usage:
    """Holds the allocated bytes of each blob; what other processes change is seen at the next start."""

    def __init__(self, files_of: Callable[[str], Iterable[Path]], all_ids: Callable[[], Iterable[str]]):
        self._files_of, self._all_ids = files_of, all_ids
        self._lock = threading.Lock()
        self._bytes: dict[str, int] | None = None
        self._total_bytes = 0
        self._beside_bytes = 0

    def total_bytes(self) -> int:
        with self._lock:
            self._counted()
            return self._total_bytes + self._beside_bytes

    def add_beside(self, size_bytes: int) -> None:
        """Counts so many bytes more, or fewer, that lie elsewhere on this disk."""
        with self._lock:
            self._beside_bytes += size_bytes

    def recount(self, blob_id: str) -> None:
        """Looks at one blob's files again."""
        with self._lock:
            sizes = self._counted()
            now = self._measure(blob_id)
            self._total_bytes += now - sizes.pop(blob_id, 0)
            if now:
                sizes[blob_id] = now

    def _counted(self) -> dict[str, int]:
        if self._bytes is None:
            self._bytes = {blob_id: self._measure(blob_id) for blob_id in self._all_ids()}
            self._total_bytes = sum(self._bytes.values())
        return self._bytes

    def _measure(self, blob_id: str) -> int:
        total = 0
        for file in self._files_of(blob_id):
            with suppress(FileNotFoundError):
                total += file.stat().st_blocks * 512
        return total
