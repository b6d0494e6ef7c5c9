"""A peer's memory of what it signed and knows: small values under names, each written atomically.

An attestor that crashed must still know which card it signed; a restarted peer must still know the tips.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from paris_p2p.errors import StoreError
from paris_p2p.store.disk import explained, sync_directory, write_atomic

_KEY = re.compile(r"[a-z0-9][a-z0-9/_-]{0,199}")


class Ledger:
    """Keys like `attested/expert-0/3/7`; a value is there whole or not at all."""

    def __init__(self, path: Path):
        self.path = path
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: bytes) -> None:
        write_atomic(self._file(key), data)

    def get(self, key: str) -> bytes | None:
        try:
            return self._file(key).read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        with explained(self.path):
            self._file(key).unlink(missing_ok=True)
            sync_directory(self.path)

    def items(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """(key, value) of every key that starts so, in order."""
        for file in sorted(self.path.iterdir()):
            key = unquote(file.name)
            if file.suffix != ".tmp" and key.startswith(prefix) and (data := self.get(key)) is not None:
                yield key, data

    def _file(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise StoreError(f"not a ledger key: {key[:80]!r}")
        return self.path / quote(key, safe="")
