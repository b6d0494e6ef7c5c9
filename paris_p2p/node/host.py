"""One peer on the network shares its identity, disk and swarm between the runs it takes part in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paris_p2p.disk import explained, free_bytes, make_directory, write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.errors import (
    DaemonError,
    PortInUseError,
    RecordError,
    VersionError,
)
from paris_p2p.identity import Identity, load_or_create_peer_key
from paris_p2p.node.blob_sources import SourceLedger
from paris_p2p.node.doorkeeper import Doorkeeper
from paris_p2p.node.facing import Facing, Member, WordLimits
from paris_p2p.node.loop_watch import LoopWatch
from paris_p2p.node.open_copies import clear_work, sweep_work
from paris_p2p.node.plain_files import sweep_opened
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.records import RequestKind
from paris_p2p.rules.near import RunSecrets
from paris_p2p.run_file import RUN_FILE, read_run
from paris_p2p.spec import RunSpec
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.data_dir import DataDirLock, default_cap_bytes
from paris_p2p.swarm.addresses import check_addresses, port_of
from paris_p2p.swarm.asking import end_tasks
from paris_p2p.swarm.real import open_swarm
from paris_p2p.swarm.seam import Swarm

log = logging.getLogger(__name__)
PORT_FILE = "port"  # where this data directory listened last


@dataclass
class Host:
    """Holds identity, store and swarm of one data directory; other peers are served from it."""

    settings: PeerSettings
    identity: Identity
    store: BlobStore
    sources: SourceLedger = field(default_factory=SourceLedger)
    members: dict[str, Member] = field(default_factory=dict)  # by run id
    words: WordLimits = field(default_factory=WordLimits)
    loop_watch: LoopWatch = field(default_factory=LoopWatch)
    tagged: dict[str, RunSecrets] = field(default_factory=dict)  # runs to be found near by
    swarm: Swarm = field(init=False)

    def shown_to(self, peer: str, action: RequestKind, run: str, thing: str) -> Facing:
        """Returns what a peer sees of the runs here; each look-up in it passes the rule of rules/trust.py."""
        return Facing(self, peer, action, run)

    def knows(self, peer: str) -> bool:
        """Tells whether it has a part in a run here, or served us good chunks."""
        return self.sources.proved(peer) or any(member.knows(peer) for member in tuple(self.members.values()))

    def make_room(self, need_bytes: int, keep: Iterable[str] = ()) -> bool:
        """Deletes what no run here needs any more, nor `keep` names, until `need_bytes` are free; returns
        False when that freed nothing.
        """
        kept = set(keep).union(*(member.kept_blobs() for member in tuple(self.members.values())))
        return self.store.evict(kept, need_bytes) > 0


@asynccontextmanager
async def open_host(
    settings: PeerSettings,
    bootstrap_peers: Sequence[str] = (),
    *,
    relay_service: bool = False,
    on_record: Callable[[Envelope[Any]], None] | None = None,
    own_bytes: int = 0,
) -> AsyncIterator[Host]:
    """Locks the data directory, opens its store and joins the network; everything is closed in reverse.

    Where the settings do not say what blobs may take on disk, it is `own_bytes`, this user's own data, and
    half of the rest.
    """
    check_addresses(settings)
    with DataDirLock(settings.data_dir):
        sweep_work(settings.data_dir)
        sweep_opened(settings.data_dir)
        identity = load_or_create_peer_key(settings.data_dir / "identity.key")
        host = Host(settings=settings, identity=identity, store=_open_store(settings, own_bytes))
        async with AsyncExitStack() as stack:

            async def open_at(port: int) -> Swarm:
                at = settings.model_copy(update={"port": port})
                opening = open_swarm(
                    identity,
                    at,
                    bootstrap_peers=bootstrap_peers,
                    source=host,
                    relay_service=relay_service,
                    on_record=on_record,
                )
                return await stack.enter_async_context(opening)

            host.swarm = await _at_its_old_port(settings, open_at)
            # A node that relays is others' way in, also of those that are to be let in by another.
            beside = [] if relay_service else [asyncio.create_task(Doorkeeper(host).run())]
            beside.append(asyncio.create_task(host.loop_watch.run()))
            if settings.lan:
                from paris_p2p.node.neighbours import Neighbours  # zeroconf, which others do without

                near = Neighbours(
                    host.swarm, lambda: tuple(host.tagged.values()), settings.host, settings.port
                )
                beside.append(asyncio.create_task(near.run()))
            try:
                yield host
            finally:
                await end_tasks(beside)
                clear_work(settings.data_dir)


def _open_store(settings: PeerSettings, own_bytes: int) -> BlobStore:
    store = BlobStore(settings.data_dir / "blobs", settings.max_disk_bytes)
    if "max_disk_bytes" not in settings.model_fields_set:
        store.max_bytes = default_cap_bytes(store.used_bytes(), free_bytes(store.root), own_bytes)
        log.info(
            "blobs may take %.1f GB of this disk, half of what is free; --max-disk says otherwise",
            store.max_bytes / 1e9,
        )
    return store


async def _at_its_old_port(settings: PeerSettings, open_at: Callable[[int], Awaitable[Swarm]]) -> Swarm:
    """Listens where this data directory listened before, so that invites and neighbours still find it;
    elsewhere if that is taken.
    """
    if settings.port:
        return await open_at(settings.port)
    path = settings.data_dir / PORT_FILE
    before = path.read_text(errors="replace").strip() if path.is_file() else ""
    swarm = None
    if before.isdecimal() and 0 < int(before) < 65536:
        try:
            swarm = await open_at(int(before))
        except (PortInUseError, DaemonError) as error:
            # another program's by now, or of another machine this folder was copied from
            log.warning(
                "cannot listen on port %s as before (%s); taking another, "
                "so older invites need a bootstrap node",
                before,
                error,
            )
    swarm = swarm or await open_at(0)
    with explained(path):
        write_atomic(path, f"{port_of(swarm.addresses())}\n")
    return swarm


def spec_path(data_dir: Path, run_id: str) -> Path:
    """Returns where a run's signed RunSpec is kept once it was verified."""
    return data_dir / "runs" / run_id / RUN_FILE


def load_spec(data_dir: Path, run_id: str) -> Envelope[RunSpec] | None:
    """Returns the RunSpec kept here, verified again; None when none is here, or a damaged one, which is named
    and deleted, so that it is fetched again. StoreError, VersionError.
    """
    path = spec_path(data_dir, run_id)
    if not path.exists():
        return None
    try:
        return read_run(path, run_id, mend="it is deleted, and fetched again from the run's peers")
    except VersionError:
        raise
    except RecordError as error:
        log.warning("%s", error)
        path.unlink()
        return None


def save_spec(data_dir: Path, run: Envelope[RunSpec]) -> Path:
    """Keeps a verified RunSpec, atomically."""
    path = spec_path(data_dir, run.id)
    with explained(path):
        make_directory(path.parent)
        write_atomic(path, run.data, mode=0o600 if run.record.private else None)
    return path
