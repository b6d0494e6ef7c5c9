"""A peer's memory of what it signed and knows: small values under names, each written atomically.

An attestor that crashed must still know which card it signed; a restarted peer must still know the tips.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from paris_p2p.disk import explained, make_directory, sweep_temporaries, sync_directory, write_atomic
from paris_p2p.errors import StoreError

_KEY = re.compile(r"[a-z0-9][a-z0-9/_-]{0,199}")
_MAX_NAME_BYTES = 200  # of a file; leaves room for a temporary one's ending


class Ledger:
    """Keeps values under keys like `attested/expert-0/3/7`; each is there whole or not at all."""

    def __init__(self, path: Path):
        self.path = path
        with explained(path):
            make_directory(path)
            sweep_temporaries(path)

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Keeps `data` under `key`; when this returns, a power cut does not lose it, unless others have what
        is not `durable` too.
        """
        file = self._file(key)
        with explained(file):
            # swept when opened: it has a file for each card that was ever signed, and is written often
            write_atomic(file, data, sweep=False, durable=durable)

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
        """Yields (key, value) of every key that starts so, in order.

        Files that have no key's name are passed over.
        """
        for file in sorted(self.path.iterdir()):
            key = unquote(file.name)
            if _KEY.fullmatch(key) and key.startswith(prefix) and (data := self.get(key)) is not None:
                yield key, data

    def _file(self, key: str) -> Path:
        name = quote(key, safe="")
        if not _KEY.fullmatch(key) or len(name) > _MAX_NAME_BYTES:
            raise StoreError(f"not a ledger key: {key[:80]!r}")
        return self.path / name
