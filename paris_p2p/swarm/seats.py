"""Decides who may hold a stream of the answering side, and who leaves when all places are taken.

Places are for peers that are being answered. Peer ids cost nothing, so a count of a peer's streams alone
keeps nobody out. A stream whose request has not come, or whose answer is sent, holds no seat. Of those that
are being answered, an asker that takes nothing goes first, then the asker that holds most; a peer with a part
in a run here is let in before strangers, and the one that was served least before the one that was served
most.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MAX_STREAMS = 64  # answered at once
MAX_BULK_STREAMS = 48  # of them with chunks, or other long answers: the others stay for short ones
_MIN_BULK_STREAMS = 4
_BULK_BYTES_PER_S = 8192.0  # of the upload limit, for a stream of chunks to be worth beginning
MAX_STREAMS_PER_PEER = 8
MAX_IDLE_STREAMS = 192  # whose request has not come, or whose answer is sent
MAX_IDLE_STREAMS_PER_PEER = 16
STUCK_S = 3.0  # an asker that took nothing for so long leaves when another needs its seat
TURN_S = 5.0  # nobody who takes what is sent is asked to leave before
_FAIR_BYTES = 4 << 20  # of a difference in what two were served, below which they are alike
_HALF_LIFE_S = 60.0  # of what is remembered about who was served
_MAX_REMEMBERED = 4096


@dataclass(eq=False)
class Seat:
    """Holds the state of one stream.

    `since_s` is when it got its seat, or else began to be idle; `moved_s` when its asker last took
    something.
    """

    peer: str
    group: str  # of addresses, so that one who makes up ids counts once
    known: bool
    end: Callable[[], object] = field(repr=False)  # breaks the stream off
    since_s: float = 0.0
    moved_s: float = 0.0
    bulk: bool = False
    relayed: bool = False  # its stream goes through a relay


def who_leaves(
    seats: Sequence[Seat], newcomer: Seat, served: Mapping[str, float], now_s: float
) -> Seat | None:
    """Returns the one of full `seats` that the newcomer gets; None when it has to come again later."""
    weaker = [seat for seat in seats if newcomer.known or not seat.known]
    stuck = [seat for seat in weaker if now_s - seat.moved_s > STUCK_S]
    if stuck:
        return min(stuck, key=lambda seat: (seat.known, seat.moved_s))
    held = Counter(seat.group for seat in seats)
    crowd = [seat for seat in weaker if held[seat.group] > held[newcomer.group] + 1]
    if crowd:
        return max(crowd, key=lambda seat: (not seat.known, held[seat.group], served.get(seat.peer, 0.0)))
    turned = [seat for seat in weaker if now_s - seat.since_s > TURN_S]
    if newcomer.known and (strangers := [seat for seat in turned if not seat.known]):
        return max(strangers, key=lambda seat: served.get(seat.peer, 0.0))
    fair = served.get(newcomer.peer, 0.0) + _FAIR_BYTES
    richer = [seat for seat in turned if served.get(seat.peer, 0.0) > fair]
    return max(richer, key=lambda seat: (not seat.known, served.get(seat.peer, 0.0)), default=None)


class Seats:
    """Holds all streams of the answering side: idle ones, and the seats of those that are being answered."""

    def __init__(self, max_bulk: int = MAX_BULK_STREAMS):
        self.max_bulk = max_bulk
        self.idle: list[Seat] = []  # the longest idle first
        self.busy: list[Seat] = []
        self._served: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # peer -> (bytes, when that was so)

    def enter(self, seat: Seat, now_s: float) -> None:
        """Notes that a stream was opened.

        When too many wait for nothing, one of the asker that has most of them is ended.
        """
        seat.since_s = seat.moved_s = now_s
        self.idle.append(seat)
        own = [other for other in self.idle if other.peer == seat.peer]
        if len(own) > MAX_IDLE_STREAMS_PER_PEER:
            self._end(own[0])
        elif len(self.idle) > MAX_IDLE_STREAMS:
            held = Counter(other.group for other in self.idle)
            self._end(
                max(self.idle, key=lambda other: (not other.known, held[other.group]))
            )  # its first is its oldest

    def begin(self, seat: Seat, now_s: float, *, bulk: bool) -> bool:
        """Gives a stream a seat, perhaps another's, once its request came or its answer turns out long.

        Returns False when there is none.
        """
        rivals = [other for other in self.busy if other is not seat and (other.bulk or not bulk)]
        own = [other for other in self.busy if other is not seat and other.peer == seat.peer]
        leaver: Seat | None = None
        if len(own) >= MAX_STREAMS_PER_PEER:
            leaver = next((other for other in own if now_s - other.moved_s > STUCK_S), None)
        elif len(rivals) >= (self.max_bulk if bulk else MAX_STREAMS):
            leaver = who_leaves(rivals, seat, self._remembered(rivals, seat, now_s), now_s)
        else:
            return self._sit(seat, now_s, bulk)
        if leaver is None:
            return False
        self._end(leaver)
        return self._sit(seat, now_s, bulk)

    def rest(self, seat: Seat, now_s: float) -> None:
        """Frees the seat of a stream whose answer is sent; the stream is idle."""
        if seat in self.busy:
            self.busy.remove(seat)
            seat.since_s = now_s
            self.idle.append(seat)
            own = [other for other in self.idle if other.peer == seat.peer]
            if len(own) > MAX_IDLE_STREAMS_PER_PEER:  # they were fewer while this one was answered
                self._end(own[0])

    def leave(self, seat: Seat) -> None:
        for places in (self.idle, self.busy):
            if seat in places:
                places.remove(seat)

    def note(self, seat: Seat, count_bytes: int, now_s: float) -> None:
        """Notes that its asker took so many bytes."""
        seat.moved_s = now_s
        before = self._served_bytes(seat.peer, now_s)
        self._served.pop(seat.peer, None)
        self._served[seat.peer] = before + count_bytes, now_s
        if len(self._served) > _MAX_REMEMBERED:
            self._served.popitem(last=False)

    def _sit(self, seat: Seat, now_s: float, bulk: bool) -> bool:
        self.leave(seat)
        seat.since_s = seat.moved_s = now_s
        seat.bulk = bulk
        self.busy.append(seat)
        return True

    def _end(self, seat: Seat) -> None:
        self.leave(seat)
        seat.end()

    def _remembered(self, seats: Iterable[Seat], newcomer: Seat, now_s: float) -> dict[str, float]:
        return {
            peer: self._served_bytes(peer, now_s) for peer in {newcomer.peer, *(seat.peer for seat in seats)}
        }

    def _served_bytes(self, peer: str, now_s: float) -> float:
        count, when_s = self._served.get(peer, (0.0, now_s))
        return float(count * 0.5 ** ((now_s - when_s) / _HALF_LIFE_S))


def group_of(peer: str, address: str) -> str:
    """Returns the network an address is of: /24, or /48 of IPv6.

    Where that says nothing (relayed, private, loopback) it is the peer itself.
    """
    _, kind, host, *_ = [*address.split("/"), "", ""]
    if kind not in ("ip4", "ip6") or "/p2p-circuit" in address:
        return peer
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return peer
    return (
        str(ipaddress.ip_network(f"{ip}/{24 if ip.version == 4 else 48}", strict=False))
        if ip.is_global
        else peer
    )


def bulk_streams(limit_bytes_per_s: float) -> int:
    """Returns how many streams of chunks an upload limit feeds.

    None of them then falls below the least rate.
    """
    most = int(limit_bytes_per_s / _BULK_BYTES_PER_S) if limit_bytes_per_s else MAX_BULK_STREAMS
    return max(_MIN_BULK_STREAMS, min(MAX_BULK_STREAMS, most))
