"""Measures what sources that drip cost a download, a newcomer's start and a running peer's refresh.

    python -m bench.dripping [--mb 64] [--rounds 3]

For n = 1, 2, 4: n seeders, each a process limited to 20 MB/s, alone and beside n strangers who sit on the
same chunks and send one byte in five seconds. Then a peer joins a run, and reads its records again, alone and
beside a stranger who drips them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.row import print_row
from bench.transfer import SEEDER_LIMIT_BPS, Seeder, fetched_mb_per_s
from paris_p2p.identity import Identity
from paris_p2p.node.host import Host, open_host
from paris_p2p.node.run_node import opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import CHUNK_BYTES
from paris_p2p.swarm.blob_client import CHUNK_HEAD, pack_head, read_map
from paris_p2p.swarm.real import open_swarm
from tests.peer.world import World

DRIP_S = 5.0  # between two bytes
HAVE_BYTES = 1 << 12


class Drippers:
    """Answers as strangers do who collude: the first says that it has all, the others what that was asked
    for.
    """

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.sat = asyncio.Event()

    def join(self, swarm: Any, first: bool) -> None:
        async def converse(peer: str, address: str, reader: asyncio.StreamReader, out: socket.socket) -> None:
            request = await read_map(reader, peer)
            if request.get("op") == "have":
                await self._say(out, pack_head({"ok": True, "size": HAVE_BYTES}) + await self._have(first))
                await reader.read(1)
            elif request.get("op") == "chunks":
                self.taken |= set(request["indexes"])
                self.sat.set()
                await self._drip(
                    out, pack_head({"ok": True}) + CHUNK_HEAD.pack(request["indexes"][0], CHUNK_BYTES)
                )
            else:
                await self._drip(out, pack_head({"ok": True, "size": 100_000}))

        swarm._blob_server._converse = converse

    def forget(self) -> None:
        self.taken, self.sat = set(), asyncio.Event()

    async def _have(self, first: bool) -> bytes:
        if first:
            return b"\xff" * HAVE_BYTES
        await self.sat.wait()
        return sum(1 << index for index in self.taken).to_bytes(HAVE_BYTES, "little")

    async def _drip(self, out: socket.socket, head: bytes) -> None:
        await self._say(out, head)
        while True:
            await self._say(out, b"x")
            await asyncio.sleep(DRIP_S)

    async def _say(self, out: socket.socket, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(out, data)


async def measure_download(folder: Path, count: int, count_mb: int, rounds: int) -> None:
    checkpoint = folder / "checkpoint.bin"
    checkpoint.write_bytes(os.urandom(count_mb << 20))
    seeders = [
        await Seeder.start(folder / f"seeder-{number}", checkpoint, SEEDER_LIMIT_BPS)
        for number in range(count)
    ]
    addresses, honest = [seeder.address for seeder in seeders], [seeder.peer_id for seeder in seeders]
    async with AsyncExitStack() as stack:
        gang, liars = Drippers(), list[str]()

        async def join(name: str) -> Any:
            settings = PeerSettings(data_dir=folder / name, host="127.0.0.1")
            return await stack.enter_async_context(
                open_swarm(Identity.generate(), settings, bootstrap_peers=addresses)
            )

        asker = await join("asker")
        for number in range(count):
            bad = await join(f"dripper-{number}")
            gang.join(bad, first=number == 0)
            liars.append(bad.peer_id)
            await asker.connect(bad.addresses())
        spent_s: dict[bool, list[float]] = {False: [], True: []}
        for number in range(rounds):
            for beside in (False, True):
                gang.forget()
                peers, place = [*liars, *honest] if beside else honest, folder / f"fetched-{number}-{beside}"
                spent_s[beside].append(
                    count_mb * 1.048576 / await fetched_mb_per_s(asker, peers, seeders[0].ref, place)
                )
    for seeder in seeders:
        await seeder.stop()
    alone, beside_s = statistics.median(spent_s[False]), statistics.median(spent_s[True])
    ratio = statistics.median(b / a for a, b in zip(spent_s[False], spent_s[True], strict=True))
    result = f"{alone:.2f} s alone, {beside_s:.2f} s beside them: x{ratio:.2f} (wanted: at most 1.5)"
    print_row(f"{count_mb} MiB from {count} seeders at 20 MB/s, and {count} that drip", result)


async def measure_joining(folder: Path, rounds: int) -> None:
    world = World(folder / "world")
    async with AsyncExitStack() as stack:

        async def host(name: str, bootstrap: tuple[str, ...] = ()) -> Host:
            settings = PeerSettings(data_dir=folder / name, host="127.0.0.1")
            return await stack.enter_async_context(open_host(settings, bootstrap))

        owner = await host("owner")
        await stack.enter_async_context(opened(owner, world.run))
        where = owner.swarm.addresses()
        settings = PeerSettings(data_dir=folder / "bad", host="127.0.0.1")
        bad = await stack.enter_async_context(
            open_swarm(Identity.generate(), settings, bootstrap_peers=where)
        )
        gang = Drippers()
        gang.join(bad, first=True)
        starts: dict[bool, list[float]] = {False: [], True: []}
        turns: dict[bool, list[float]] = {False: [], True: []}
        for number in range(rounds):
            for beside in (False, True):
                newcomer = await host(f"newcomer-{number}-{beside}", where)
                if beside:
                    await newcomer.swarm.connect(bad.addresses())
                entering = opened(newcomer, world.run)
                starts[beside].append(await _timed(entering.__aenter__))
                node = newcomer.members[world.run.id]
                turns[beside].append(await _timed(node.refresh))  # type: ignore[attr-defined]
                turns[beside].append(await _timed(node.ask_connected))  # type: ignore[attr-defined]
                await entering.__aexit__(None, None, None)
    for what, spent_s in (
        ("a newcomer's first questions", starts),
        ("a running peer's refresh and its questions", turns),
    ):
        alone, beside_s = (statistics.median(spent_s[beside]) for beside in (False, True))
        longest = max(spent_s[True])
        result = f"{alone:.2f} s alone, {beside_s:.2f} s beside it (longest {longest:.2f} s)"
        print_row(f"{what}, and one stranger that drips", result)


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    started_s = time.perf_counter()
    await work()
    return time.perf_counter() - started_s


async def measure(count_mb: int, rounds: int) -> None:
    for count in (1, 2, 4):
        with tempfile.TemporaryDirectory(prefix="paris-bench-") as folder:
            await measure_download(Path(folder), count, count_mb, rounds)
    with tempfile.TemporaryDirectory(prefix="paris-bench-") as folder:
        await measure_joining(Path(folder), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure(options.mb, options.rounds))


if __name__ == "__main__":
    main()
