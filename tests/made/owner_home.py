"""An owner's folder without clips: a signed run, the key, and the node's key; its node on a fake network."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.identity import Identity, load_or_create_peer_key, save_owner_key
from paris_p2p.node.control import serve_control
from paris_p2p.node.host import Host
from paris_p2p.node.owner_desk import OwnerDesk
from paris_p2p.node.run_node import RunNode, opened
from paris_p2p.node.status import Status, run_status
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.preparation.create import KEY_FILE
from paris_p2p.run_file import RUN_FILE
from paris_p2p.spec import RunSpec
from paris_p2p.store.blobs import BlobStore
from paris_p2p.swarm.fake import FakeNetwork
from tests.rules.made_notices import OWNER, made_run


def make_home(folder: Path, *, passphrase: str | None = None, **fields: Any) -> Envelope[RunSpec]:
    """Makes what `paris-run create` leaves, but for the clips."""
    folder.mkdir(parents=True, exist_ok=True)
    node = load_or_create_peer_key(folder / "node" / "identity.key")
    named: dict[str, Any] = {"created_at": time.time() - 1000.0, "owner_node": node.peer_id}
    run = made_run(**(named | fields))
    save_owner_key(OWNER, folder / KEY_FILE, passphrase)
    (folder / RUN_FILE).write_bytes(run.data)
    return run


def host_at(home: Path, network: FakeNetwork, identity: Identity | None = None) -> Host:
    """A data directory on the network."""
    who = identity or load_or_create_peer_key(home / "identity.key")
    host = Host(PeerSettings(data_dir=home), who, BlobStore(home / "blobs"))
    host.swarm = network.join(who, host)
    return host


@asynccontextmanager
async def owners_node(folder: Path, run: Envelope[RunSpec], network: FakeNetwork) -> AsyncIterator[RunNode]:
    """The owner's node with its control API, as `paris-run publish` has it."""
    async with opened(host_at(folder / "node", network), run) as node:

        async def status() -> Status:
            return await run_status(node, role="owner", phase="idle", why="testing")

        async with serve_control(folder / "node", status, {}, OwnerDesk(node).questions):
            yield node
