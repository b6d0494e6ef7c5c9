"""Fair shares of a room: the giver that holds most gives way to one that holds less.

Peer ids are free, addresses are not. A room is divided between the addresses its contents came from, and what
an address has between its peers, so that nobody can keep the others out, however early it came (max-min
fairness).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Giver:
    """Names who brought something; an empty peer is this one itself, which gives way to nobody."""

    peer: str = ""
    address: str = ""


@dataclass
class Shares(Generic[T]):
    """Holds what is kept of each giver, in the order in which it came."""

    used_bytes: int = 0
    _of_address: Counter[str] = field(default_factory=Counter)
    _of_giver: Counter[Giver] = field(default_factory=Counter)
    _givers: dict[str, set[Giver]] = field(default_factory=dict)  # by address
    _items: dict[Giver, dict[T, None]] = field(default_factory=dict)

    def add(self, giver: Giver, item: T, size_bytes: int) -> None:
        """Adds `size_bytes` (or, negative, takes them away) to an item of this giver's."""
        self.used_bytes += size_bytes
        self._of_address[giver.address] += size_bytes
        self._of_giver[giver] += size_bytes
        self._givers.setdefault(giver.address, set()).add(giver)
        self._items.setdefault(giver, {})[item] = None

    def remove(self, giver: Giver, item: T, size_bytes: int) -> None:
        """Forgets an item and all it took."""
        self.used_bytes -= size_bytes
        self._of_address[giver.address] -= size_bytes
        self._of_giver[giver] -= size_bytes
        self._items[giver].pop(item, None)
        if not self._items[giver]:
            del self._items[giver], self._of_giver[giver]
            self._givers[giver.address].discard(giver)
            if not self._givers[giver.address]:
                del self._givers[giver.address], self._of_address[giver.address]

    def to_give_way(self, giver: Giver, more_bytes: int) -> T | None:
        """Returns what should go so that `giver` may have `more_bytes`.

        It is the newest of the giver that holds most, if that is more.
        """
        others = {
            address: held for address, held in self._of_address.items() if self._givers[address] != {_SELF}
        }
        if not others:
            return None
        heaviest = max(others, key=others.__getitem__)
        if (
            giver != _SELF
            and heaviest != giver.address
            and others[heaviest] <= self._of_address[giver.address] + more_bytes
        ):
            return None
        within = [other for other in self._givers[heaviest] if other != _SELF]
        victim = max(within, key=self._of_giver.__getitem__)
        if heaviest == giver.address and self._of_giver[victim] <= self._of_giver[giver] + more_bytes:
            return None
        return next(reversed(self._items[victim]))


_SELF = Giver()
