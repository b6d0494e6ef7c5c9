"""Guards a worker process: it dies with its parent, reads lines from stdin, keeps stdout for its messages.

This file imports nothing heavy, so that the guards stand before torch is loaded.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

from paris_p2p.training.messages import MAX_LINE_BYTES, Message

_PR_SET_PDEATHSIG = 1
ORPHANED_EXIT_CODE = 3


class Line:
    """Connects to the parent: `receive` waits for a line, `pending` looks for one, `send` answers."""

    def __init__(self, incoming: queue.SimpleQueue[bytes], outgoing: BinaryIO):
        self._incoming, self._outgoing = incoming, outgoing

    def receive(self) -> bytes:
        """Waits for a line from the parent."""
        return self._incoming.get()

    def pending(self) -> bytes | None:
        """Returns a line that waits, or None."""
        try:
            return self._incoming.get_nowait()
        except queue.Empty:
            return None

    def send(self, message: Message) -> None:
        """Sends a message; ends the process when nobody reads any more."""
        try:
            self._outgoing.write(message.to_line().encode())
            self._outgoing.flush()
        except BrokenPipeError:
            os._exit(ORPHANED_EXIT_CODE)  # nobody reads any more


def open_line(is_kill: Callable[[bytes], bool] = lambda line: False) -> Line:
    """Sets the guards and takes over stdin and stdout; called once, first thing in the process.

    The process ends at once, inside whatever it computes, when its parent dies, when stdin closes, or when a
    line comes that `is_kill` recognises. What libraries print goes to stderr.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    incoming: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_stdin, args=(incoming, is_kill), daemon=True, name="stdin").start()
    return Line(incoming, outgoing)


def _read_stdin(incoming: queue.SimpleQueue[bytes], is_kill: Callable[[bytes], bool]) -> None:
    # A descriptor of our own: sys.stdin's buffer lock would be held here when the interpreter shuts down.
    with os.fdopen(os.dup(0), "rb") as stdin:
        while line := stdin.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES or is_kill(line):
                break
            incoming.put(line)
    os._exit(ORPHANED_EXIT_CODE)
