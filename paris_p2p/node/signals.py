"""A process leaves in good order when a signal asks for it: Ctrl-C, SIGTERM, and the SIGHUP of a closed
terminal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

from paris_p2p.shown import lose_closed_terminal

LEFT_AT_ONCE = 130


def on_leave_signals(leave: Callable[[], None], at_once: Callable[[], None] = lambda: None) -> None:
    """Calls `leave` at the first signal; a second Ctrl-C or SIGTERM calls `at_once` and ends the process
    there.

    SIGHUP never hurries: a terminal that closes sends it more than once, from the shell and from the kernel.
    Where `nohup` switched it off it stays so. Call in the event loop's thread.
    """
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def on_signal(hurry: bool) -> None:
        if not hurry:
            lose_closed_terminal()
        if asked.is_set():
            if hurry:
                at_once()
                sys.stdout.flush()
                os._exit(LEFT_AT_ONCE)  # trainer, gate and p2pd die with us: pipe end and parent-death signal
            return
        asked.set()
        leave()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, True)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, on_signal, False)
