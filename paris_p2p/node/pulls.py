"""The chunks of one blob on their way: every source with a turn pulls over two streams, so that one is read
while the other's chunk is hashed and written, and a fast source asks more often and for more.

    until nothing is missing, or no source can give more:
        give a turn to as many sources as there are turns
        with a turn:  ask for the next chunks, or wait for news, or for a chunk that is late
        others wait:  the source that brought nothing for longest leaves its turn

What to ask for, and who is late, is decided in rules/chunks.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from paris_p2p.errors import BusyError, ChunkError, MissingBlobError, SwarmError
from paris_p2p.node.blob_sources import MAX_TURNS, DownloadSources
from paris_p2p.rules.chunks import (
    Holdup,
    MeasuredSource,
    chunks_of,
    gives_turn_away,
    look_again_s,
    may_join_turns,
    next_chunks,
    too_slow,
)
from paris_p2p.store.partial import PartialBlob
from paris_p2p.swarm.asking import end_tasks
from paris_p2p.swarm.seam import Swarm

log = logging.getLogger(__name__)
_MAX_MORE_TURNS = 8  # while no source has brought a chunk
_STREAMS = 2  # at once from one source
_REASK_S = 20.0  # sources that appear during a download are found after this long
_WATCH_S = 0.5  # between two looks at who holds a turn, while others wait for one
_BUSY_WAIT_S = 0.5  # before a source that serves others is asked again
_FLUSH_BYTES = 64 << 20  # written without being brought to the disk


class Pulls:
    """Pulls one blob's chunks; `came` is called after each, with the number that is here."""

    def __init__(
        self,
        partial: PartialBlob,
        sources: DownloadSources,
        swarm: Swarm,
        silence_s: float,
        came: Callable[[int], None],
    ):
        self.partial, self.sources, self.swarm = partial, sources, swarm
        self.silence_s, self.came = silence_s, came
        self._active: dict[str, MeasuredSource] = {}  # those with a turn
        self._brought_s: dict[str, float] = {}  # when they last brought a chunk, or got their turn
        self._in_flight: dict[int, list[Holdup]] = defaultdict(list)
        self._changed = asyncio.Event()
        self._turns = asyncio.Semaphore(MAX_TURNS)
        self._more_turns = 0
        self._flushing: asyncio.Task[None] | None = None
        self._unflushed_bytes = 0

    async def round(self) -> None:
        """Pulls from all sources until nothing is missing or none can give more; a source that still holds a
        chunk up then is left.
        """
        running: dict[asyncio.Task[None], str] = {}
        try:
            while self.partial.missing():
                for peer in await self.sources.now():
                    if peer not in running.values():
                        self.sources.asked.add(peer)
                        running[asyncio.create_task(self._work(peer))] = peer
                if not running:
                    return
                await self._watch(running, time.monotonic() + _REASK_S)
                if not running:
                    return
        finally:
            await end_tasks(running)

    async def flushed(self) -> None:
        """Waits for what is being brought to the disk."""
        if self._flushing is not None:
            await self._flushing

    async def _watch(self, running: dict[asyncio.Task[None], str], until_s: float) -> None:
        """Waits until nobody works any more, nothing is missing, or it is time to ask for sources again."""
        while running and self.partial.missing() and (left_s := until_s - time.monotonic()) > 0:
            crowded = len(running) > MAX_TURNS
            done, _ = await asyncio.wait(
                running,
                timeout=min(left_s, _WATCH_S) if crowded else left_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                del running[task]
                task.result()
            if crowded and not done:
                await self._make_turn(running)

    async def _make_turn(self, running: dict[asyncio.Task[None], str]) -> None:
        """Makes room for a source that waits: of those with a turn, the one that brought nothing for longest
        leaves, if it is late. While nobody brought anything one more comes beside them.
        """
        now_s, chunk_bytes = time.monotonic(), self._chunk_bytes
        waited_s = max((now_s - since_s for since_s in self._brought_s.values()), default=0.0)
        active = list(self._active.values())
        if self._more_turns < _MAX_MORE_TURNS and may_join_turns(active, chunk_bytes, waited_s):
            self._more_turns += 1
            self._turns.release()
            return
        late = [
            peer
            for peer, since_s in self._brought_s.items()
            if gives_turn_away(self._others(peer), chunk_bytes, now_s - since_s)
        ]
        if not late:
            return
        slowest = min(late, key=self._brought_s.__getitem__)
        self.sources.failed(slowest)
        log.debug("source %s brought nothing and leaves its turn to another", slowest)
        for task in [task for task, peer in running.items() if peer == slowest]:
            del running[task]
            await end_tasks([task])

    async def _work(self, peer: str) -> None:
        """Pulls from one source until nothing it has is missing, or it fails."""
        count = len(self.partial.manifest.chunks)
        try:
            async with asyncio.timeout(self.silence_s):
                have = chunks_of(await self.swarm.fetch_have(peer, self.partial.blob_id), count)
        except BusyError:
            return await self._wait_for_busy(peer)
        except (SwarmError, MissingBlobError, TimeoutError):
            self.sources.failed(peer)
            return
        async with self._turns:
            self._active[peer] = MeasuredSource(peer, have)
            self._brought_s[peer] = time.monotonic()
            streams = [asyncio.create_task(self._stream(peer)) for _ in range(_STREAMS)]
            try:
                await asyncio.gather(*streams)
            finally:
                await end_tasks(streams)
                del self._active[peer], self._brought_s[peer]
                self._changed.set()

    async def _wait_for_busy(self, peer: str) -> None:
        """Waits for a source that serves others; it is no worse for it."""
        self.sources.serves_others(peer)
        await asyncio.sleep(_BUSY_WAIT_S)

    async def _stream(self, peer: str) -> None:
        while await self._step(peer):
            pass

    async def _step(self, peer: str) -> bool:
        """Asks a source for its next chunks, or waits for news; returns False when it is done with."""
        source, missing = self._active[peer], self.partial.missing()
        if (
            not self.sources.trusts(peer)
            or source.have.isdisjoint(missing)
            or too_slow(source, self._others(peer))
        ):
            return False
        chunk_bytes, now_s = self._chunk_bytes, time.monotonic()
        wanted = next_chunks(source, missing, self._in_flight, chunk_bytes, now_s)
        if wanted:
            await self._pull(peer, wanted)
            return True
        self._changed.clear()  # all it has is on its way elsewhere: wait for news, or for one that is late
        try:
            async with asyncio.timeout(look_again_s(source, missing, self._in_flight, chunk_bytes, now_s)):
                await self._changed.wait()
        except TimeoutError:
            pass
        return True

    async def _pull(self, peer: str, wanted: Sequence[int]) -> None:
        hold, left = Holdup(peer, time.monotonic()), set(wanted)
        for index in wanted:
            self._in_flight[index].append(hold)
        try:
            await self._receive(hold, wanted, left)
            self.sources.answered(peer, brought=len(left) < len(wanted))
            source = self._active[peer]
            # what it left out is not asked of it again this round
            self._active[peer] = replace(source, have=source.have - left)
        except ChunkError as error:
            self.sources.ledger.charge(peer, str(error))
        except BusyError:
            self._let_go(hold, left)
            await self._wait_for_busy(peer)
        except (SwarmError, MissingBlobError) as error:
            self.sources.failed(peer)
            log.debug("source %s: %s", peer, error)
        finally:
            self._let_go(hold, left)
            self._measure(hold, 0)
            self._note()

    async def _receive(self, hold: Holdup, wanted: Sequence[int], left: set[int]) -> None:
        """Writes what a source sends; what came is taken out of `left`."""
        blob_id, chunk_bytes = self.partial.blob_id, self._chunk_bytes
        stream = self.swarm.fetch_chunks(
            hold.peer, blob_id, wanted, silence_s=self.silence_s, max_chunk_bytes=chunk_bytes
        )
        async with aclosing(stream) as chunks:
            async for index, data in chunks:
                if index not in left:
                    raise ChunkError(f"chunk {index} of blob {blob_id[:16]}… was sent unasked")
                await asyncio.to_thread(self.partial.write_chunk, index, data)
                left.discard(index)
                self._in_flight[index].remove(hold)
                self._came(hold, len(data))
                self._flush_behind(len(data))

    @property
    def _chunk_bytes(self) -> int:
        return self.partial.manifest.chunk_bytes

    def _others(self, peer: str) -> list[MeasuredSource]:
        return [other for other in self._active.values() if other.peer != peer]

    def _let_go(self, hold: Holdup, left: set[int]) -> None:
        for index in left:
            if hold in self._in_flight[index]:
                self._in_flight[index].remove(hold)

    def _came(self, hold: Holdup, count_bytes: int) -> None:
        """Notes a chunk that was right."""
        self._measure(hold, count_bytes)
        self._brought_s[hold.peer] = hold.since_s
        self.sources.ledger.credit(hold.peer)
        self._note()

    def _measure(self, hold: Holdup, count_bytes: int) -> None:
        """Measures a source's rate while its request still runs."""
        now_s, source = time.monotonic(), self._active[hold.peer]
        busy_s = source.busy_s + now_s - hold.since_s
        self._active[hold.peer] = replace(
            source, received_bytes=source.received_bytes + count_bytes, busy_s=busy_s
        )
        hold.since_s = now_s

    def _flush_behind(self, count_bytes: int) -> None:
        """Brings what came to the disk while the next comes, so that the end has little left to wait for."""
        self._unflushed_bytes += count_bytes
        if self._unflushed_bytes >= _FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._unflushed_bytes = 0
            self._flushing = asyncio.create_task(asyncio.to_thread(self.partial.flush))

    def _note(self) -> None:
        self._changed.set()
        self.came(self.partial.count)
