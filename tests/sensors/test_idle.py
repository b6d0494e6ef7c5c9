"""The shortest time since anybody touched a machine counts, and what nobody tells is not guessed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from paris_p2p.sensors import idle
from paris_p2p.sensors.fakes import FakeIdle
from paris_p2p.sensors.idle import MachineIdle, logind_idle_s, terminals_idle_s


def machine(desktop: str = "", **told: float | None) -> MachineIdle:
    return MachineIdle({name: lambda idle_s=idle_s: idle_s for name, idle_s in told.items()}, lambda: desktop)


def test_the_source_that_was_touched_last_counts() -> None:
    reading = machine(X=40.0, GNOME=None, terminals=900.0).read()
    assert (reading.idle_s, reading.source) == (40.0, "X")
    assert machine(X=None, terminals=12.0).read().source == "terminals"


def test_a_clock_that_was_set_back_makes_no_time_before_now() -> None:
    assert machine(terminals=-30.0).read().idle_s == 0.0


def test_a_desktop_that_does_not_tell_is_not_known_however_long_its_terminals_rest() -> None:
    reading = machine("a Wayland desktop", X=None, terminals=9e9).read()
    assert reading.idle_s is None
    assert "a Wayland desktop runs here" in reading.why_unknown
    assert machine("an X desktop", X=3.0, terminals=9e9).read().idle_s == 3.0


def test_a_machine_that_nothing_tells_of_is_not_known() -> None:
    assert "neither" in machine(terminals=None).read().why_unknown


def test_terminals_tell_when_they_were_last_typed_on(tmp_path: Path) -> None:
    (tmp_path / "pts").mkdir()
    for name, typed_s in (("tty1", 1000), ("pts/0", 2000), ("pts/1", 1500), ("ttyS0", 9000), ("tty", 9000)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (typed_s, 0))
    assert terminals_idle_s(tmp_path, now_s=2060.0) == 60.0
    assert terminals_idle_s(tmp_path / "nothing", now_s=2060.0) is None


@pytest.mark.parametrize(
    ("hint", "since_us", "idle_s"), [(True, 940_000_000, 60.0), (False, 0, 0.0), (None, None, None)]
)
def test_logind_tells_since_when_all_desktops_are_idle(
    monkeypatch: pytest.MonkeyPatch, hint: bool | None, since_us: int | None, idle_s: float | None
) -> None:
    monkeypatch.setattr(idle, "_has_graphical_session", lambda: True)
    told = {"IdleHint": hint, "IdleSinceHint": since_us}
    assert logind_idle_s(told.__getitem__, now_s=1000.0) == idle_s
    monkeypatch.setattr(idle, "_has_graphical_session", lambda: False)
    assert logind_idle_s(told.__getitem__, now_s=1000.0) is None


def test_desktops_answer_on_their_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busctl = tmp_path / "busctl"
    busctl.write_text('#!/bin/sh\ncase "$*" in *GetIdletime) echo \'{"type":"t","data":[61500]}\';;\nesac\n')
    busctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
    assert idle.gnome_idle_s() == 61.5
    assert idle.kde_idle_s() is None  # it said nothing
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    assert idle.gnome_idle_s() is None


@dataclass
class XDisplay:
    """An X server that runs."""

    name: str
    pid: int


@pytest.fixture
def x_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[XDisplay]:
    """Runs an X server without a screen."""
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("Xvfb is not installed")
    read, write = os.pipe()
    with subprocess.Popen(
        [program, "-displayfd", str(write), "-screen", "0", "64x64x24", "-nolisten", "tcp"],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    ) as server:
        os.close(write)
        with os.fdopen(read) as numbers:
            display = f":{numbers.readline().strip()}"
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        try:
            yield XDisplay(display, server.pid)
        finally:
            server.kill()
            idle.X_SERVER.end()


def test_an_x_server_that_dies_while_it_is_asked_ends_nothing_here(
    x_server: XDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert idle.x_idle_s() is not None
    child = idle.X_SERVER.process
    assert child is not None
    assert idle.x_idle_s() is not None
    assert idle.X_SERVER.process is child  # one process answers again and again
    os.kill(x_server.pid, signal.SIGSTOP)  # it takes the connection and says nothing
    asker = idle.XServer(limit_s=60.0)
    asked = threading.Thread(target=lambda: told.append(asker.idle_s(x_server.name)))
    told: list[float | None] = []
    asked.start()
    while asker.process is None or not _is_connected(asker.process.pid):
        assert asked.is_alive()
    os.kill(x_server.pid, signal.SIGKILL)
    asked.join(60)
    assert told == [None]
    assert asker.idle_s(x_server.name) is None  # nobody is there
    asker.end()


def _is_connected(pid: int) -> bool:
    """Tells whether a process has a socket."""
    with suppress(OSError):
        return any(os.readlink(path).startswith("socket:") for path in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_an_x_server_that_goes_away_after_its_greeting_ends_the_child_and_not_us(x_server: XDisplay) -> None:
    with socket.create_server(("127.0.0.1", 0)) as front:
        number = front.getsockname()[1] - 6000  # of an X display by TCP

        def greet() -> None:
            """Passes on how two begin, and hangs up at the first request."""
            came, _ = front.accept()
            with came, socket.socket(socket.AF_UNIX) as server:
                server.connect(f"/tmp/.X11-unix/X{x_server.name.removeprefix(':')}")
                server.sendall(came.recv(4096))
                head = server.recv(8, socket.MSG_WAITALL)
                left = 4 * int.from_bytes(head[6:8], "little")
                came.sendall(head + server.recv(left, socket.MSG_WAITALL))
                came.recv(4)

        greeter = threading.Thread(target=greet)
        greeter.start()
        asker = idle.XServer(limit_s=60.0)
        with patch.object(subprocess.Popen, "kill"):  # it ends by itself
            told = asker.idle_s(f"127.0.0.1:{number}")
        greeter.join(60)
    assert told is None
    assert asker.idle_s(x_server.name) is not None  # another child answers
    asker.end()


def test_an_x_server_that_hangs_is_given_up(x_server: XDisplay) -> None:
    os.kill(x_server.pid, signal.SIGSTOP)
    asker = idle.XServer(limit_s=0.2)
    assert asker.idle_s(x_server.name) is None
    assert asker.process is None  # the child that hangs is gone
    os.kill(x_server.pid, signal.SIGCONT)
    patient = idle.XServer(limit_s=60.0)
    assert patient.idle_s(x_server.name) is not None
    patient.end()


def test_an_x_server_tells_when_its_mouse_was_moved(x_server: XDisplay) -> None:
    if shutil.which("xdotool") is None:
        pytest.skip("xdotool is not installed")
    time.sleep(0.3)  # X counts from its own start
    before = idle.x_idle_s()
    assert before is not None
    assert before >= 0.3
    subprocess.run(["xdotool", "mousemove", "10", "20"], check=True)
    after = idle.x_idle_s()
    assert after is not None
    assert after < before


def test_without_an_x_server_x_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":4711")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert idle.x_idle_s() is None
    monkeypatch.delenv("DISPLAY")
    assert idle.x_idle_s() is None


def test_the_fake_is_touched() -> None:
    fake = FakeIdle()
    fake.touched(5.0)
    assert fake.read().idle_s == 5.0
