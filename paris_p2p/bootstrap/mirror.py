"""One run on a bootstrap node: its data and its tips are copied as they come, kept fresh and announced."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from paris_p2p.bootstrap.forgotten import end_heard_s
from paris_p2p.crew_records import UpdateRecord
from paris_p2p.envelope import Envelope
from paris_p2p.errors import DiskFullError, ParisError, SwarmError
from paris_p2p.node.copies import Copies
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.run_records import HOLDER_LIFETIME_S
from paris_p2p.node.update_copies import updates_wanted

log = logging.getLogger(__name__)
T = TypeVar("T")
Fetch = Callable[[], Coroutine[Any, Any, object]]
_PAUSE_S = 1.0  # from news to a look at a run: more may come, and others fetch what was overtaken
_AGAIN_S = 3.0  # after what could not be had, or a fault
_LEAST_REFRESH_S = 3.0
REFRESHED_AT_ONCE = 8  # of all runs: strangers make runs of many slots that ask for a reading every second
_MOST_REFRESH_S = 60.0  # gossip is a hint: a card told while its maker was cut off is only on the board


class FullDisk:
    """Says once that there is no room, until something fits again; shared by all runs of a node."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self._is_full = say, False

    def found_room(self) -> None:
        self._is_full = False

    def refused(self, error: DiskFullError) -> None:
        if not self._is_full:
            self.say(f"not mirroring more: {error}")
        self._is_full = True


class Mirror:
    """Mirrors one run until cancelled; `known` is told how many slots have a tip, and when it
    was heard that the run's owner ended it (Unix time; None while it goes on). All runs of a node read the
    bulletin board in turns.
    """

    def __init__(
        self,
        node: RunNode,
        disk: FullDisk,
        turns: asyncio.Semaphore,
        known: Callable[[int, float | None], None],
    ):
        self.node, self.disk, self.turns, self.known = node, disk, turns, known
        self._copies = Copies(node.disk_news.set)
        self._announced_s: dict[str, float] = {}  # monotonic, by what is held; "peer": this node's presence

    async def run(self) -> None:
        """Looks at the run with each news of it, and when something is due. Raises TwinError when this node
        is to stop beside another with its key.
        """
        works = self._watch_twin(), self._keep_looking(), self._keep_fresh()
        tasks = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # it ended, so it raised
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._copies.close()

    async def _watch_twin(self) -> None:
        while True:
            self.node.own.check()
            await self.node.own.next_foreign()

    async def _keep_looking(self) -> None:
        news = self.node.disk_news
        while True:
            news.clear()
            if (wait_s := await self._or_say(self._look())) is None:
                wait_s = _AGAIN_S
            try:
                async with asyncio.timeout(wait_s):
                    await news.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(_PAUSE_S)

    async def _keep_fresh(self) -> None:
        every_s = max(_LEAST_REFRESH_S, min(_MOST_REFRESH_S, self.node.spec.timing.checkpoint_s))
        while True:
            async with self.turns:
                await self._or_say(self.node.refresh())
            await asyncio.sleep(every_s)

    async def _or_say(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Does a part of the mirroring; its fault, or a full disk, ends neither this node nor other runs."""
        try:
            return await work
        except SwarmError as error:
            log.info("the swarm does not answer about %s: %s", self.node.run[:16], error)
        except ParisError as error:
            log.warning("run %s… was not mirrored this time: %s", self.node.run[:16], error)
        except Exception:
            log.exception("run %s could not be mirrored this time", self.node.run)
        return None

    async def _look(self) -> float:
        """Copies what is missing of the data and the tips, and tells what is due; returns the seconds until
        something is due again.
        """
        node = self.node
        slots = node.state.slots_ever  # of an expert that was dropped the last tip stays, too
        tips = [(slot, tip) for slot in slots if (tip := node.board.tip(slot)) is not None]
        self.known(len(tips), end_heard_s(node.ledger, node.state))
        missing = [ref for ref in node.spec.data_blobs if not node.host.store.has(ref.id)]
        fetch_data = partial(node.fetch, missing, node.run)
        due_s = [self._want("data", node.run, fetch_data, whole=not missing)]
        for slot, tip in tips:
            whole = node.rounds.is_whole(tip.card.record)
            due_s.append(self._want(slot, tip.card.id, partial(node.fetch_card, tip.card), whole=whole))
            node.keep_good(tip.card.record)
            for update in updates_wanted(node.board, slot):
                if not node.host.store.has(update.record.blob.id):
                    copy = partial(self._hold_update, update)
                    self._copies.want(f"{slot}/{update.signer}", update.id, copy)
        await node.forget_superseded()
        return min(*due_s, await self._announce_presence())

    def _want(self, name: str, what: str, fetch: Fetch, *, whole: bool) -> float:
        """Begins to copy what is not `whole` here, or to announce it, where that is due; returns the seconds
        until it is.
        """
        left_s = self._left_s(what, HOLDER_LIFETIME_S / 3)
        if left_s > 0 and whole:
            return left_s
        self._copies.want(name, what, partial(self._hold, what, fetch, whole=whole))
        return HOLDER_LIFETIME_S / 3  # its end is news

    async def _hold(self, what: str, fetch: Fetch, *, whole: bool) -> None:
        if whole or await self._fetched(what, fetch):
            try:
                await self.node.announce_holding(what)
                self._announced_s[what] = time.monotonic()
            except ParisError as error:
                log.info("could not announce %s: %s", what[:16], error)
                await asyncio.sleep(_AGAIN_S)

    async def _hold_update(self, update: Envelope[UpdateRecord]) -> None:
        """Copies an update, which nobody announces: peers that need it ask those they are connected with."""
        await self._fetched(update.id, partial(self.node.fetch_update, update))

    async def _fetched(self, what: str, fetch: Fetch) -> bool:
        """Fetches what is missing here; waits a while where that fails."""
        try:
            await fetch()
            self.disk.found_room()
            return True
        except DiskFullError as error:
            self.disk.refused(error)
        except ParisError as error:
            log.info("could not copy %s: %s", what[:16], error)
        await asyncio.sleep(_AGAIN_S)
        return False

    async def _announce_presence(self) -> float:
        if (left_s := self._left_s("peer", HOLDER_LIFETIME_S / 6)) > 0:
            return left_s
        await self.node.announce_peer("bootstrap")
        self._announced_s["peer"] = time.monotonic()
        return HOLDER_LIFETIME_S / 6

    def _left_s(self, what: str, every_s: float) -> float:
        return self._announced_s.get(what, -math.inf) + every_s - time.monotonic()
