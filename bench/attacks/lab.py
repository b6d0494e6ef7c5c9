"""Opens a victim in a child process and a stranger who knows its address, and says what an attack cost."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paris_p2p.identity import Identity, peer_id_to_bytes
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm import daemon
from paris_p2p.swarm.real import RealSwarm, open_swarm

START_LIMIT_S = 60.0
END_LIMIT_S = 10.0


@dataclass
class Victim:
    """Holds a running victim; `lines` are its states since the last `mark`."""

    process: asyncio.subprocess.Process
    addresses: list[str]
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def peer_id(self) -> str:
        return self.addresses[0].rsplit("/", 1)[1]

    def mark(self) -> None:
        self.lines.clear()

    def worst(self, name: str) -> float:
        return max((float(line[name]) for line in self.lines), default=0.0)

    async def settle(self, count: int = 5) -> None:
        """Waits until it printed so many more lines, or ended."""
        wanted = len(self.lines) + count
        while len(self.lines) < wanted and self.process.returncode is None:
            await asyncio.sleep(0.05)

    def cost(self) -> str:
        if self.process.returncode is not None:
            return f"the node died (exit status {self.process.returncode})"
        lag, memory, p2pd = self.worst("lag_s"), self.worst("memory_mb"), self.worst("p2pd_mb")
        return f"stall {lag * 1000:.0f} ms, {memory:.0f} MB, p2pd {p2pd:.0f} MB"


@dataclass
class Lab:
    """Holds one attack's room; `stranger` is joined to the victim and knows nothing else."""

    folder: Path
    victim: Victim
    stranger: RealSwarm

    @property
    def p2p(self) -> Any:
        """Returns hivemind's client on the stranger's daemon, past everything that makes an honest peer."""
        return self.stranger._keeper.link.board._p2p  # type: ignore[union-attr]

    def stub(self) -> Any:
        from hivemind.dht.protocol import DHTProtocol
        from hivemind.p2p.p2p_daemon_bindings.datastructures import PeerID

        kind: Any = DHTProtocol
        kind._collect_rpc_handlers()
        return kind._stub_type(self.p2p, PeerID(peer_id_to_bytes(self.victim.peer_id)), None)


@asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        async with _victim(Path(folder)) as victim:
            settings = PeerSettings(data_dir=Path(folder) / "stranger", host="127.0.0.1")
            daemon.MAX_RPC_BYTES = 4 << 20  # a stranger's own p2pd has no limit but the libp2p daemon's
            joined = open_swarm(Identity.generate(), settings, bootstrap_peers=victim.addresses[:1])
            async with joined as stranger:
                await victim.settle()
                victim.mark()
                yield Lab(Path(folder), victim, stranger)


@asynccontextmanager
async def _victim(folder: Path) -> AsyncIterator[Victim]:
    with (folder / "victim.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.attacks.victim", str(folder / "victim"),
            stdout=asyncio.subprocess.PIPE, stderr=log, limit=1 << 22,
        )  # fmt: skip
        reading: asyncio.Task[None] | None = None
        try:
            first = await asyncio.wait_for(_line(process), START_LIMIT_S)
            victim = Victim(process, first["addresses"])
            reading = asyncio.create_task(_follow(process, victim.lines))
            yield victim
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), END_LIMIT_S)
            if reading is not None:
                reading.cancel()


async def _line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(await process.stdout.readline())
    return line


async def _follow(process: asyncio.subprocess.Process, lines: list[dict[str, Any]]) -> None:
    assert process.stdout is not None
    while data := await process.stdout.readline():
        lines.append(json.loads(data))
