"""Verified download of blobs from many sources, chunk by chunk, resumable (DESIGN: blobs).

Every source has a worker that pulls over two streams, so that one is read while the other's chunk is hashed and written: a
fast source asks more often and for more. A chunk is written only after its hash held; a source that sends a wrong one, or a
wrong manifest, is dropped, charged, and not asked again for an hour.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from paris_p2p.errors import ChunkError, ManifestError, MissingBlobError, SwarmError
from paris_p2p.records import BlobRef, Manifest
from paris_p2p.rules.chunks import Source, chunks_of, next_chunks, too_slow
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.partial import PartialBlob
from paris_p2p.swarm.seam import Swarm

log = logging.getLogger(__name__)
BAN_S = 3600.0
MAX_ERRORS = 3
MAX_SOURCES = 8
ROUNDS = 5  # of asking for sources again without a new chunk, before giving up
MAX_BANS = 4096
ROUND_WAIT_S = 1.0
PARALLEL_BLOBS = 3
SILENCE_S = 10.0
STREAMS = 2  # at once from one source
REASK_S = 20.0  # sources that appear during a download are found after this long
FLUSH_BYTES = 64 << 20  # written without being brought to the disk

AskSources = Callable[[], Awaitable[Sequence[str]]]


@dataclass
class SourceLedger:
    """Who lied, and until when they are not asked; shared by all downloads of a peer."""

    banned_until: dict[str, float] = field(default_factory=dict)  # monotonic
    charged: Counter[str] = field(default_factory=Counter)  # "peer: what" -> times
    _proved: OrderedDict[str, None] = field(default_factory=OrderedDict, repr=False)  # the latest last
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary, repr=False)  # by blob id

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
    """Local files of all blobs, in order; what is here already costs nothing. `progress` gets the bytes that are here so far.

    Raises MissingBlobError when nobody reachable has a blob, ManifestError when a blob has another size than its ref says,
    DiskFullError, ReadOnlyError. What was received stays.
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


async def fetch_blob(ref: BlobRef, sources: AskSources, swarm: Swarm, store: BlobStore, *, ledger: SourceLedger, **more: Any) -> Path:
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
        self.in_flight: dict[int, set[str]] = defaultdict(set)
        self.asked: set[str] = set()
        self.errors: Counter[str] = Counter()
        self.partial: PartialBlob
        self._changed = asyncio.Event()
        self._turns = asyncio.Semaphore(MAX_SOURCES)
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
            self.partial.close()
        return self.store.path(self.ref.id)

    async def _complete(self) -> None:
        """Every chunk, or MissingBlobError."""
        idle_rounds = 0
        while (before := len(self.partial.missing())) and idle_rounds < ROUNDS:
            if idle_rounds:
                await asyncio.sleep(ROUND_WAIT_S * idle_rounds)
            await self._round()
            idle_rounds = idle_rounds + 1 if len(self.partial.missing()) == before else 0
        if before:
            raise MissingBlobError(
                f"{before} of {len(self.partial.manifest.chunks)} chunks of blob {self.ref.id[:16]}… are missing: asked "
                f"{len(self.asked)} peers, none that answers has them; what came is kept, so try again when more peers are online"
            )

    async def _sources(self) -> list[str]:
        """Peers to ask now: not banned, not given up, each once."""
        try:
            peers = await self.ask()
        except SwarmError as error:  # the network may come back before the rounds are over
            log.debug("no sources for %s: %s", self.ref.id[:16], error)
            return []
        good = [peer for peer in dict.fromkeys(peers) if peer != self.swarm.peer_id and self._trusts(peer)][: 4 * MAX_SOURCES]
        return good

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
                f"asked {len(self.asked)} peers, nobody reachable has blob {self.ref.id[:16]}…; try again when more are online"
            )
        # A size that is not the manifest's is the fault of whoever named both, not of the source: nobody is charged.
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
        async with self._turns:
            self.asked.add(peer)
            try:
                async with asyncio.timeout(self.silence_s):
                    data = await self.swarm.fetch_manifest(peer, self.ref.id)
                Manifest.from_bytes(data, self.ref.id)
                return data
            except ManifestError as error:
                self.ledger.charge(peer, str(error))
            except (SwarmError, MissingBlobError, TimeoutError) as error:
                log.debug("no manifest of %s from %s: %s", self.ref.id[:16], peer, error)
            return None

    async def _round(self) -> None:
        """Pull from all sources until nothing is missing or none can give more; whoever then still holds a chunk up is left."""
        running: dict[asyncio.Task[None], str] = {}
        try:
            while self.partial.missing():
                for peer in await self._sources():
                    if peer not in running.values():
                        self.asked.add(peer)
                        running[asyncio.create_task(self._work(peer))] = peer
                if not running:
                    return
                until = time.monotonic() + REASK_S
                while running and self.partial.missing() and (left_s := until - time.monotonic()) > 0:
                    done, _ = await asyncio.wait(running, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        del running[task]
                        task.result()
                if not running:
                    return
        finally:
            await _end(running)

    async def _work(self, peer: str) -> None:
        """Pull from one source until nothing it has is missing, or it fails."""
        async with self._turns:
            try:
                async with asyncio.timeout(self.silence_s):
                    have = chunks_of(await self.swarm.fetch_have(peer, self.ref.id), len(self.partial.manifest.chunks))
            except (SwarmError, MissingBlobError, TimeoutError):
                self.errors[peer] += 1
                return
            self.active[peer] = Source(peer, have)
            streams = [asyncio.create_task(self._stream(peer)) for _ in range(STREAMS)]
            try:
                await asyncio.gather(*streams)
            finally:
                await _end(streams)
                del self.active[peer]
                self._changed.set()

    async def _stream(self, peer: str) -> None:
        while await self._step(peer):
            pass

    async def _step(self, peer: str) -> bool:
        """Ask a source for its next chunks, or wait for news; False when it is done with."""
        source, missing = self.active[peer], self.partial.missing()
        others = [other for other in self.active.values() if other.peer != peer]
        if not self._trusts(peer) or source.have.isdisjoint(missing) or too_slow(source, others):
            return False
        wanted = next_chunks(source, missing, self.in_flight, self.partial.manifest.chunk_bytes)
        if wanted:
            await self._pull(peer, wanted)
        else:
            self._changed.clear()  # all it has is on its way elsewhere, twice: wait for news
            await self._changed.wait()
        return True

    async def _pull(self, peer: str, wanted: Sequence[int]) -> None:
        for index in wanted:
            self.in_flight[index].add(peer)
        started, left, got = time.monotonic(), set(wanted), 0
        try:
            stream = self.swarm.fetch_chunks(
                peer, self.ref.id, wanted, silence_s=self.silence_s, max_chunk_bytes=self.partial.manifest.chunk_bytes
            )
            async with aclosing(stream) as chunks:
                async for index, data in chunks:
                    if index not in left:
                        raise ChunkError(f"chunk {index} of blob {self.ref.id[:16]}… was sent unasked")
                    await asyncio.to_thread(self.partial.write_chunk, index, data)
                    left.discard(index)
                    got += len(data)
                    self.in_flight[index].discard(peer)
                    self._note()
                    self._flush_behind(len(data))
            self.errors[peer] = 0 if got else self.errors[peer] + 1  # it said that it has them, and sent none
            source = self.active[peer]
            self.active[peer] = replace(source, have=source.have - left)  # what it left out is not asked of it again this round
        except ChunkError as error:
            self.ledger.charge(peer, str(error))
        except (SwarmError, MissingBlobError) as error:
            self.errors[peer] += 1
            log.debug("source %s: %s", peer, error)
        finally:
            for index in wanted:
                self.in_flight[index].discard(peer)
            source = self.active[peer]
            spent = time.monotonic() - started
            self.active[peer] = replace(source, received_bytes=source.received_bytes + got, busy_s=source.busy_s + spent)
            self._note()

    def _flush_behind(self, count_bytes: int) -> None:
        """Bring what came to the disk while the next comes, so that the end has little left to wait for."""
        self._unflushed_bytes += count_bytes
        if self._unflushed_bytes >= FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._unflushed_bytes = 0
            self._flushing = asyncio.create_task(asyncio.to_thread(self.partial.flush))

    def _note(self) -> None:
        self._changed.set()
        self.report(self.ref.id, min(self.ref.size_bytes, self.partial.count * self.partial.manifest.chunk_bytes))


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and wait until it has let go of its stream."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
