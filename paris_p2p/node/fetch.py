"""Blobs are downloaded from many sources, verified chunk by chunk, and resumed (docs/protocol.md, "Blobs").

A chunk is written only after its hash held; a source that sends a wrong one, or a wrong manifest, is dropped,
charged, and not asked again for an hour. A chunk that is late is asked of others too, and a source that
brings nothing leaves its turn to those that wait (pulls.py, rules/chunks.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.errors import BusyError, ManifestError, MissingBlobError, SwarmError
from paris_p2p.node.blob_sources import AskSources, DownloadSources, SourceLedger
from paris_p2p.node.pulls import Pulls
from paris_p2p.records import BlobRef, Manifest
from paris_p2p.rules import chunks as rules
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.partial import PartialBlob
from paris_p2p.swarm.asking import end_tasks
from paris_p2p.swarm.seam import SILENCE_S, Swarm

log = logging.getLogger(__name__)
_ROUNDS = 5  # of asking for sources again without a new chunk, before giving up
_ROUND_WAIT_S = 1.0
_BLOBS_AT_ONCE = 3


@dataclass(frozen=True)
class Fetcher:
    """Fetches blobs over a swarm into a store; `ledger` is shared by all downloads of a peer."""

    swarm: Swarm
    store: BlobStore
    ledger: SourceLedger
    silence_s: float = SILENCE_S

    async def many(
        self,
        refs: Sequence[BlobRef],
        sources: AskSources,
        progress: Callable[[int], None] | None = None,
    ) -> list[Path]:
        """Returns local files of all blobs, in order; what is here already costs nothing. `progress` gets the
        bytes that are here so far.

        Raises MissingBlobError when nobody reachable has a blob, ManifestError when a blob has another size
        than its ref says, DiskFullError, ReadOnlyError. What was received stays.
        """
        gate = asyncio.Semaphore(_BLOBS_AT_ONCE)
        received: dict[str, int] = {}

        async def one(ref: BlobRef) -> Path:
            async with gate, self.ledger.turn(ref.id):
                path = await _Download(ref, sources, self, report).run()
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
            await end_tasks(tasks.values())

    async def one(
        self, ref: BlobRef, sources: AskSources, progress: Callable[[int], None] | None = None
    ) -> Path:
        """Returns one blob's local file, as `many` does."""
        return (await self.many([ref], sources, progress))[0]


class _Download:
    """One blob on its way."""

    def __init__(self, ref: BlobRef, ask: AskSources, fetcher: Fetcher, report: Callable[[str, int], None]):
        self.ref, self.fetcher, self.report = ref, fetcher, report
        self.swarm, self.store = fetcher.swarm, fetcher.store
        self.sources = DownloadSources(ask, self.swarm.peer_id, fetcher.ledger)

    async def run(self) -> Path:
        if await asyncio.to_thread(self.store.has, self.ref.id):
            return self.store.path(self.ref.id)
        partial = await self._begin()
        try:
            await self._complete(partial)
            await asyncio.to_thread(partial.finish)
        finally:
            await asyncio.to_thread(self.store.leave, self.ref.id)
        return self.store.path(self.ref.id)

    async def _begin(self) -> PartialBlob:
        """Returns a download that knows its manifest, from this disk or from the first source whose manifest
        matches the blob id.
        """
        data = await asyncio.to_thread(self.store.manifest_bytes, self.ref.id)
        for number in range(_ROUNDS):
            if data is not None:
                break
            if number:
                await asyncio.sleep(_ROUND_WAIT_S * number)
            data = await self._any_manifest(await self.sources.now())
        if data is None:
            raise MissingBlobError(
                f"asked {len(self.sources.asked)} peers, nobody reachable has blob {self.ref.id[:16]}…; "
                "try again when more are online"
            )
        _check_chunks(Manifest.from_bytes(data, self.ref.id))
        # A size that is not the manifest's is the fault of the peer that named both, not of the source:
        # nobody is charged.
        return await asyncio.to_thread(self.store.begin, self.ref.id, data, self.ref.size_bytes)

    async def _complete(self, partial: PartialBlob) -> None:
        """Fetches every chunk, or raises MissingBlobError."""
        chunk_bytes, size_bytes = partial.manifest.chunk_bytes, self.ref.size_bytes

        def came(count: int) -> None:
            self.report(self.ref.id, min(size_bytes, count * chunk_bytes))

        pulls, idle_rounds = Pulls(partial, self.sources, self.swarm, self.fetcher.silence_s, came), 0
        while (before := len(partial.missing())) and idle_rounds < _ROUNDS:
            if idle_rounds:
                await asyncio.sleep(_ROUND_WAIT_S * idle_rounds)
            self.sources.is_busy = False
            await pulls.round()
            has_come = len(partial.missing()) < before
            idle_rounds = 0 if has_come or self.sources.is_busy else idle_rounds + 1
        if before:
            raise MissingBlobError(
                f"{before} of {len(partial.manifest.chunks)} chunks of blob {self.ref.id[:16]}… are "
                f"missing: asked {len(self.sources.asked)} peers, none that answers has them; "
                "what came is kept, so try again when more peers are online"
            )
        await pulls.flushed()

    async def _any_manifest(self, peers: Sequence[str]) -> bytes | None:
        """Asks side by side, so that a silent source holds nobody up; the first good answer ends it."""
        tasks = [asyncio.create_task(self._manifest_of(peer)) for peer in peers]
        try:
            for answer in asyncio.as_completed(tasks):
                if (data := await answer) is not None:
                    return data
            return None
        finally:
            await end_tasks(tasks)

    async def _manifest_of(self, peer: str) -> bytes | None:
        self.sources.asked.add(peer)
        try:
            async with asyncio.timeout(self.fetcher.silence_s):
                data = await self.swarm.fetch_manifest(peer, self.ref.id)
            Manifest.from_bytes(data, self.ref.id)
            return data
        except ManifestError as error:
            self.fetcher.ledger.charge(peer, str(error))
        except BusyError:
            self.sources.serves_others(peer)
        except TimeoutError:
            self.sources.failed(peer)  # an address that is dead should not be tried first again
        except (SwarmError, MissingBlobError) as error:
            log.debug("no manifest of %s from %s: %s", self.ref.id[:16], peer, error)
        return None


def _check_chunks(manifest: Manifest) -> None:
    """Raises ManifestError for a blob in more pieces than its size is worth: each costs both ends a request's
    work.
    """
    if len(manifest.chunks) > 1 and manifest.chunk_bytes < rules.LEAST_CHUNK_BYTES:
        raise ManifestError(
            f"blob {manifest.blob_id[:16]}… comes in {len(manifest.chunks)} chunks of "
            f"{manifest.chunk_bytes} bytes, {rules.LEAST_CHUNK_BYTES} are the least; it is not fetched"
        )
