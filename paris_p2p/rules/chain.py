"""The chain of an owner's notices: numbered, each naming the one before (docs/protocol.md, "Notices").

Peers keep the longest chain that they know. Two notices of one number are a contradiction of the owner's own
making: the peer stops there, keeps what it has, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from paris_p2p.envelope import Envelope
from paris_p2p.errors import SignatureError
from paris_p2p.owner_records import NoticeRecord

MAX_WAITING = 512  # notices whose predecessors have not come yet
Notice = Envelope[NoticeRecord]


@dataclass(frozen=True)
class Chain:
    """Holds the notices 1 … n of a run, and what came out of order."""

    run: str
    owner: str  # peer-id form of the owner's key
    notices: tuple[Notice, ...] = ()
    fork: tuple[Notice, Notice] | None = None
    waiting: Mapping[int, Notice] = field(default_factory=dict)  # by number

    @property
    def number(self) -> int:
        return len(self.notices)

    @property
    def head(self) -> str:
        """Returns what the next notice must name as the one before."""
        return self.notices[-1].id if self.notices else self.run

    def add(self, notice: Notice) -> Chain:
        """Returns the chain with a verified notice; the same chain when that tells nothing new.

        SignatureError when it is not the owner's.
        """
        if notice.signer != self.owner or notice.record.run != self.run:
            raise SignatureError(
                f"notice {notice.record.seq} is signed by {notice.signer}, "
                f"and the run's owner is {self.owner}; it is ignored"
            )
        number = notice.record.seq
        if self.fork is not None:
            return self
        if number <= self.number:
            held = self.notices[number - 1]
            return self if held.id == notice.id else replace(self, fork=(held, notice))
        if number > self.number + 1:
            return self._wait(notice)
        if notice.record.previous != self.head:
            return replace(self, fork=(self.notices[-1], notice)) if self.notices else self
        longer = replace(self, notices=(*self.notices, notice))
        return longer._take_waiting()

    def missing_below(self) -> int:
        """Returns the number of the first notice that is missing before one that is known; 0 for none."""
        return self.number + 1 if self.waiting else 0

    def _wait(self, notice: Notice) -> Chain:
        known = self.waiting.get(notice.record.seq)
        if known is not None:
            return self if known.id == notice.id else replace(self, fork=(known, notice))
        if len(self.waiting) >= MAX_WAITING:
            return self
        return replace(self, waiting={**self.waiting, notice.record.seq: notice})

    def _take_waiting(self) -> Chain:
        chain = self
        while (notice := chain.waiting.get(chain.number + 1)) is not None and chain.fork is None:
            rest = {number: one for number, one in chain.waiting.items() if number != notice.record.seq}
            chain = replace(chain, waiting=rest)
            if notice.record.previous == chain.head:
                chain = replace(chain, notices=(*chain.notices, notice))
            else:
                chain = replace(chain, fork=(chain.notices[-1], notice))
        return chain


def whose_fault(fork: tuple[Notice, Notice]) -> str:
    """Returns what a person is told of a fork."""
    one, other = sorted(fork, key=lambda notice: (notice.record.seq, notice.id))
    return (
        "the run's owner contradicts itself: "
        f"notice {one.record.seq} ({one.record.change.act}, {one.id[:16]}…) and "
        f"notice {other.record.seq} ({other.record.change.act}, {other.id[:16]}…) do not follow one another; "
        "this peer rests and keeps what it has; ask the owner, who must make a new run"
    )
