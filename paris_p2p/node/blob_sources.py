"""What this peer knows of others as sources of blobs: who lied, who sent good chunks, and which downloads are
under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

log = logging.getLogger(__name__)
BAN_S = 3600.0
MAX_BANS = 4096


@dataclass
class SourceLedger:
    """Who lied, and until when they are not asked; shared by all downloads of a peer."""

    banned_until: dict[str, float] = field(default_factory=dict)  # monotonic
    charged: Counter[str] = field(default_factory=Counter)  # "peer: what" -> times
    _proved: OrderedDict[str, None] = field(default_factory=OrderedDict, repr=False)  # the latest last
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(
        default_factory=WeakValueDictionary, repr=False
    )  # by blob id

    def charge(self, peer: str, what: str) -> None:
        if not self.allows(peer):  # its other streams had lies on their way too
            return
        for full in (self.banned_until, self.charged):
            if len(full) >= MAX_BANS:  # made-up peers without number cannot fill the memory
                del full[next(iter(full))]
        self.banned_until[peer] = time.monotonic() + BAN_S
        self.charged[f"{peer[-8:]}: {what}"] += 1
        log.warning("dropped source %s: %s", peer, what)

    def credit(self, peer: str) -> None:
        """It sent a chunk that was right: that costs more than a name."""
        self._proved.pop(peer, None)
        self._proved[peer] = None
        if len(self._proved) > MAX_BANS:
            self._proved.popitem(last=False)

    def proved(self, peer: str) -> bool:
        return peer in self._proved

    def allows(self, peer: str) -> bool:
        return self.banned_until.get(peer, 0.0) <= time.monotonic()

    def turn(self, blob_id: str) -> asyncio.Lock:
        """One download of a blob at a time; whoever comes second finds it here."""
        lock = self._turns.get(blob_id) or asyncio.Lock()
        self._turns[blob_id] = lock
        return lock
