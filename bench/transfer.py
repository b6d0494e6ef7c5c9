"""Measures how fast a checkpoint comes over loopback: one seeder and a bare stream, then three limited
seeders.

    python bench/transfer.py [--mb 512] [--rounds 3] [--private]

Every peer is a process with its own p2pd. The bare stream runs between the same two daemons in the same run,
bytes from memory, thrown away on arrival. The checkpoint comes from the seeder's disk and ends verified in
the asker's store. `--private` measures sealed blobs beside plain ones instead (sealed_transfer.py).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from paris_p2p.errors import MissingBlobError
from paris_p2p.identity import Identity
from paris_p2p.node.blob_sources import SourceLedger
from paris_p2p.node.fetch import Fetcher
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import BlobRef
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.p2pd import close_stream
from paris_p2p.swarm.real import RealSwarm, open_swarm
from paris_p2p.swarm.straight import StraightReader

BARE = "/paris/bench-bare/1"
PIECE = bytes(1 << 20)
SEEDER_LIMIT_BPS = 20e6


@dataclass
class Seeds:
    """Serves a store to everybody."""

    store: BlobStore

    def shown_to(self, peer: str, action: str, run: str, thing: str, /) -> Seeds:
        return self

    def knows(self, peer: str, /) -> bool:
        return False

    def tells_where(self) -> bool:
        return True

    async def converse(self, action: str, run: str, body: bytes, /) -> None:
        return None

    def spec(self, run_id: str, /) -> bytes | None:
        return None

    def records(self, key: str, /) -> list[bytes]:
        return []

    def manifest_bytes(self, blob_id: str, /) -> bytes | None:
        return self.store.manifest_bytes(blob_id)

    def have(self, blob_id: str, /) -> bytes:
        return self.store.have(blob_id)

    def read_chunk(self, blob_id: str, index: int, room: memoryview | None = None, /) -> bytes | memoryview:
        return self.store.read_chunk(blob_id, index, room)


async def seed(folder: Path, checkpoint: Path, upload_bytes_per_s: float) -> None:
    """Runs a seeder's process: it prints where it is and what it has, and serves until its input ends."""
    store = BlobStore(folder / "blobs")
    ref = store.add_file(checkpoint)
    settings = PeerSettings(data_dir=folder, host="127.0.0.1", upload_limit_bytes_per_s=upload_bytes_per_s)
    async with open_swarm(Identity.generate(), settings, source=Seeds(store)) as swarm:
        await _serve_bare(swarm)
        print(swarm.addresses()[0], ref.id, ref.size_bytes, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def _serve_bare(swarm: RealSwarm) -> None:
    async def send(
        peer: str, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for _ in range(int.from_bytes(await reader.readexactly(4), "big")):
            writer.write(PIECE)
            await writer.drain()
        await reader.read(1)
        await close_stream(writer)

    link: Any = await swarm._keeper.current()
    await link.control.handle_streams(BARE, link.daemon.folder / "bare.sock", send)


async def bare_mb_per_s(swarm: RealSwarm, peer: str, count_mb: int) -> float:
    control = await swarm._keeper.control()
    _, writer, _ = await control.open_stream(peer, BARE, 10)
    # Into one place, as chunks are: StreamReader's memory, new for each piece or not as malloc likes, would
    # double the time.
    reader, room = (
        StraightReader(cast(asyncio.Transport, writer.transport)),
        memoryview(bytearray(len(PIECE))),
    )
    started = time.perf_counter()
    writer.write(count_mb.to_bytes(4, "big"))
    for _ in range(count_mb):
        await reader.fill(room)
    spent_s = time.perf_counter() - started
    await close_stream(writer)
    return count_mb * len(PIECE) / spent_s / 1e6


async def fetched_mb_per_s(swarm: RealSwarm, peers: list[str], ref: BlobRef, folder: Path) -> float:
    """Measures a fetch, until the blob is verified, on disk and synced."""

    async def sources() -> list[str]:
        return peers

    store = BlobStore(folder)
    started = time.perf_counter()
    path = await Fetcher(swarm, store, SourceLedger()).one(ref, sources)
    spent_s = time.perf_counter() - started
    if path.stat().st_size != ref.size_bytes:
        raise MissingBlobError(f"{path} has {path.stat().st_size} bytes, not {ref.size_bytes}")
    store.delete(ref.id)
    return ref.size_bytes / spent_s / 1e6


class Seeder:
    """Holds a seeder's process, as its parent sees it."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, ref: BlobRef):
        self.process, self.address, self.ref = process, address, ref
        self.peer_id = address.rsplit("/", 1)[-1]

    @classmethod
    async def start(cls, folder: Path, checkpoint: Path, upload_bytes_per_s: float) -> Seeder:
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--seed", str(folder), str(checkpoint), str(upload_bytes_per_s),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        address, blob_id, size = (await _stdout(process).readline()).decode().split()
        return cls(process, address, BlobRef(id=blob_id, size_bytes=int(size)))

    async def stop(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self.process.wait()


def _stdout(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise RuntimeError("the seeder has no standard output")
    return process.stdout


async def measure(folder: Path, count_mb: int, rounds: int) -> bool:
    checkpoint = folder / "checkpoint.bin"
    with checkpoint.open("wb") as file:
        for _ in range(count_mb):
            file.write(os.urandom(1 << 20))
    return await _one_seeder(folder, checkpoint, count_mb, rounds) & await _three_seeders(folder, checkpoint)


async def _one_seeder(folder: Path, checkpoint: Path, count_mb: int, rounds: int) -> bool:
    seeder = await Seeder.start(folder / "one", checkpoint, 0)
    settings = PeerSettings(data_dir=folder / "asker", host="127.0.0.1")
    bare, fetched = [], []
    async with open_swarm(Identity.generate(), settings, bootstrap_peers=[seeder.address]) as swarm:
        await bare_mb_per_s(swarm, seeder.peer_id, 64)  # warms both ends up
        for _ in range(rounds):
            bare.append(await bare_mb_per_s(swarm, seeder.peer_id, count_mb))
            fetched.append(await fetched_mb_per_s(swarm, [seeder.peer_id], seeder.ref, folder / "fetched"))
            print(
                f"  bare stream {bare[-1]:6.0f} MB/s   checkpoint {fetched[-1]:6.0f} MB/s   ratio "
                f"{fetched[-1] / bare[-1]:.2f}"
            )
    await seeder.stop()
    ratio = statistics.median(f / b for f, b in zip(fetched, bare, strict=True))
    print(
        f"one seeder: {statistics.median(fetched):.0f} MB/s verified and on disk, "
        f"{ratio:.2f} of a bare stream (wanted: 0.70)"
    )
    return ratio >= 0.7


async def _three_seeders(folder: Path, checkpoint: Path) -> bool:
    seeders = [
        await Seeder.start(folder / f"three-{number}", checkpoint, SEEDER_LIMIT_BPS) for number in range(3)
    ]
    settings = PeerSettings(data_dir=folder / "asker-of-three", host="127.0.0.1")
    async with AsyncExitStack() as stack:
        addresses = [seeder.address for seeder in seeders]
        swarm = await stack.enter_async_context(
            open_swarm(Identity.generate(), settings, bootstrap_peers=addresses)
        )
        rate = await fetched_mb_per_s(
            swarm, [seeder.peer_id for seeder in seeders], seeders[0].ref, folder / "fetched-of-three"
        )
    for seeder in seeders:
        await seeder.stop()
    share = rate / (3 * SEEDER_LIMIT_BPS / 1e6)
    print(f"three seeders limited to 20 MB/s each: {rate:.1f} MB/s, {share:.2f} of 60 MB/s (wanted: 0.90)")
    return share >= 0.9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--private", action="store_true", help="sealed blobs beside plain ones")
    parser.add_argument("--seed", nargs=3, metavar=("FOLDER", "FILE", "BPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seed:
        asyncio.run(seed(Path(options.seed[0]), Path(options.seed[1]), float(options.seed[2])))
        return
    if options.private:
        from bench.sealed_transfer import measure_sealed

        what = measure_sealed
    else:
        what = measure
    with tempfile.TemporaryDirectory(prefix="paris-bench-") as folder:
        sys.exit(0 if asyncio.run(what(Path(folder), options.mb, options.rounds)) else 1)


if __name__ == "__main__":
    main()
