"""Places of a bootstrap node are shared fairly between runs, and idle runs lose their places.

Keys are free, for owners and for peers, network addresses are not. So no owner, no peer and no address has
more than its quota, and when all places are taken, the one that has most gives a place to one that has none.
A run that its owner ended loses its place after a time that the operator says. Times are monotonic: a clock
that is set frees no place, and keeps none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_RUNS = 64
MAX_OF_OWNER = 8
MAX_OF_PEER = 16
MAX_OF_NETWORK = 32
_IDLE_S = 86400.0  # without a record of the run; one with an attested checkpoint is kept longer
_IDLE_WITH_TIP_S = 14 * 86400.0


@dataclass(frozen=True)
class RunPlace:
    """A mirrored run: who owns it, who brought it and from where, and what is known of its life."""

    run: str
    owner: str
    peer: str  # that gave the RunSpec; "" for a run the operator named, which keeps its place
    network: str
    heard_s: float  # monotonic: when a record of the run last came
    tips: int = 0  # slots with an attested checkpoint
    forgotten_from_s: float = math.inf  # monotonic; since its owner ended it, whatever is heard of it

    @property
    def idle_from_s(self) -> float:
        """Returns when it loses its place, if nothing more is heard of it; never for a run the operator
        named.
        """
        if not self.peer:
            return math.inf
        return min(self.heard_s + (_IDLE_WITH_TIP_S if self.tips else _IDLE_S), self.forgotten_from_s)

    def is_over(self, now_s: float) -> bool:
        """Tells whether it leaves because its owner ended it, and is not to come back."""
        return bool(self.peer) and now_s >= self.forgotten_from_s


def idle(places: Iterable[RunPlace], now_s: float) -> list[str]:
    """Returns the runs whose places are free for others."""
    return [place.run for place in places if now_s > place.idle_from_s or place.is_over(now_s)]


def idle_in_s(places: Iterable[RunPlace], now_s: float) -> float | None:
    """Returns the seconds until another run may be idle, at least a second; None when none ever is."""
    first_s = min((place.idle_from_s for place in places), default=math.inf)
    return None if math.isinf(first_s) else max(1.0, first_s - now_s)


def refusal(places: Sequence[RunPlace], new: RunPlace) -> str:
    """Returns why the run gets no place; "" if it does, once the run that `leaves_for` names has left."""
    owned, brought = (Counter(getattr(place, name) for place in places) for name in ("owner", "peer"))
    if new.peer and owned[new.owner] >= MAX_OF_OWNER:
        return f"{MAX_OF_OWNER} runs of one owner are mirrored, and {new.owner} has as many"
    if new.peer and brought[new.peer] >= MAX_OF_PEER:
        return f"{MAX_OF_PEER} runs that one peer brought are mirrored, and {new.peer} brought as many"
    if _is_full(places, new) and leaves_for(places, new) is None:
        return f"all {MAX_RUNS} places, or those of its network address, are taken by runs of no fewer peers"
    return ""


def leaves_for(places: Sequence[RunPlace], new: RunPlace) -> str | None:
    """Returns the run that leaves for `new`; None when there is a place, or nobody has more than the one who
    asks.
    """
    if not _is_full(places, new):
        return None
    movable = [place for place in places if place.peer]
    if not movable:
        return None
    of_network = Counter(place.network for place in movable)
    if of_network[new.network] >= MAX_OF_NETWORK:
        network = new.network
    else:
        network = max(of_network, key=lambda name: of_network[name])
        if new.peer and network != new.network and of_network[network] <= of_network[new.network] + 1:
            network = new.network
    within = [place for place in movable if place.network == network]
    of_peer = Counter(place.peer for place in within)
    most = max(of_peer.values(), default=0)
    if not within or (network == new.network and most <= of_peer[new.peer] + 1):
        return None
    return min(
        (place for place in within if of_peer[place.peer] == most), key=lambda p: (p.tips, p.heard_s)
    ).run


def _is_full(places: Sequence[RunPlace], new: RunPlace) -> bool:
    of_network = sum(place.network == new.network and bool(place.peer) for place in places)
    return len(places) >= MAX_RUNS or (bool(new.peer) and of_network >= MAX_OF_NETWORK)
