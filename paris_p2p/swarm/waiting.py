"""Shares the places at the DHT's door between addresses, and an address's places between its peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from paris_p2p.swarm.shares import Giver, Shares

MAX_WAITING = 128  # requests, of all peers
MAX_WAITING_OF_ONE = 16


@dataclass(eq=False)
class Place:
    """One request that waits; its task is cancelled when it is put out."""

    giver: Giver
    task: asyncio.Task[Any] | None
    put_out: bool = False


class WaitingRoom:
    """Holds requests that wait or are worked on.

    When it is full, the newest of the peer that holds most makes room for one that holds less: peer ids
    cost nothing, so that a count of each peer's requests alone keeps nobody out.
    """

    def __init__(self, address_of: Callable[[str], str]):
        self._address_of = address_of  # of a peer; "" while it is not known
        self._shares: Shares[Place] = Shares()  # in places instead of bytes
        self._held: dict[str, set[Place]] = {}  # by peer
        # while somebody needs them
        self._turns: WeakValueDictionary[Giver, asyncio.Lock] = WeakValueDictionary()

    def enter(self, peer: str) -> Place | None:
        """Gives the current task's request a place, perhaps another's; None when there is none."""
        giver = Giver(peer, self._address_of(peer))
        if len(self._held.get(peer, ())) >= MAX_WAITING_OF_ONE:
            return None
        if self._shares.used_bytes >= MAX_WAITING:
            leaver = self._shares.to_give_way(giver, 1)
            if leaver is None:
                return None
            self.leave(leaver)
            leaver.put_out = True
            if leaver.task is not None:
                leaver.task.cancel()
        place = Place(giver, asyncio.current_task())
        self._shares.add(giver, place, 1)
        self._held.setdefault(peer, set()).add(place)
        return place

    def leave(self, place: Place) -> None:
        """Frees the place of a request that is answered or was put out; again is no error."""
        held = self._held.get(place.giver.peer, set())
        if place in held:
            held.remove(place)
            self._shares.remove(place.giver, place, 1)
            if not held:
                del self._held[place.giver.peer]

    @asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Holds this request's turn: one of each address at a time, of the address's peers in turn.

        What all of them then wait for may serve the first to come, and nobody waits behind all that a
        crowd has.
        """
        address = self._address_of(peer)
        async with self._turn_of(Giver(peer, address)), self._turn_of(Giver("", address)):
            yield

    def _turn_of(self, giver: Giver) -> asyncio.Lock:
        return self._turns.setdefault(giver, asyncio.Lock())
