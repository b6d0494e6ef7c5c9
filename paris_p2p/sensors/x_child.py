"""Answers how long nobody has touched an X display, in a process of its own, since Xlib ends the process
where the server goes away: a display's name comes in on each line, seconds or nothing go out. It imports
nothing of ours, so that it starts in no time.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys


def main() -> int:
    """Answers until nobody asks any more."""
    for line in sys.stdin.buffer:
        told = display_idle_s(line.rstrip(b"\n"))
        print("" if told is None else told, flush=True)
    return 0


def display_idle_s(name: bytes) -> float | None:
    """Returns what the screen saver extension of a display tells; None where there is none."""
    try:
        x, saver = (ctypes.CDLL(ctypes.util.find_library(library) or library) for library in ("X11", "Xss"))
    except OSError:
        return None
    x.XOpenDisplay.restype = x.XDefaultRootWindow.restype = ctypes.c_void_p
    saver.XScreenSaverAllocInfo.restype = ctypes.POINTER(_XScreenSaverInfo)
    display = x.XOpenDisplay(name)
    if not display:
        return None
    try:
        events = ctypes.c_int()
        if not saver.XScreenSaverQueryExtension(
            ctypes.c_void_p(display), ctypes.byref(events), ctypes.byref(ctypes.c_int())
        ):
            return None
        info = saver.XScreenSaverAllocInfo()
        root = ctypes.c_void_p(x.XDefaultRootWindow(ctypes.c_void_p(display)))
        is_told = saver.XScreenSaverQueryInfo(ctypes.c_void_p(display), root, info)
        idle_s = info.contents.idle / 1000.0 if is_told else None
        x.XFree(info)
        return idle_s
    finally:
        x.XCloseDisplay(ctypes.c_void_p(display))


class _XScreenSaverInfo(ctypes.Structure):
    _fields_ = (
        ("window", ctypes.c_ulong),
        ("state", ctypes.c_int),
        ("kind", ctypes.c_int),
        ("til_or_since", ctypes.c_ulong),
        ("idle", ctypes.c_ulong),  # milliseconds
        ("event_mask", ctypes.c_ulong),
    )


if __name__ == "__main__":
    sys.exit(main())
