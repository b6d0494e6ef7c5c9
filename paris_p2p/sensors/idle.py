"""Tells how long nobody has touched this machine: keyboard and mouse of a desktop, and terminals.

Each source is one function that returns seconds, or None where it does not exist or does not answer. The
shortest answer counts. A desktop whose input nobody tells of is said so: then it is not known.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_ASK_LIMIT_S = 2.0
_TERMINALS = ("tty[0-9]*", "pts/[0-9]*")
_X_SOCKETS = Path("/tmp/.X11-unix")
_USERS = Path("/run/user")
_GNOME = (
    "org.gnome.Mutter.IdleMonitor",
    "/org/gnome/Mutter/IdleMonitor/Core",
    "org.gnome.Mutter.IdleMonitor",
    "GetIdletime",
)
_KDE = ("org.kde.screensaver", "/ScreenSaver", "org.freedesktop.ScreenSaver", "GetSessionIdleTime")
_LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")


@dataclass(frozen=True)
class IdleReading:
    """Seconds since somebody last touched this machine, by which source; without one, `why_unknown`."""

    idle_s: float | None = None
    source: str = ""
    why_unknown: str = ""


class IdleSensor(Protocol):
    """Who uses a machine is asked here."""

    def read(self) -> IdleReading:
        """Returns since when nobody has touched this machine; never raises."""
        ...


_Source = Callable[[], float | None]


class MachineIdle:
    """Asks a desktop by X, GNOME, KDE and logind, and the terminals for when they last were typed on."""

    def __init__(
        self, sources: Mapping[str, _Source] | None = None, desktop: Callable[[], str] | None = None
    ):
        self.sources = sources if sources is not None else _SOURCES
        self._desktop = desktop or desktop_here

    def read(self) -> IdleReading:
        """Returns the shortest time that is told; unknown where a desktop runs that no source tells of."""
        told = {name: idle_s for name, ask in self.sources.items() if (idle_s := ask()) is not None}
        if not told.keys() - {TERMINALS} and (desktop := self._desktop()):
            return IdleReading(
                why_unknown=f"{desktop} runs here and does not tell this process when somebody uses it; "
                "start the peer in that desktop's session"
            )
        if not told:
            return IdleReading(why_unknown="neither a desktop nor a terminal tells when somebody uses it")
        source = min(told, key=told.__getitem__)
        return IdleReading(max(0.0, told[source]), source)


def desktop_here() -> str:
    """Returns what desktop runs on this machine, as far as this process may see; empty for none."""
    if os.environ.get("WAYLAND_DISPLAY") or _any(_USERS, "*/wayland-[0-9]*"):
        return "a Wayland desktop"
    if os.environ.get("DISPLAY") or _any(_X_SOCKETS, "X[0-9]*"):
        return "an X desktop"
    return ""


def terminals_idle_s(devices: Path = Path("/dev"), now_s: float | None = None) -> float | None:
    """Returns the seconds since any terminal, also one of ssh, was last typed on: reading sets its atime."""
    typed_s = []
    for pattern in _TERMINALS:
        for path in devices.glob(pattern):
            with suppress(OSError):
                typed_s.append(path.stat().st_atime)
    return (time.time() if now_s is None else now_s) - max(typed_s) if typed_s else None


def x_idle_s() -> float | None:
    """Returns what the X server's screen saver extension (libXss) tells of keyboard and mouse; None beside
    Wayland, whose X server sees only what is typed into windows of its own.
    """
    display = os.environ.get("DISPLAY")
    if not display or os.environ.get("WAYLAND_DISPLAY"):
        return None
    return X_SERVER.idle_s(display)


class XServer:
    """Asks X in a process of its own (x_child.py): where the server goes away, Xlib ends the process that
    asked, and a server that is stopped holds it for ever. One process is asked again and again.
    """

    def __init__(self, limit_s: float = _ASK_LIMIT_S):
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def idle_s(self, display: str) -> float | None:
        """Returns the seconds that a display tells; None where it does not, or not in time."""
        with self._lock:
            try:
                process = self.process or self._started()
                told = self._asked(process, display)
            except OSError:
                told = b""
            if not told.endswith(b"\n"):  # it is gone, or hangs
                self._end()
                return None
        try:
            return float(told)
        except ValueError:
            return None

    def end(self) -> None:
        """Ends the process; the next question starts another."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("x_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is the node's to handle
        )
        atexit.register(self.end)
        return self.process

    def _asked(self, process: subprocess.Popen[bytes], display: str) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(os.fsencode(display).replace(b"\n", b"") + b"\n")
        ready, _, _ = select.select([process.stdout], [], [], self._limit_s)
        return os.read(process.stdout.fileno(), 64) if ready else b""

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        atexit.unregister(self.end)
        process.kill()
        with process:  # closes its pipes, and waits
            pass


X_SERVER = XServer()


def gnome_idle_s() -> float | None:
    """Returns what GNOME's compositor tells, in milliseconds on the bus."""
    return _milliseconds(_ask_bus("--user", "call", *_GNOME))


def kde_idle_s() -> float | None:
    """Returns what KDE's screen saver tells, in milliseconds on the bus; its zero may mean that it does not
    know.
    """
    return _milliseconds(_ask_bus("--user", "call", *_KDE)) or None


def logind_idle_s(ask: Callable[[str], Any] | None = None, now_s: float | None = None) -> float | None:
    """Returns since when systemd-logind takes all sessions for idle: 0 while it does not, None where no
    desktop's session is there to tell it.
    """
    ask = ask or (lambda name: _ask_bus("--system", "get-property", *_LOGIND, name))
    if not _has_graphical_session():
        return None
    hint, since_us = ask("IdleHint"), ask("IdleSinceHint")
    if not isinstance(hint, bool) or not isinstance(since_us, int):
        return None
    return (time.time() if now_s is None else now_s) - since_us / 1e6 if hint else 0.0


def _has_graphical_session(folder: Path = Path("/run/systemd/sessions")) -> bool:
    for path in folder.glob("[0-9c]*"):
        with suppress(OSError, UnicodeDecodeError):
            if {"TYPE=x11", "TYPE=wayland", "TYPE=mir"} & set(path.read_text(encoding="utf-8").split()):
                return True
    return False


def _milliseconds(told: Any) -> float | None:
    return told / 1000.0 if isinstance(told, int) and not isinstance(told, bool) else None


def _ask_bus(*words: str) -> Any:
    """Returns the one value that a question on D-Bus is answered with; None where there is no answer."""
    if words[0] == "--user" and not os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        return None
    command = ["busctl", "--json=short", f"--timeout={_ASK_LIMIT_S:g}", *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=2 * _ASK_LIMIT_S, check=False)
        told = json.loads(done.stdout)["data"] if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return None
    return told[0] if isinstance(told, list) and told else told


def _any(folder: Path, pattern: str) -> bool:
    with suppress(OSError):
        return any(folder.glob(pattern))
    return False


TERMINALS = "terminals"
_SOURCES: Mapping[str, _Source] = {
    "X": x_idle_s,
    "GNOME": gnome_idle_s,
    "KDE": kde_idle_s,
    "logind": logind_idle_s,
    TERMINALS: terminals_idle_s,
}
