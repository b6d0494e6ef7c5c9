"""Verified download of blobs from many sources, chunk by chunk, resumable (docs/protocol.md, "Blobs").

Every source has a worker that pulls over two streams, so that one is read while the other's chunk is hashed
and written: a fast source asks more often and for more. A chunk is written only after its hash held; a source
that sends a wrong one, or a wrong manifest, is dropped, charged, and not asked again for an hour. A chunk
that is late is asked of others too, and a source that brings nothing leaves its turn to those that wait:
rules/chunks.py says when.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from paris_p2p.errors import BusyError, ChunkError, ManifestError, MissingBlobError, SwarmError
from paris_p2p.node.blob_sources import SourceLedger
from paris_p2p.records import BlobRef, Manifest
from paris_p2p.rules import chunks as rules
from paris_p2p.rules.chunks import (
    Holdup,
    Source,
    chunks_of,
    gives_way,
    look_again_s,
    may_join_turns,
    next_chunks,
    too_slow,
)
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.partial import PartialBlob
from paris_p2p.swarm.seam import Swarm

log = logging.getLogger(__name__)
MAX_ERRORS = 3
MAX_SOURCES = 8
MAX_MORE_SOURCES = 8  # while none of them has brought a chunk
ROUNDS = 5  # of asking for sources again without a new chunk, before giving up
ROUND_WAIT_S = 1.0
PARALLEL_BLOBS = 3
SILENCE_S = 10.0
STREAMS = 2  # at once from one source
REASK_S = 20.0  # sources that appear during a download are found after this long
WATCH_S = 0.5  # between two looks at who holds a turn, while others wait for one
BUSY_WAIT_S = 0.5  # before a source that serves others is asked again
MAX_BUSY = 40  # times in a row
FLUSH_BYTES = 64 << 20  # written without being brought to the disk

AskSources = Callable[[], Awaitable[Sequence[str]]]


async def fetch_many(
    refs: Sequence[BlobRef],
    sources: AskSources,
    swarm: Swarm,
    store: BlobStore,
    *,
    ledger: SourceLedger,
    progress: Callable[[int], None] | None = None,
    silence_s: float = SILENCE_S,
) -> list[Path]:
    """Local files of all blobs, in order; what is here already costs nothing. `progress` gets the bytes that
    are here so far.

    Raises MissingBlobError when nobody reachable has a blob, ManifestError when a blob has another size than
    its ref says, DiskFullError, ReadOnlyError. What was received stays.
    """
    gate = asyncio.Semaphore(PARALLEL_BLOBS)
    received: dict[str, int] = {}

    async def one(ref: BlobRef) -> Path:
        async with gate, ledger.turn(ref.id):
            path = await _Download(ref, sources, swarm, store, ledger, silence_s, report).run()
        report(ref.id, ref.size_bytes)
        return path

    def report(blob_id: str, count: int) -> None:
        received[blob_id] = count
        if progress is not None:
            progress(sum(received.values()))

    tasks = {ref: asyncio.create_task(one(ref)) for ref in refs}  # a blob named twice is fetched once
    try:
        await asyncio.gather(*tasks.values())
        return [tasks[ref].result() for ref in refs]
    finally:  # the first failure ends the others: what they received stays
        await _end(tasks.values())


async def fetch_blob(
    ref: BlobRef, sources: AskSources, swarm: Swarm, store: BlobStore, *, ledger: SourceLedger, **more: Any
) -> Path:
    """One blob's local file; see fetch_many."""
    return (await fetch_many([ref], sources, swarm, store, ledger=ledger, **more))[0]


class _Download:
    """One blob on its way."""

    def __init__(
        self,
        ref: BlobRef,
        sources: AskSources,
        swarm: Swarm,
        store: BlobStore,
        ledger: SourceLedger,
        silence_s: float,
        report: Callable[[str, int], None],
    ):
        self.ref, self.ask, self.swarm, self.store, self.ledger = ref, sources, swarm, store, ledger
        self.silence_s, self.report = silence_s, report
        self.active: dict[str, Source] = {}
        self.in_flight: dict[int, list[Holdup]] = defaultdict(list)
        # peer with a turn -> when it last brought a chunk, or got its turn
        self.brought_s: dict[str, float] = {}
        self.asked: set[str] = set()
        self.errors: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()  # times in a row that it served others
        self.met_busy = False  # in this round
        self.partial: PartialBlob
        self._changed = asyncio.Event()
        self._turns = asyncio.Semaphore(MAX_SOURCES)
        self._more_turns = 0
        self._flushing: asyncio.Task[None] | None = None
        self._unflushed_bytes = 0

    async def run(self) -> Path:
        if await asyncio.to_thread(self.store.has, self.ref.id):
            return self.store.path(self.ref.id)
        await self._begin()
        try:
            await self._complete()
            if self._flushing is not None:
                await self._flushing
            await asyncio.to_thread(self.partial.finish)
        finally:
            await asyncio.to_thread(self.store.leave, self.ref.id)
        return self.store.path(self.ref.id)

    async def _complete(self) -> None:
        """Every chunk, or MissingBlobError."""
        idle_rounds = 0
        while (before := len(self.partial.missing())) and idle_rounds < ROUNDS:
            if idle_rounds:
                await asyncio.sleep(ROUND_WAIT_S * idle_rounds)
            self.met_busy = False
            await self._round()
            came = len(self.partial.missing()) < before
            idle_rounds = 0 if came or self.met_busy else idle_rounds + 1
        if before:
            raise MissingBlobError(
                f"{before} of {len(self.partial.manifest.chunks)} chunks of blob {self.ref.id[:16]}… are "
                "missing: asked "
                f"{len(self.asked)} peers, none that answers has them; what came is kept, "
                "so try again when more peers are online"
            )

    async def _sources(self) -> list[str]:
        """Peers to ask now: not banned, not given up, each once."""
        try:
            peers = await self.ask()
        except SwarmError as error:  # the network may come back before the rounds are over
            log.debug("no sources for %s: %s", self.ref.id[:16], error)
            return []
        good = [peer for peer in dict.fromkeys(peers) if peer != self.swarm.peer_id and self._trusts(peer)]
        # those that failed make place for others
        return sorted(good, key=self.errors.__getitem__)[: 4 * MAX_SOURCES]

    def _trusts(self, peer: str) -> bool:
        return self.ledger.allows(peer) and self.errors[peer] < MAX_ERRORS

    async def _begin(self) -> None:
        """The manifest, from this disk or the first source whose manifest matches the blob id."""
        data = await asyncio.to_thread(self.store.manifest_bytes, self.ref.id)
        for number in range(ROUNDS):
            if data is not None:
                break
            if number:
                await asyncio.sleep(ROUND_WAIT_S * number)
            data = await self._any_manifest(await self._sources())
        if data is None:
            raise MissingBlobError(
                f"asked {len(self.asked)} peers, nobody reachable has blob {self.ref.id[:16]}…; "
                "try again when more are online"
            )
        _check_chunks(Manifest.from_bytes(data, self.ref.id))
        # A size that is not the manifest's is the fault of whoever named both, not of the source: nobody is
        # charged.
        self.partial = await asyncio.to_thread(self.store.begin, self.ref.id, data, self.ref.size_bytes)

    async def _any_manifest(self, peers: Sequence[str]) -> bytes | None:
        """Asked side by side, so that a silent source holds nobody up; the first good answer ends it."""
        tasks = [asyncio.create_task(self._manifest_of(peer)) for peer in peers]
        try:
            for answer in asyncio.as_completed(tasks):
                if (data := await answer) is not None:
                    return data
            return None
        finally:
            await _end(tasks)

    async def _manifest_of(self, peer: str) -> bytes | None:
        self.asked.add(peer)
        try:
            async with asyncio.timeout(self.silence_s):
                data = await self.swarm.fetch_manifest(peer, self.ref.id)
            Manifest.from_bytes(data, self.ref.id)
            return data
        except ManifestError as error:
            self.ledger.charge(peer, str(error))
        except BusyError:
            self.busy[peer] += 1
        except (SwarmError, MissingBlobError, TimeoutError) as error:
            # an address that is dead should not be tried first again
            self.errors[peer] += isinstance(error, TimeoutError)
            log.debug("no manifest of %s from %s: %s", self.ref.id[:16], peer, error)
        return None

    async def _round(self) -> None:
        """Pull from all sources until nothing is missing or none can give more; whoever then still holds a
        chunk up is left.
        """
        running: dict[asyncio.Task[None], str] = {}
        try:
            while self.partial.missing():
                for peer in await self._sources():
                    if peer not in running.values():
                        self.asked.add(peer)
                        running[asyncio.create_task(self._work(peer))] = peer
                if not running:
                    return
                await self._watch(running, time.monotonic() + REASK_S)
                if not running:
                    return
        finally:
            await _end(running)

    async def _watch(self, running: dict[asyncio.Task[None], str], until_s: float) -> None:
        """Until nobody works any more, nothing is missing, or it is time to ask for sources again."""
        while running and self.partial.missing() and (left_s := until_s - time.monotonic()) > 0:
            crowded = len(running) > MAX_SOURCES
            done, _ = await asyncio.wait(
                running,
                timeout=min(left_s, WATCH_S) if crowded else left_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                del running[task]
                task.result()
            if crowded and not done:
                await self._make_turn(running)

    async def _make_turn(self, running: dict[asyncio.Task[None], str]) -> None:
        """Others wait: of those with a turn, the one that brought nothing for longest leaves, if it is late.

        While nobody brought anything one more comes beside them.
        """
        now_s, chunk_bytes = time.monotonic(), self.partial.manifest.chunk_bytes
        waited_s = max((now_s - since_s for since_s in self.brought_s.values()), default=0.0)
        active = list(self.active.values())
        if self._more_turns < MAX_MORE_SOURCES and may_join_turns(active, chunk_bytes, waited_s):
            self._more_turns += 1
            self._turns.release()
            return
        late = [
            peer
            for peer, since_s in self.brought_s.items()
            if gives_way(
                [other for other in self.active.values() if other.peer != peer], chunk_bytes, now_s - since_s
            )
        ]
        if not late:
            return
        slowest = min(late, key=self.brought_s.__getitem__)
        self.errors[slowest] += 1
        log.debug("source %s brought nothing and leaves its turn to another", slowest)
        for task in [task for task, peer in running.items() if peer == slowest]:
            del running[task]
            await _end([task])

    async def _work(self, peer: str) -> None:
        """Pull from one source until nothing it has is missing, or it fails."""
        count = len(self.partial.manifest.chunks)
        try:
            async with asyncio.timeout(self.silence_s):
                have = chunks_of(await self.swarm.fetch_have(peer, self.ref.id), count)
        except BusyError:
            return await self._wait_for_busy(peer)
        except (SwarmError, MissingBlobError, TimeoutError):
            self.errors[peer] += 1
            return
        async with self._turns:
            self.active[peer] = Source(peer, have)
            self.brought_s[peer] = time.monotonic()
            streams = [asyncio.create_task(self._stream(peer)) for _ in range(STREAMS)]
            try:
                await asyncio.gather(*streams)
            finally:
                await _end(streams)
                del self.active[peer], self.brought_s[peer]
                self._changed.set()

    async def _wait_for_busy(self, peer: str) -> None:
        """A source that serves others is no worse for it: it is asked again a little later."""
        self.met_busy = True
        self.busy[peer] += 1
        if self.busy[peer] >= MAX_BUSY:
            self.busy[peer] = 0
            self.errors[peer] += 1
        await asyncio.sleep(BUSY_WAIT_S)

    async def _stream(self, peer: str) -> None:
        while await self._step(peer):
            pass

    async def _step(self, peer: str) -> bool:
        """Ask a source for its next chunks, or wait for news; False when it is done with."""
        source, missing = self.active[peer], self.partial.missing()
        others = [other for other in self.active.values() if other.peer != peer]
        if not self._trusts(peer) or source.have.isdisjoint(missing) or too_slow(source, others):
            return False
        chunk_bytes, now_s = self.partial.manifest.chunk_bytes, time.monotonic()
        wanted = next_chunks(source, missing, self.in_flight, chunk_bytes, now_s)
        if wanted:
            await self._pull(peer, wanted)
            return True
        self._changed.clear()  # all it has is on its way elsewhere: wait for news, or for one that is late
        try:
            async with asyncio.timeout(look_again_s(source, missing, self.in_flight, chunk_bytes, now_s)):
                await self._changed.wait()
        except TimeoutError:
            pass
        return True

    async def _pull(self, peer: str, wanted: Sequence[int]) -> None:
        hold, left = Holdup(peer, time.monotonic()), set(wanted)
        for index in wanted:
            self.in_flight[index].append(hold)
        try:
            stream = self.swarm.fetch_chunks(
                peer,
                self.ref.id,
                wanted,
                silence_s=self.silence_s,
                max_chunk_bytes=self.partial.manifest.chunk_bytes,
            )
            async with aclosing(stream) as chunks:
                async for index, data in chunks:
                    if index not in left:
                        raise ChunkError(f"chunk {index} of blob {self.ref.id[:16]}… was sent unasked")
                    await asyncio.to_thread(self.partial.write_chunk, index, data)
                    left.discard(index)
                    self.in_flight[index].remove(hold)
                    self._came(hold, len(data))
                    self._flush_behind(len(data))
            self.busy[peer] = 0
            got = len(left) < len(wanted)
            self.errors[peer] = 0 if got else self.errors[peer] + 1  # it said that it has them, and sent none
            source = self.active[peer]
            # what it left out is not asked of it again this round
            self.active[peer] = replace(source, have=source.have - left)
        except ChunkError as error:
            self.ledger.charge(peer, str(error))
        except BusyError:
            self._let_go(hold, left)
            await self._wait_for_busy(peer)
        except (SwarmError, MissingBlobError) as error:
            self.errors[peer] += 1
            log.debug("source %s: %s", peer, error)
        finally:
            self._let_go(hold, left)
            self._measure(hold, 0)
            self._note()

    def _let_go(self, hold: Holdup, left: set[int]) -> None:
        for index in left:
            if hold in self.in_flight[index]:
                self.in_flight[index].remove(hold)

    def _came(self, hold: Holdup, count_bytes: int) -> None:
        """A chunk that was right."""
        self._measure(hold, count_bytes)
        self.brought_s[hold.peer] = hold.since_s
        self.ledger.credit(hold.peer)
        self._note()

    def _measure(self, hold: Holdup, count_bytes: int) -> None:
        """A source's rate is known while its request still runs."""
        now_s, source = time.monotonic(), self.active[hold.peer]
        busy_s = source.busy_s + now_s - hold.since_s
        self.active[hold.peer] = replace(
            source, received_bytes=source.received_bytes + count_bytes, busy_s=busy_s
        )
        hold.since_s = now_s

    def _flush_behind(self, count_bytes: int) -> None:
        """Bring what came to the disk while the next comes, so that the end has little left to wait for."""
        self._unflushed_bytes += count_bytes
        if self._unflushed_bytes >= FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._unflushed_bytes = 0
            self._flushing = asyncio.create_task(asyncio.to_thread(self.partial.flush))

    def _note(self) -> None:
        self._changed.set()
        self.report(
            self.ref.id, min(self.ref.size_bytes, self.partial.count * self.partial.manifest.chunk_bytes)
        )


def _check_chunks(manifest: Manifest) -> None:
    """ManifestError for a blob in more pieces than its size is worth: each costs both ends a request's
    work.
    """
    if len(manifest.chunks) > 1 and manifest.chunk_bytes < rules.LEAST_CHUNK_BYTES:
        raise ManifestError(
            f"blob {manifest.blob_id[:16]}… comes in {len(manifest.chunks)} chunks of "
            f"{manifest.chunk_bytes} bytes, "
            f"{rules.LEAST_CHUNK_BYTES} are the least; it is not fetched"
        )


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and wait until it has let go of its stream."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
