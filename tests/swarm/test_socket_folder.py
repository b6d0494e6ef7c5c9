"""What a killed node left of its sockets goes; what anybody uses, or somebody else made, stays."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from paris_p2p.swarm.socket_folder import CONTROL, STREAMS, clear_forgotten

LATER_S = 3600.0


def made(folder: Path, *names: str) -> list[socket.socket]:
    folder.mkdir()
    sockets = []
    for name in names:
        one = socket.socket(socket.AF_UNIX)
        one.bind(str(folder / name))
        one.listen()
        sockets.append(one)
    return sockets


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # a socket's path may be short alone
    return Path()


def test_a_folder_of_a_killed_node_is_deleted(base: Path) -> None:
    for one in made(base / "paris-abcd_123", CONTROL, STREAMS) + made(base / "paris-half0000", STREAMS):
        one.close()
    made(base / "paris-empty000")
    assert clear_forgotten(base, time.time()) == 0  # its node may just be starting
    assert clear_forgotten(base, time.time() + LATER_S + 60) == 3
    assert list(base.iterdir()) == []


def test_what_lives_or_is_another_programs_stays(base: Path) -> None:
    alive = made(base / "paris-living00", CONTROL, STREAMS)
    for one in made(base / "paris-others00", CONTROL, "mine.sock") + made(
        base / "paris-dev-swarm-x", CONTROL
    ):
        one.close()
    (halted,) = made(base / "paris-restart0", STREAMS)  # its p2pd is being started again
    made(base / "paris-restart1", CONTROL)[0].close()
    (base / "paris-restart1" / CONTROL).rename(base / "paris-restart0" / CONTROL)
    (base / "paris-restart1").rmdir()
    before = sorted(base.rglob("*"))
    assert clear_forgotten(base, time.time() + LATER_S) == 0
    assert sorted(base.rglob("*")) == before
    for one in [*alive, halted]:
        one.close()
