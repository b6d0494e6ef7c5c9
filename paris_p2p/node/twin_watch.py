"""A node notices another that runs with its `identity.key`: it signs what this one did not."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.errors import TwinError
from paris_p2p.kinds import SIGNED_KINDS
from paris_p2p.rules.twin import Twin, is_foreign, must_stop
from paris_p2p.store.ledger import Ledger

_MAX_SIGNED = 8192  # of this life, remembered; older ones are not judged


class OwnSignatures:
    """What this node signed since it started, and what it saw under its key that it did not sign."""

    def __init__(self, me: str, ledger: Ledger, started_s: float):
        self.me, self.started_s = me, started_s
        self._began_s = time.monotonic()  # a clock that is set makes an old node no young one
        self.twin: Twin | None = None
        self._before_ms = {key: _mark(data) for key, data in ledger.items("seq/")}
        self._noticed = asyncio.Event()
        self._signed: set[bytes] = set()
        self._order: deque[tuple[float, bytes]] = deque()

    def note(self, envelope: Envelope[Any]) -> None:
        """Notes that this node signed it."""
        self._signed.add(envelope.payload)
        self._order.append((envelope.record.issued_at, envelope.payload))
        if len(self._order) > _MAX_SIGNED:
            self._signed.discard(self._order.popleft()[1])

    def look_at(self, envelope: Envelope[Any]) -> bool:
        """Looks at a record from elsewhere; returns True when another node with this node's key signed it."""
        record = envelope.record
        if envelope.signer != self.me or record.kind not in SIGNED_KINDS or envelope.payload in self._signed:
            return False
        before_ms = self._before_ms.get(f"seq/{record.kind}/{record.slot or 'run'}", 0)
        since_s = self._order[0][0] if len(self._order) >= _MAX_SIGNED else self.started_s
        if not is_foreign(record.issued_at, since_s, before_ms):
            return False
        of = f" of {record.slot}" if record.slot else ""
        first_s = self.twin.first_noticed_s if self.twin else time.time()
        self.twin = Twin(f"a {record.kind} record{of}", record.issued_at, first_s)
        self._noticed.set()
        return True

    async def next_foreign(self) -> None:
        """Waits for a record that another node signed with this key, since the last such wait."""
        await self._noticed.wait()
        self._noticed.clear()

    def check(self) -> None:
        """Raises TwinError when this node is the one to stop."""
        if self.twin is None or not must_stop(self.twin, time.monotonic() - self._began_s):
            return
        at = time.strftime("%H:%M:%S", time.localtime(self.twin.issued_s))
        raise TwinError(
            f"another node runs with this node's identity.key: {self.twin.what}, "
            f"signed at {at} as {self.me}, "
            "was not signed here. Two nodes with one key train one slot twice under one name. "
            "Stop the other one; or move "
            "identity.key out of this node's --data-dir, and it gets a key of its own at the next start"
        )


def _mark(data: bytes) -> int:
    return int(data) if data.isdigit() and len(data) <= 20 else 0
