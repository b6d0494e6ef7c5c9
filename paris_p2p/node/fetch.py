"""Verified download of blobs from many sources, chunk by chunk, resumable (DESIGN: blobs).

Every source has a worker that pulls: a fast one asks more often and for more. A chunk is written only after its hash
held; a source that sends a wrong one, or a wrong manifest, is dropped, charged, and not asked again for an hour.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from paris_p2p.errors import ChunkError, ManifestError, MissingBlobError, SwarmError
from paris_p2p.records import BlobRef
from paris_p2p.rules.chunks import Source, chunks_of, next_chunks, too_slow
from paris_p2p.store.blobs import BlobStore, PartialBlob
from paris_p2p.swarm.seam import Swarm

log = logging.getLogger(__name__)
BAN_S = 3600.0
MAX_ERRORS = 3
MAX_SOURCES = 8
ROUNDS = 5  # of asking for sources again, when those there were are used up
ROUND_WAIT_S = 1.0
PARALLEL_BLOBS = 3
SILENCE_S = 10.0

AskSources = Callable[[], Awaitable[Sequence[str]]]


@dataclass
class SourceLedger:
    """Who lied, and until when they are not asked; shared by all downloads of a peer."""

    banned_until: dict[str, float] = field(default_factory=dict)  # monotonic
    charged: Counter[str] = field(default_factory=Counter)  # "peer: what" -> times

    def charge(self, peer: str, what: str) -> None:
        self.banned_until[peer] = time.monotonic() + BAN_S
        self.charged[f"{peer[-8:]}: {what}"] += 1
        log.warning("dropped source %s: %s", peer, what)

    def allows(self, peer: str) -> bool:
        return self.banned_until.get(peer, 0.0) <= time.monotonic()


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
    """Local files of all blobs, in order; what is here already costs nothing. `progress` gets the bytes received so far.

    Raises MissingBlobError when nobody reachable has a blob, DiskFullError, ReadOnlyError. What was received stays.
    """
    gate = asyncio.Semaphore(PARALLEL_BLOBS)
    received: dict[str, int] = {}

    async def one(ref: BlobRef) -> Path:
        async with gate:
            return await _Download(ref, sources, swarm, store, ledger, silence_s, report).run()

    def report(blob_id: str, count: int) -> None:
        received[blob_id] = count
        if progress is not None:
            progress(sum(received.values()))

    tasks = [asyncio.create_task(one(ref)) for ref in refs]
    try:
        return await asyncio.gather(*tasks)
    finally:  # the first failure ends the others: what they received stays
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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

    async def run(self) -> Path:
        if await asyncio.to_thread(self.store.has, self.ref.id):
            return self.store.path(self.ref.id)
        await self._begin()
        for number in range(ROUNDS):
            before = len(self.partial.missing())
            if not before:
                break
            peers = [peer for peer in await self.ask() if self.ledger.allows(peer) and self.errors[peer] < MAX_ERRORS]
            self.asked.update(peers)
            await self._round(peers[: 4 * MAX_SOURCES])
            if self.partial.missing() and len(self.partial.missing()) == before:
                await asyncio.sleep(ROUND_WAIT_S * (number + 1))
        missing = self.partial.missing()
        if missing:
            raise MissingBlobError(
                f"{len(missing)} of {len(self.partial.manifest.chunks)} chunks of blob {self.ref.id[:16]}… are missing: asked "
                f"{len(self.asked)} peers, none that answers has them; what came is kept, so try again when more peers are online"
            )
        await asyncio.to_thread(self.partial.finish)
        return self.store.path(self.ref.id)

    async def _begin(self) -> None:
        """The manifest, from this disk or the first source whose manifest matches the blob id and size."""
        known = self.store.manifest_bytes(self.ref.id)
        if known is not None:
            self.partial = await asyncio.to_thread(self.store.begin, self.ref.id, known, self.ref.size_bytes)
            return
        for number in range(ROUNDS):
            for peer in await self.ask():
                if not self.ledger.allows(peer):
                    continue
                self.asked.add(peer)
                try:
                    data = await self.swarm.fetch_manifest(peer, self.ref.id)
                    self.partial = await asyncio.to_thread(self.store.begin, self.ref.id, data, self.ref.size_bytes)
                    return
                except ManifestError as error:
                    self.ledger.charge(peer, str(error))
                except (SwarmError, MissingBlobError) as error:
                    log.debug("no manifest of %s from %s: %s", self.ref.id[:16], peer, error)
            await asyncio.sleep(ROUND_WAIT_S * (number + 1))
        raise MissingBlobError(
            f"asked {len(self.asked)} peers, nobody reachable has blob {self.ref.id[:16]}…; try again when more are online"
        )

    async def _round(self, peers: Sequence[str]) -> None:
        async with asyncio.TaskGroup() as group:
            for peer in peers:
                group.create_task(self._work(peer))

    async def _work(self, peer: str) -> None:
        """Pull from one source until nothing it has is missing, or it fails."""
        try:
            have = chunks_of(await self.swarm.fetch_have(peer, self.ref.id), len(self.partial.manifest.chunks))
        except (SwarmError, MissingBlobError):
            self.errors[peer] += 1
            return
        if not have or len(self.active) >= MAX_SOURCES:
            return
        self.active[peer] = Source(peer, have)
        try:
            while self.ledger.allows(peer) and self.errors[peer] < MAX_ERRORS:
                source = self.active[peer]
                missing = self.partial.missing()
                if not missing or too_slow(source, [other for other in self.active.values() if other.peer != peer]):
                    return
                wanted = next_chunks(source, missing, self.in_flight, self.partial.manifest.chunk_bytes)
                if wanted:
                    await self._pull(peer, wanted)
                elif not any(index in have for index in missing):
                    return
                else:
                    self._changed.clear()  # all it has is on its way elsewhere, twice: wait for news
                    await self._changed.wait()
        finally:
            del self.active[peer]
            self._changed.set()

    async def _pull(self, peer: str, wanted: Sequence[int]) -> None:
        for index in wanted:
            self.in_flight[index].add(peer)
        started, got = time.monotonic(), 0
        try:
            stream = self.swarm.fetch_chunks(
                peer, self.ref.id, wanted, silence_s=self.silence_s, max_chunk_bytes=self.partial.manifest.chunk_bytes
            )
            async with aclosing(cast("Any", stream)) as chunks:
                async for index, data in chunks:
                    await asyncio.to_thread(self.partial.write_chunk, index, data)
                    got += len(data)
                    self.in_flight[index].discard(peer)
                    self._note()
            if not got:  # it said that it has them, and sent none
                self.errors[peer] += 1
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

    def _note(self) -> None:
        self._changed.set()
        self.report(self.ref.id, min(self.ref.size_bytes, self.partial.count * self.partial.manifest.chunk_bytes))
