"""A look at a run through its invite: what it is, how far it got, who is there; nothing is spent or said.

A machine that is in the run looks as itself. Beside a peer that runs here, its generator's key looks. A
newcomer looks under a key that is thrown away: no use of an invite's token is taken for that.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paris_p2p.doctor.identities import has_node
from paris_p2p.doctor.line_reach import ReachFacts
from paris_p2p.envelope import Envelope
from paris_p2p.errors import MissingBlobError, RecordError, SwarmError
from paris_p2p.invite import Invite
from paris_p2p.kinds import peers_key
from paris_p2p.node.host import PORT_FILE, Host, open_host
from paris_p2p.node.joining import GENERATOR_DIR, is_joined, join_run
from paris_p2p.node.line_look import LineRun, look_at_line
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.node.twin_watch import OwnSignatures
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.twin import Twin
from paris_p2p.spec import RunSpec

LooksAs = Literal["itself", "generator", "guest"]
LINE_QUESTION = "line"  # of a running peer's control API
SPEC_S = 20.0  # for a RunSpec from peers that may have none for a stranger


def line_questions(node: RunNode) -> dict[str, Callable[[bytes], Awaitable[ReachFacts]]]:
    """Returns what a running peer is asked over its control API: to look at its own line."""

    async def look(_: bytes) -> ReachFacts:
        announced = node.host.settings.announce
        return await look_at_line(node.host.swarm, line_run_of(node), announced=announced)

    return {LINE_QUESTION: look}


def line_run_of(node: RunNode) -> LineRun:
    """Returns the run in whose name peers are asked about the line, with its largest blob of data."""
    largest = max(node.spec.data_blobs, key=lambda ref: ref.size_bytes, default=None)
    return LineRun(node.public_id, largest)


@dataclass(frozen=True)
class Onlooker:
    """Where a look has its key, and as whom it looks."""

    home: Path
    looks_as: LooksAs
    port: int = 0


@dataclass
class RunLook:
    """What an onlooker has of a run: the host, and the run's node where it is let in."""

    host: Host
    onlooker: Onlooker
    node: RunNode | None = None
    why_not: str = ""  # it has no part in the run

    def line_run(self) -> LineRun:
        """Returns the run in whose name peers are asked about the line."""
        return LineRun() if self.node is None else line_run_of(self.node)

    async def twin(self) -> Twin | None:
        """Returns a record under this machine's key that was not signed here; a guest's key is nobody's."""
        if self.node is None or self.onlooker.looks_as != "itself":
            return None
        own = OwnSignatures(self.node.peer_id, self.node.ledger, 0.0)
        for envelope in await self.node.swarm.read(peers_key(self.node.run)):
            own.look_at(envelope)
        return own.twin


def onlooker_for(data_dir: Path, run: str, port: int, throw_away: Path) -> Onlooker:
    """Returns as whom a look is taken; `throw_away` is a folder for a guest."""
    running = has_node(data_dir)
    if is_joined(data_dir, run) and not running:
        return Onlooker(data_dir, "itself", port)
    generator = data_dir / GENERATOR_DIR
    if is_joined(generator, run) and not has_node(generator):
        return Onlooker(generator, "generator")
    return Onlooker(throw_away, "guest", 0 if running else port or _usual_port(data_dir))


@asynccontextmanager
async def looking_at_run(settings: PeerSettings, invite: Invite) -> AsyncIterator[RunLook]:
    """Joins the network for a look, and yields what there is; SwarmError as when a peer starts."""
    folder = Path(tempfile.mkdtemp(prefix="paris-look-"))
    try:
        onlooker = onlooker_for(settings.data_dir, invite.run, settings.port, folder / "guest")
        at = settings.model_copy(update={"data_dir": onlooker.home, "port": onlooker.port})
        async with open_host(at, invite.peers) as host:
            look = RunLook(host, onlooker)
            run = await _run_of(host, invite, look)
            if run is None:
                yield look
                return
            async with opened(host, run) as node:
                look.node = node
                await node.read_peers()
                yield look
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _run_of(host: Host, invite: Invite, look: RunLook) -> Envelope[RunSpec] | None:
    """Returns the run where this onlooker may see it; the invite's token is not shown to anybody."""
    token = bool(invite.join)
    try:
        async with asyncio.timeout(SPEC_S):
            return await join_run(host, invite.model_copy(update={"join": b""}))
    except TimeoutError:
        look.why_not = f"nobody sent its description within {SPEC_S:.0f} s"
    except (SwarmError, RecordError, MissingBlobError) as error:
        look.why_not = str(error)
    if token:
        look.why_not = (
            "the run is for members only, and this machine is none yet; no use of the invite was spent on a "
            "look. `paris peer start INVITE` joins it, and then doctor tells about its slots"
        )
    return None


def _usual_port(data_dir: Path) -> int:
    """Returns where this machine's peer listened last, so that the right port is looked at."""
    try:
        text = (data_dir / PORT_FILE).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() and 0 < int(text) < 1 << 16 else 0
