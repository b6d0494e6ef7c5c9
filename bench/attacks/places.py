"""Attacks a public bootstrap node's places: one key brings junk runs before an honest run comes."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.attacks.junk import JunkRuns
from examples.demo.processes import BIN
from paris_p2p.envelope import seal
from paris_p2p.identity import Identity
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import PeerRecord
from paris_p2p.swarm.real import open_swarm
from tests.peer.world import World

JUNK = 64
LIMIT_S = 300.0


async def junk_runs(folder: Path) -> str:
    """Brings 64 tiny runs of one key to `paris-bootstrap serve`; then an honest one comes."""
    where, log = folder / "address", folder / "log"
    command = [str(BIN / "paris-bootstrap"), "serve", "--data-dir", str(folder / "node")]
    command += ["--host", "127.0.0.1", "--port", "0", "--address-file", str(where)]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        try:
            async with asyncio.timeout(LIMIT_S):
                while not where.exists():
                    await asyncio.sleep(0.1)
                address = next(line for line in where.read_text().split() if "/tcp/" in line)
                return await _fill_and_come(folder, address, log)
        finally:
            process.terminate()
            await process.wait()


async def _fill_and_come(folder: Path, address: str, log: Path) -> str:
    source = JunkRuns(World(folder / "run").run.record)
    stranger, honest = Identity.generate(), Identity.generate()

    async with AsyncExitStack() as stack:

        async def join(identity: Identity, name: str) -> Any:
            settings = PeerSettings(data_dir=folder / name, host="127.0.0.1")
            given: Any = source
            opening = open_swarm(identity, settings, bootstrap_peers=[address], source=given)
            return await stack.enter_async_context(opening)

        filling, began_s = await join(stranger, "stranger"), time.monotonic()
        for number in range(JUNK):
            await _say(filling, stranger, source.add(f"junk {number}").id)
            await asyncio.sleep(3.1)  # one is asked for in each turn of the node
        took_s = time.monotonic() - began_s
        coming, run_id = await join(honest, "honest"), source.add("honest").id
        for _ in range(5):
            await _say(coming, honest, run_id)
            await asyncio.sleep(6.0)
            if "mirroring run 'honest'" in log.read_text():
                break
    text = log.read_text()
    junk, is_in = text.count("mirroring run 'junk"), "mirroring run 'honest'" in text
    return (
        f"{junk} junk runs after {took_s:.0f} s; the honest one {'is mirrored' if is_in else 'is kept out'}"
    )


async def _say(swarm: Any, who: Identity, run_id: str) -> None:
    now = time.time()
    record = PeerRecord(
        run=run_id, slot="", role="owner", seq=int(now * 1000), issued_at=now, expires_at=now + 7000
    )
    await swarm.store_record(seal(who, record))
