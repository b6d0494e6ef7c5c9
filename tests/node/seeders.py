"""Seeders for tests of fetching: honest, lying, silent, slow or leaving ones, each counting what it was
asked for.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from paris_p2p.errors import MissingBlobError, UnreachableError
from paris_p2p.identity import Identity
from paris_p2p.records import BlobRef, Manifest
from paris_p2p.swarm.fake import FakeNetwork, FakeSwarm
from paris_p2p.swarm.seam import MAX_CHUNK_BYTES, SILENCE_S

CHUNK_BYTES = 1000


@dataclass
class Blob:
    """Bytes with the manifest of their small chunks."""

    data: bytes
    chunk_bytes: int = CHUNK_BYTES
    manifest: Manifest = field(init=False)

    def __post_init__(self) -> None:
        chunks = tuple(
            blake3(self.chunk(index)).digest() for index in range(-(-len(self.data) // self.chunk_bytes))
        )
        self.manifest = Manifest(size_bytes=len(self.data), chunk_bytes=self.chunk_bytes, chunks=chunks)

    @property
    def ref(self) -> BlobRef:
        return BlobRef(id=self.manifest.blob_id, size_bytes=len(self.data))

    @property
    def count(self) -> int:
        return len(self.manifest.chunks)

    def chunk(self, index: int) -> bytes:
        return self.data[index * self.chunk_bytes : (index + 1) * self.chunk_bytes]


def made_blob(chunks: int, rng_seed: int = 0) -> Blob:
    return Blob(random.Random(rng_seed).randbytes(chunks * CHUNK_BYTES - 123))


def resized(manifest: bytes) -> bytes:
    """The manifest with another size in it, as a liar who wants room on our disk would send it."""
    return (
        struct.pack(">16sQI", *struct.unpack_from(">16sQI", manifest)[:1], 1 << 40, 1 << 20) + manifest[28:]
    )


@dataclass
class Seeder:
    """What one peer has and how it behaves; the fields are changed by tests."""

    blob: Blob
    have: frozenset[int]
    wrong: frozenset[int] = frozenset()
    alter_manifest: Callable[[bytes], bytes] = lambda data: data
    silent: bool = False  # takes requests and never answers
    leaves_after: int | None = None  # chunks
    omits: frozenset[int] = frozenset()  # says that it has them, sends none
    sends_unasked: bool = False
    turns: int = 0  # of the event loop that a chunk takes: slowness without a clock
    asked: Counter[int] = field(default_factory=Counter)
    served: Counter[int] = field(default_factory=Counter)
    manifests: int = 0
    peer: str = ""


class SeededSwarm(FakeSwarm):
    """A FakeSwarm whose blob calls are answered by Seeders; everything else is the fake's."""

    def __init__(self, network: FakeNetwork, identity: Identity):
        super().__init__(network, identity.peer_id, None, 0.0)
        network.swarms[identity.peer_id] = self
        self.seeders: dict[str, Seeder] = {}
        self.most_at_once = 0
        self._busy: set[str] = set()

    def add(self, seeder: Seeder) -> Seeder:
        seeder.peer = Identity.generate().peer_id
        self.seeders[seeder.peer] = seeder
        return seeder

    async def sources(self) -> list[str]:
        return list(self.seeders)

    async def fetch_manifest(self, peer: str, blob_id: str) -> bytes:
        seeder = self._seeder(peer)
        seeder.manifests += 1
        if seeder.silent:
            await asyncio.Event().wait()
        if blob_id != seeder.blob.ref.id:
            raise MissingBlobError(f"no blob {blob_id[:16]}")
        return seeder.alter_manifest(seeder.blob.manifest.to_bytes())

    async def fetch_have(self, peer: str, blob_id: str) -> bytes:
        seeder = self._seeder(peer)
        if blob_id != seeder.blob.ref.id:
            return b""
        bits = sum(1 << index for index in seeder.have)
        return bits.to_bytes(-(-seeder.blob.count // 8) + 1, "little")

    async def fetch_chunks(
        self,
        peer: str,
        blob_id: str,
        indexes: Sequence[int],
        *,
        silence_s: float = SILENCE_S,
        max_chunk_bytes: int = MAX_CHUNK_BYTES,
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        seeder = self._seeder(peer)
        seeder.asked.update(indexes)
        self._busy.add(peer)
        self.most_at_once = max(self.most_at_once, len(self._busy))
        try:
            for index in indexes:
                if seeder.silent:
                    await self._silence(peer, silence_s)
                for _ in range(seeder.turns):
                    await asyncio.sleep(0)
                if seeder.leaves_after is not None and seeder.served.total() >= seeder.leaves_after:
                    raise UnreachableError(f"peer {peer} left")
                if index in seeder.omits or index not in seeder.have:
                    continue
                seeder.served[index] += 1
                sent = (index + 1) % seeder.blob.count if seeder.sends_unasked else index
                yield sent, b"a lie" if index in seeder.wrong else seeder.blob.chunk(sent)
        finally:
            self._busy.discard(peer)

    async def _silence(self, peer: str, silence_s: float) -> None:
        try:
            async with asyncio.timeout(silence_s):
                await asyncio.Event().wait()
        except TimeoutError as error:
            raise UnreachableError(f"peer {peer} was silent for {silence_s:g} s") from error

    def _seeder(self, peer: str) -> Seeder:
        seeder = self.seeders.get(peer)
        if seeder is None or (
            seeder.leaves_after is not None and seeder.served.total() >= seeder.leaves_after
        ):
            raise UnreachableError(f"peer {peer} cannot be reached")
        return seeder


def honest(blob: Blob, **more: object) -> Seeder:
    return Seeder(blob, frozenset(range(blob.count)), **more)  # type: ignore[arg-type]
