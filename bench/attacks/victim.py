"""Runs the attacked node in a process of its own; it prints its addresses, then its costs, as lines of JSON.

It reads a run's claims every second and hears the run's gossip, as every peer of that run does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from paris_p2p.envelope import open_envelope
from paris_p2p.errors import RecordError, SwarmError
from paris_p2p.identity import Identity
from paris_p2p.kinds import cards_topic, claims_key
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm.real import RealSwarm, open_swarm

RUN = "ab" * 32
_TURN_S = 0.01


class Lag:
    """Measures how late the event loop came, at worst, since the last look."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def watch(self) -> None:
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(_TURN_S)
            self.worst_s = max(self.worst_s, time.perf_counter() - began_s - _TURN_S)

    def take(self) -> float:
        worst_s, self.worst_s = self.worst_s, 0.0
        return worst_s


async def main(folder: Path) -> None:
    lag, heard = Lag(), [0]

    async def hear(peer: str, data: bytes) -> None:
        with suppress(RecordError):
            open_envelope(data, run=RUN)
            heard[0] += 1

    settings = PeerSettings(data_dir=folder, host="127.0.0.1")
    async with open_swarm(Identity.generate(), settings) as swarm:
        await swarm.subscribe(cards_topic(RUN), hear)
        tasks = [asyncio.create_task(lag.watch()), asyncio.create_task(_read_claims(swarm))]
        print(json.dumps({"addresses": swarm.addresses()}), flush=True)
        while not any(task.done() for task in tasks):
            await asyncio.sleep(0.2)
            print(json.dumps(await _state(swarm, lag, heard[0])), flush=True)
        for task in tasks:
            if task.done():
                task.result()


async def _read_claims(swarm: RealSwarm) -> None:
    while True:
        with suppress(SwarmError):
            await swarm.read_records(claims_key(RUN, "expert-0"), RUN)
        await asyncio.sleep(1.0)


async def _state(swarm: RealSwarm, lag: Lag, heard: int) -> dict[str, object]:
    return {
        "lag_s": lag.take(),
        "memory_mb": _resident_mb(os.getpid()),
        "p2pd_mb": _resident_mb(swarm.daemon_pid),
        "heard": heard,
        "restarts": swarm.daemon_restarts,
        "refused": swarm.refused,
    }


def _resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
