"""Measures what an update and a full checkpoint take over a slow line: real files, from a node whose upload
is limited to one that fetches and verifies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.transfer import Seeder, fetched_mb_per_s
from paris_p2p.identity import Identity
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm.real import open_swarm
from paris_p2p.updates.compression import Precision, compress
from paris_p2p.updates.update_header import UpdateHeader

LINES_MBIT_PER_S = (5, 20, 100)
STEPS = (2.0, 6.75)  # in root mean squares of a chunk: the default, and that of a line a tenth as fast


@dataclass(frozen=True)
class Payload:
    name: str
    path: Path

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


@dataclass(frozen=True)
class Sent:
    """One payload over one line."""

    name: str
    size_bytes: int
    line_mbit_per_s: float
    computed_s: float
    measured_s: float


def made_updates(folder: Path, parameters: int) -> Iterator[Payload]:
    """Writes updates of a made-up network of so many parameters, of each of STEPS."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(parameters, np.float32)
    after = base + rng.standard_normal(parameters, np.float32) * np.float32(1e-3)
    for step in STEPS:
        path = folder / f"update-{step:g}"
        with path.open("wb") as file:
            compress(np.zeros_like(base), base, after, UpdateHeader(parameters), Precision(step, 0.95), file)
        yield Payload(f"update, steps of {step:g}", path)


def measure(payloads: list[Payload], folder: Path) -> list[Sent]:
    return [
        asyncio.run(_send(payload, line, folder / f"{number}-{line}"))
        for number, payload in enumerate(payloads)
        for line in LINES_MBIT_PER_S
    ]


async def _send(payload: Payload, line_mbit_per_s: int, folder: Path) -> Sent:
    rate = line_mbit_per_s * 1e6 / 8
    seeder = await Seeder.start(folder / "seeder", payload.path, rate)
    settings = PeerSettings(data_dir=folder / "asker", host="127.0.0.1")
    try:
        async with open_swarm(Identity.generate(), settings, bootstrap_peers=[seeder.address]) as swarm:
            began_s = time.perf_counter()
            await fetched_mb_per_s(swarm, [seeder.peer_id], seeder.ref, folder / "fetched")
            took_s = time.perf_counter() - began_s
    finally:
        await seeder.stop()
    sent = Sent(payload.name, payload.size_bytes, line_mbit_per_s, payload.size_bytes / rate, took_s)
    print(f"  {sent}", flush=True)
    return sent
