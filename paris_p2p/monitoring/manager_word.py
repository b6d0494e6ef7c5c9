"""What a service manager is told (sd_notify): ready, what the node does, that it lives, and that it ends.

Where no manager listens, nothing is sent. Source: systemd's sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress

from paris_p2p.errors import ParisError
from paris_p2p.shown import shown

log = logging.getLogger(__name__)
TOLD_EVERY_S = 10.0
STATUS_LETTERS = 200
SayNow = Callable[[], Awaitable[str]]


class Manager:
    """The service manager that started this program, if one did; it is this process's alone to speak to."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ):
        self._address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if usec.isdecimal() and ours else 0.0

    @property
    def listens(self) -> bool:
        """Tells whether there is a manager."""
        return bool(self._address)

    def tell(self, *lines: str) -> None:
        """Sends lines like READY=1; a manager that does not take them changes nothing."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.debug("the service manager was not told: %s", error)


@asynccontextmanager
async def told_to_manager(manager: Manager, words: SayNow) -> AsyncIterator[None]:
    """Tells a manager that the node is ready, and while inside that it lives and what `words` say."""
    if not manager.listens:
        yield
        return
    manager.tell("READY=1")
    telling = asyncio.create_task(_keep_telling(manager, words))
    try:
        yield
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling
        manager.tell("STOPPING=1", "STATUS=ending")


async def _keep_telling(manager: Manager, words: SayNow) -> None:
    beat = asyncio.create_task(_beat(manager)) if manager.watchdog_s else None
    try:
        while True:
            try:
                manager.tell(f"STATUS={shown(await words(), STATUS_LETTERS)}")
            except ParisError as error:  # p2pd is being restarted: what was said stands
                log.debug("what the node does was not told: %s", error)
            except Exception:  # the manager would hear nothing more, and end a node that lives
                log.exception("what the node does could not be told")
            await asyncio.sleep(TOLD_EVERY_S)
    finally:
        if beat is not None:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)


async def _beat(manager: Manager) -> None:
    """Says that the event loop turns, thrice as often as the manager wants to hear it."""
    while True:
        manager.tell("WATCHDOG=1")
        await asyncio.sleep(manager.watchdog_s / 3)
