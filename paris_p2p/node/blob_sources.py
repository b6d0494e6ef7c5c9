"""Other peers as sources of blobs: who lied and who sent good chunks, over all downloads and in one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from paris_p2p.errors import SwarmError

log = logging.getLogger(__name__)
_BAN_S = 3600.0
_MAX_BANS = 4096
_MAX_ERRORS = 3
_MAX_BUSY = 40  # times in a row
MAX_TURNS = 8  # sources that are pulled from at once

AskSources = Callable[[], Awaitable[Sequence[str]]]


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
        """Notes a lie: the peer is not asked again for a while."""
        if not self.allows(peer):  # its other streams had lies on their way too
            return
        for full in (self.banned_until, self.charged):
            if len(full) >= _MAX_BANS:  # made-up peers without number cannot fill the memory
                del full[next(iter(full))]
        self.banned_until[peer] = time.monotonic() + _BAN_S
        self.charged[f"{peer[-8:]}: {what}"] += 1
        log.warning("dropped source %s: %s", peer, what)

    def credit(self, peer: str) -> None:
        """Notes a chunk that was right: that costs more than a name."""
        self._proved.pop(peer, None)
        self._proved[peer] = None
        if len(self._proved) > _MAX_BANS:
            self._proved.popitem(last=False)

    def proved(self, peer: str) -> bool:
        return peer in self._proved

    def allows(self, peer: str) -> bool:
        return self.banned_until.get(peer, 0.0) <= time.monotonic()

    def turn(self, blob_id: str) -> asyncio.Lock:
        """Returns the lock that lets one download of a blob run at a time; the second finds the blob here."""
        lock = self._turns.get(blob_id) or asyncio.Lock()
        self._turns[blob_id] = lock
        return lock


class DownloadSources:
    """The sources of one download: whom to ask now, and who failed, or served others, so far."""

    def __init__(self, ask: AskSources, me: str, ledger: SourceLedger):
        self.ask, self.me, self.ledger = ask, me, ledger
        self.asked: set[str] = set()
        self.is_busy = False  # whether one that serves others was met, since this was last set
        self._errors: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()  # times in a row that it served others

    async def now(self) -> list[str]:
        """Returns the peers to ask now: not banned, not given up, each once, those that failed last."""
        try:
            peers = await self.ask()
        except SwarmError as error:  # the network may come back before the rounds are over
            log.debug("no sources: %s", error)
            return []
        good = [peer for peer in dict.fromkeys(peers) if peer != self.me and self.trusts(peer)]
        return sorted(good, key=self._errors.__getitem__)[: 4 * MAX_TURNS]

    def trusts(self, peer: str) -> bool:
        return self.ledger.allows(peer) and self._errors[peer] < _MAX_ERRORS

    def failed(self, peer: str) -> None:
        self._errors[peer] += 1

    def answered(self, peer: str, *, brought: bool) -> None:
        """Notes the end of an answer; one that brought nothing is an error, for it said that it has some."""
        self._busy[peer] = 0
        self._errors[peer] = 0 if brought else self._errors[peer] + 1

    def serves_others(self, peer: str) -> None:
        """Notes that a source serves others; too often in a row counts as an error."""
        self.is_busy = True
        self._busy[peer] += 1
        if self._busy[peer] >= _MAX_BUSY:
            self._busy[peer] = 0
            self._errors[peer] += 1
