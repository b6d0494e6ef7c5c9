"""What a board keeps of one slot's crew: who works there, and the updates that a round may merge.

Peer ids cost nothing, so nothing here counts peers. What stays is what a stranger cannot make: the records of
those whose updates were merged, of those that the owner named, and of this node. Of strangers those stay that
were heard first, and none for longer than its record holds or its base is one of the last cards.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from paris_p2p.crew_records import UpdateRecord, WorkerRecord
from paris_p2p.envelope import Envelope
from paris_p2p.rules.crews import is_working
from paris_p2p.rules.run_state import RunState
from paris_p2p.spec import TimingSpec

MAX_UPDATES = 256  # kept per slot, of at most 2 KiB each
MAX_OF_A_SIGNER = 3  # updates, its newest
MAX_WORKERS = 256  # kept per slot
_CUT = 32  # that go at once where there are too many: one more costs little, however many come
_SWEEP_S = 10.0  # between two looks for what is stale, but for when the tip moves
_UNKNOWN_INTERVALS = 8.0  # checkpoint intervals that an update waits for its base to be heard of

WithPart = Callable[[Iterable[str]], frozenset[str]]  # of peers, those with a part that strangers cannot take


@dataclass(frozen=True)
class Lineage:
    """The cards that an update may start from, and those that it may not any more."""

    recent: tuple[str, ...] = ()  # the tip and those before it, the newest first
    overtaken: Collection[str] = ()  # known cards that are not after the tip


@dataclass
class CrewShelf:
    """One slot's verified updates and workers."""

    # by envelope id, in the order they came
    updates: OrderedDict[str, Envelope[UpdateRecord]] = field(default_factory=OrderedDict)
    heard_s: dict[str, float] = field(default_factory=dict)  # when each update came (Unix time), by its id
    blobs: Counter[str] = field(default_factory=Counter)  # how many updates name a blob, by its id
    workers: OrderedDict[str, Envelope[WorkerRecord]] = field(default_factory=OrderedDict)  # by signer
    # since when each worker is heard here without a break (Unix time), by signer
    since_s: dict[str, float] = field(default_factory=dict)
    contributed: frozenset[str] = frozenset()  # whose updates were merged in the last rounds
    _swept_s: float = 0.0  # when it was last looked for what is stale

    def keep_update(
        self,
        envelope: Envelope[UpdateRecord],
        lineage: Lineage,
        now_s: float,
        timing: TimingSpec,
        parts: WithPart,
    ) -> bool:
        """Keeps a verified update unless it is stale, or others go first; returns True when it was new."""
        if envelope.id in self.updates:
            return False
        self.updates[envelope.id] = envelope
        self.heard_s[envelope.id] = now_s
        self.blobs[envelope.record.blob.id] += 1
        if abs(now_s - self._swept_s) >= _SWEEP_S or self._is_stale(envelope, lineage, now_s, timing):
            self.drop_stale(lineage, now_s, timing)
        of_signer = [one for one in self.updates.values() if one.signer == envelope.signer]
        for one in sorted(of_signer, key=lambda one: (one.record.seq, one.id))[:-MAX_OF_A_SIGNER]:
            self._forget(one.id)
        if len(self.updates) > MAX_UPDATES:
            stay = self._stay(parts)

            def worth(id: str) -> tuple[bool, bool]:
                one = self.updates[id]
                return one.signer in stay, one.record.base in lineage.recent

            newest_first = list(reversed(self.updates))
            for id in sorted(newest_first, key=worth)[: len(self.updates) - MAX_UPDATES + _CUT]:
                self._forget(id)
        return envelope.id in self.updates

    def keep_worker(
        self,
        envelope: Envelope[WorkerRecord],
        now_s: float,
        timing: TimingSpec,
        parts: WithPart,
    ) -> bool:
        """Keeps a verified worker's record if it is its signer's newest; returns True when it was new."""
        signer, known = envelope.signer, self.workers.get(envelope.signer)
        if known is not None and known.record.seq >= envelope.record.seq:
            return False
        goes_on = (
            known is not None
            and known.record.joined_at == envelope.record.joined_at
            and is_working(known, now_s, timing)
        )
        self.workers[signer] = envelope
        if not goes_on:
            self.workers.move_to_end(signer)  # one that came between is first
            self.since_s[signer] = now_s
        if len(self.workers) > MAX_WORKERS:
            stay = self._stay(parts)

            def worth(peer: str) -> tuple[bool, bool, bool]:
                one = self.workers[peer]
                live = is_working(one, now_s, timing)
                return live and peer in stay, live, one.record.expires_at > now_s

            newest_first = list(reversed(self.workers))
            for peer in sorted(newest_first, key=worth)[: len(self.workers) - MAX_WORKERS + _CUT]:
                del self.workers[peer], self.since_s[peer]
        return signer in self.workers

    def drop_stale(self, lineage: Lineage, now_s: float, timing: TimingSpec) -> None:
        """Drops updates that no round can merge any more: they ran out, their base was overtaken, or it was
        not heard of for long.
        """
        self._swept_s = now_s
        for one in list(self.updates.values()):
            if self._is_stale(one, lineage, now_s, timing):
                self._forget(one.id)

    def drop_void(self, state: RunState) -> None:
        """Drops what does not count any more by the owner's word."""
        for id in [id for id, one in self.updates.items() if not state.counts(one)]:
            self._forget(id)
        for peer in [peer for peer, one in self.workers.items() if not state.counts(one)]:
            del self.workers[peer], self.since_s[peer]

    def _is_stale(
        self, one: Envelope[UpdateRecord], lineage: Lineage, now_s: float, timing: TimingSpec
    ) -> bool:
        base, wait_s = one.record.base, _UNKNOWN_INTERVALS * timing.checkpoint_s
        is_lost = base not in lineage.recent and now_s - self.heard_s[one.id] > wait_s
        return one.record.expires_at <= now_s or base in lineage.overtaken or is_lost

    def _stay(self, parts: WithPart) -> frozenset[str]:
        """Returns whose records stay where there are too many."""
        signers = {one.signer for one in self.updates.values()}
        return self.contributed | parts(signers | self.workers.keys())

    def _forget(self, id: str) -> None:
        blob_id = self.updates[id].record.blob.id
        del self.updates[id], self.heard_s[id]
        self.blobs[blob_id] -= 1
        if not self.blobs[blob_id]:
            del self.blobs[blob_id]
