"""Measures what sealing costs: a checkpoint's whole way, sealed beside plain, in the same rounds.

    python -m bench.transfer --private [--mb 512] [--rounds 3]

The way of a checkpoint: its maker takes the file that the trainer wrote into the store (hashed, or sealed and
hashed, and synced), another peer fetches it (verified, on disk and synced), and there it becomes a file that
the trainer can read (itself, or an opened copy). Every rate is in bytes of the plain file.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.transfer import Seeder
from paris_p2p.disk import replacing
from paris_p2p.identity import Identity
from paris_p2p.keyring import RunKey
from paris_p2p.node.blob_sources import SourceLedger
from paris_p2p.node.fetch import Fetcher
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import BlobRef
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import add_sealed, open_into
from paris_p2p.swarm.real import RealSwarm, open_swarm

WANTED = 0.8
Result = TypeVar("Result")


@dataclass(frozen=True)
class Way:
    """Seconds of one checkpoint's way, and of the processor on both its ends; opening takes none where it is
    plain.
    """

    take_in_s: float
    transfer_s: float
    open_s: float
    take_in_cpu_s: float
    open_cpu_s: float

    @property
    def total_s(self) -> float:
        return self.take_in_s + self.transfer_s + self.open_s


@dataclass(frozen=True)
class Ends:
    """Both ends of the way."""

    swarm: RealSwarm
    seeder: Seeder
    made_in: BlobStore  # the seeder's
    arrives_in: BlobStore
    folder: Path

    async def measure(self, count_mb: int, key: RunKey | None) -> Way:
        """Measures a fresh checkpoint's way, sealed under a key or plain."""
        checkpoint = self.folder / "checkpoint"
        with checkpoint.open("wb") as file:
            for _ in range(count_mb):
                file.write(os.urandom(1 << 20))
        taken, take_in_s, take_in_cpu_s = _timed(lambda: self._take_in(checkpoint, key))
        began_s = time.perf_counter()
        blob = await Fetcher(self.swarm, self.arrives_in, SourceLedger()).one(taken, self._sources)
        transfer_s = time.perf_counter() - began_s
        opened = self.folder / "opened"
        open_s = open_cpu_s = 0.0
        if key is not None:
            _, open_s, open_cpu_s = _timed(lambda: _open(blob, key, opened))
        opened.unlink(missing_ok=True)
        for store in (self.made_in, self.arrives_in):
            store.delete(taken.id)
        return Way(take_in_s, transfer_s, open_s, take_in_cpu_s, open_cpu_s)

    def _take_in(self, checkpoint: Path, key: RunKey | None) -> BlobRef:
        if key is None:
            return self.made_in.add_file(checkpoint, move=True)
        return add_sealed(self.made_in, checkpoint, key, move=True)

    async def _sources(self) -> list[str]:
        return [self.seeder.peer_id]


async def measure_sealed(folder: Path, count_mb: int, rounds: int) -> bool:
    """Returns whether the sealed way is WANTED of the plain one, by the median of the rounds' ratios."""
    (folder / "little").write_bytes(b"something to serve")
    seeder = await Seeder.start(folder / "seeder", folder / "little", 0)
    settings = PeerSettings(data_dir=folder / "asker", host="127.0.0.1")
    plain, sealed = list[Way](), list[Way]()
    async with open_swarm(Identity.generate(), settings, bootstrap_peers=[seeder.address]) as swarm:
        stores = BlobStore(folder / "seeder" / "blobs"), BlobStore(folder / "asker" / "blobs")
        ends = Ends(swarm, seeder, *stores, folder)
        await ends.measure(min(64, count_mb), None)  # warms both ends up
        for number in range(rounds):
            # each goes first in turn: the second finds the disk busy with the first one's pages
            for way, key in ((plain, None), (sealed, RunKey.generate()))[:: 1 if number % 2 else -1]:
                await asyncio.to_thread(os.sync)
                way.append(await ends.measure(count_mb, key))
            print("  " + _line(count_mb, plain[-1], sealed[-1]))
    await seeder.stop()
    return _report(count_mb, plain, sealed)


def _report(count_mb: int, plain: list[Way], sealed: list[Way]) -> bool:
    def rate(ways: list[Way], part: Callable[[Way], float]) -> float:
        return statistics.median(_mb_per_s(count_mb, part(way)) for way in ways)

    print(
        f"alone, MB/s: taking in plain {rate(plain, lambda way: way.take_in_s):.0f}, "
        f"sealing {rate(sealed, lambda way: way.take_in_s):.0f}, "
        f"opening {rate(sealed, lambda way: way.open_s):.0f}; "
        f"transfer plain {rate(plain, lambda way: way.transfer_s):.0f}, "
        f"sealed {rate(sealed, lambda way: way.transfer_s):.0f}"
    )
    print(
        "by processor time, MB/s: "
        f"taking in plain {rate(plain, lambda way: way.take_in_cpu_s):.0f}, "
        f"sealing {rate(sealed, lambda way: way.take_in_cpu_s):.0f}, "
        f"opening {rate(sealed, lambda way: way.open_cpu_s):.0f}"
    )
    ratio = statistics.median(one.total_s / other.total_s for one, other in zip(plain, sealed, strict=True))
    total = [rate(ways, lambda way: way.total_s) for ways in (plain, sealed)]
    print(
        f"the whole way: plain {total[0]:.0f} MB/s, sealed {total[1]:.0f} MB/s, "
        f"ratio {ratio:.2f} (wanted: {WANTED:.2f})"
    )
    return ratio >= WANTED


def _line(count_mb: int, plain: Way, sealed: Way) -> str:
    parts = ", ".join(
        f"{name} {_mb_per_s(count_mb, way.total_s):.0f} MB/s "
        f"({way.take_in_s:.2f} + {way.transfer_s:.2f} + {way.open_s:.2f} s)"
        for name, way in (("plain", plain), ("sealed", sealed))
    )
    return f"{parts}, ratio {plain.total_s / sealed.total_s:.2f}"


def _open(blob: Path, key: RunKey, out: Path) -> None:
    with replacing(out, mode=0o600, durable=False) as file:
        open_into(file, blob, key)


def _timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """Returns what the work does, its seconds, and those of this process on the processor."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - began_s, time.process_time() - began_cpu_s


def _mb_per_s(count_mb: int, spent_s: float) -> float:
    return count_mb * (1 << 20) / spent_s / 1e6
