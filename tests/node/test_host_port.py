"""A node listens where its data directory listened before: invites that name it stay good."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from paris_p2p.node.host import PORT_FILE, open_host
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.swarm.addresses import port_of


async def listened(settings: PeerSettings) -> int:
    async with open_host(settings) as host:
        return port_of(host.swarm.addresses())


@pytest.mark.swarm
async def test_a_restarted_node_has_its_old_port_unless_that_is_taken(tmp_path: Path) -> None:
    settings = PeerSettings(data_dir=tmp_path, host="127.0.0.1")
    first = await listened(settings)
    assert await listened(settings) == first
    with socket.socket() as other:
        other.bind(("127.0.0.1", first))
        other.listen()
        moved = await listened(settings)
    assert moved not in (0, first)
    assert (tmp_path / PORT_FILE).read_text().strip() == str(moved)


@pytest.mark.swarm
@pytest.mark.parametrize("text", ["no port", "99999", "\udcff"])
async def test_a_damaged_note_of_the_port_keeps_no_node_from_starting(tmp_path: Path, text: str) -> None:
    (tmp_path / PORT_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert await listened(PeerSettings(data_dir=tmp_path, host="127.0.0.1"))
