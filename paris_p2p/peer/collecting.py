"""The updates that a lead may merge: fetched side by side as they are heard of, so that none waits for
another.

A maker that drips holds up its own update alone: what is not here when the round is merged waits for the
next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import ParisError
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.update_copies import largest_update_bytes
from paris_p2p.peer.notifier import Notifier
from paris_p2p.records import CardRecord
from paris_p2p.rules.round_checks import crew_batch_clips
from paris_p2p.rules.rounds import HeardUpdate, choose_updates, counted_of, refuse_update, too_many_steps
from paris_p2p.swarm.asking import end_tasks

log = logging.getLogger(__name__)
_AGAIN_S = 3.0  # after an update that could not be had


@dataclass(frozen=True)
class MergePoint:
    """What updates are merged into next: the base's lineage, and what was counted."""

    base: Envelope[CardRecord]
    lineage: Sequence[str]
    counts: Mapping[str, int]
    done: Collection[str] = ()  # updates that were merged or refused in this round's state already


@dataclass
class HeardUpdates:
    """The updates of one look at the board."""

    may_count: list[Envelope[UpdateRecord]] = field(default_factory=list)  # as a round chooses them, by heard
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> (peer, code)


class Collector:
    """Fetches what a round may merge; `close` ends it."""

    def __init__(self, node: RunNode, slot: str, news: Notifier):
        self.node, self.slot, self.news = node, slot, news
        self._fetching: dict[str, asyncio.Task[None]] = {}  # by update

    def look(self, at: MergePoint) -> HeardUpdates:
        """Returns what the board has for the next merge, and fetches what of it is not here."""
        heard = self._sorted(at)
        wanted = {one.id: one for one in heard.may_count if not self.has(one)}
        for update in list(self._fetching):
            if update not in wanted:
                self._fetching.pop(update).cancel()
        for update, one in wanted.items():
            if update not in self._fetching:
                self._fetching[update] = asyncio.create_task(self._fetch(one))
        return heard

    def has(self, update: Envelope[UpdateRecord]) -> bool:
        """Tells whether an update's file is here."""
        return self.node.host.store.has(update.record.blob.id)

    async def close(self) -> None:
        await end_tasks(list(self._fetching.values()))
        self._fetching.clear()

    def _sorted(self, at: MergePoint) -> HeardUpdates:
        node, crew, heard = self.node, self.node.spec.crew, HeardUpdates()
        if crew is None:
            return heard
        batch_clips = crew_batch_clips(node.spec, self.slot)
        limit_bytes = largest_update_bytes(at.base.record.weights.size_bytes, crew)
        candidates, by_id = list[HeardUpdate](), dict[str, Envelope[UpdateRecord]]()
        for one in node.board.updates(self.slot):
            if one.id in at.done:
                continue
            record = one.record
            code: str | None = refuse_update(
                record, at.lineage, counted_of(at.counts, one.signer), batch_clips, crew
            )
            if code is None and too_many_steps(record, self._issued_s(record.base, at)):
                code = "rate"
            if code is None and record.blob.size_bytes > limit_bytes:
                code = "format"
            if code is not None:
                heard.refused[one.id] = one.signer, code
                continue
            by_id[one.id] = one
            candidates.append(HeardUpdate(one.id, one.signer, record, node.board.heard_at(one.id) or 0.0))
        contributed = node.board.contributors(self.slot) | {node.peer_id}
        # its newest that is here, so that one on its way holds back none that came
        here = [one for one in candidates if self.has(by_id[one.id])]
        coming = [one for one in candidates if one not in here]
        members = [one.peer for one in node.board.crew(self.slot, node.peer_id, time.time())]
        chosen = list(choose_updates(here, contributed, crew.peers, members, at.lineage))
        known = [one for one in coming if one.signer in contributed]
        chosen += choose_updates(known, contributed, crew.peers, (), at.lineage)
        # of others no more than a round has room for, or a crowd would fill this disk with what it sends
        room = max(0, crew.peers - len(chosen))
        chosen += choose_updates([one for one in coming if one not in known], (), room, members, at.lineage)
        ranked = sorted(chosen, key=lambda one: (one.heard_s, one.id))
        heard.may_count = [by_id[one.id] for one in ranked]
        return heard

    def _issued_s(self, base: str, at: MergePoint) -> float:
        card = self.node.board.slots[self.slot].cards.get(base)
        return card.record.issued_at if card is not None else at.base.record.issued_at - 1.0

    async def _fetch(self, update: Envelope[UpdateRecord]) -> None:
        while True:
            try:
                await self.node.fetch_update(update)
            except ParisError as error:
                log.info("could not fetch an update of %s yet: %s", self.slot, error)
                await asyncio.sleep(_AGAIN_S)
            else:
                self.news.notify()
                return
