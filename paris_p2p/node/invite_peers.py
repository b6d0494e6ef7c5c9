"""The addresses that stand in a node's invites, on its disk: an invite may be made while it is away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from paris_p2p.disk import explained, write_atomic
from paris_p2p.invite import peer_address

PEERS_FILE = "invite-peers.json"  # in a data directory
_MAX_BYTES = 1 << 16


def keep_invite_peers(data_dir: Path, peers: Sequence[str]) -> None:
    """Writes what invites name, each time that a node starts."""
    path = data_dir / PEERS_FILE
    with explained(path):
        write_atomic(path, json.dumps(list(peers)))


def kept_invite_peers(data_dir: Path) -> tuple[str, ...]:
    """Returns what a node's invites named when it started last; nothing where it never did, or that file is
    damaged.
    """
    try:
        with (data_dir / PEERS_FILE).open("rb") as file:
            return tuple(peer_address(address) for address in json.loads(file.read(_MAX_BYTES)))
    except (OSError, ValueError, TypeError):
        return ()
