"""A node that serves private runs alone hangs up on peers that do not show that they are members."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from paris_p2p.errors import SwarmError
from paris_p2p.node.facing import Member
from paris_p2p.swarm.seam import Swarm

log = logging.getLogger(__name__)
HELLO_S = 10.0  # from a connection to the membership that it shows
LOOK_EVERY_S = 2.0


class Watched(Protocol):
    """Is a host, as its doorkeeper sees it."""

    @property
    def members(self) -> dict[str, Member]: ...

    @property
    def swarm(self) -> Swarm: ...


class Doorkeeper:
    """Looks at who is connected, and since when."""

    def __init__(self, host: Watched, clock: Callable[[], float] = time.monotonic):
        self._host, self._clock = host, clock
        self._since_s: dict[str, float] = {}  # of connected peers

    async def run(self) -> None:
        """Looks again and again until cancelled."""
        while True:
            try:
                await self.look()
            except SwarmError as error:
                log.debug("nobody was looked at this time: %s", error)
            except Exception:
                log.exception("nobody was looked at this time")
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> list[str]:
        """Hangs up on those that said nothing for HELLO_S, and returns them."""
        runs = tuple(self._host.members.values())
        if not runs or not all(run.state.signed.private for run in runs):
            self._since_s.clear()
            return []
        swarm, now_s = self._host.swarm, self._clock()
        connected = {peer.peer_id for peer in await swarm.peers()}
        self._since_s = {peer: self._since_s.get(peer, now_s) for peer in connected}
        # Those that this node was told to keep to (bootstrap nodes, relays) hold the network together.
        known = swarm.given_peers
        strangers = [
            peer
            for peer, since_s in self._since_s.items()
            if now_s - since_s >= HELLO_S and peer not in known and not any(run.expects(peer) for run in runs)
        ]
        for peer in strangers:
            log.info("%s showed no membership in %.0f s; hanging up", peer[-8:], HELLO_S)
            await swarm.disconnect(peer)
            del self._since_s[peer]
        return strangers
