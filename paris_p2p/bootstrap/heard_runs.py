"""Runs that a bootstrap node has heard of and not joined yet: whom to ask for their RunSpecs, within bounds.

Keys are free: a signer that names many runs, or is silent when asked, holds up nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.records import PeerRecord, SealedRecord
from paris_p2p.rules.places import MAX_RUNS

MAX_HEARD_OF_ONE = 16  # runs waiting to be joined that one signer named
_MAX_HEARD = 4 * MAX_RUNS
_MAX_ASKED = 8  # at once, one of each signer
_MAX_ASKED_OF_NETWORK = 4
_AGAIN_S, _MOST_AGAIN_S = 10.0, 600.0  # until a signer that was asked for a run in vain is asked anew
_MAX_FAILED = 1024  # pairs of run and signer


class HeardRuns:
    """Notes runs by the records of those who take part in them, and says which to ask for."""

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}  # run id -> a peer that may have its RunSpec
        self._asked: dict[str, tuple[str, str]] = {}  # run id -> the peer that is asked, its network
        self._failed: dict[tuple[str, str], tuple[int, float]] = {}  # run id, peer -> how often, until when

    def note(self, envelope: Envelope[Any], now_s: float) -> bool:
        """Notes who takes part in a run; returns whether something is to be asked that was not before.

        What a sealed record names is no run that a stranger could ask for. Of a run for members only nobody
        tells a stranger, however often it asks: a signer that did not is left alone for ever longer.
        """
        if isinstance(envelope.record, SealedRecord):
            return False
        run, signer = envelope.record.run, envelope.signer
        if now_s < self._failed.get((run, signer), (0, 0.0))[1]:
            return False
        if run in self.waiting:
            if not isinstance(envelope.record, PeerRecord) or envelope.record.role != "owner":
                return False
            self.waiting[run] = signer
            return True
        if list(self.waiting.values()).count(signer) >= MAX_HEARD_OF_ONE:
            return False
        self.waiting[run] = signer
        if len(self.waiting) > _MAX_HEARD:  # a signer that takes part says so again
            del self.waiting[next(iter(self.waiting))]
        return True

    def to_ask(
        self, networks: Mapping[str, str], is_refused: Callable[[str, str, str], bool]
    ) -> Iterator[tuple[str, str]]:
        """Yields (run, peer) that are to be asked now; a peer that is connected comes first.

        `is_refused` tells whether a run gets no place; such a run is forgotten.
        """
        for run, peer in sorted(self.waiting.items(), key=lambda item: item[1] not in networks):
            network = networks.get(peer, "")
            if is_refused(run, peer, network):
                del self.waiting[run]
            elif self._may_ask(peer, network):
                del self.waiting[run]
                self._asked[run] = peer, network
                yield run, peer

    def answered(self, run: str) -> None:
        """Notes that a question is over: another may be asked."""
        self._asked.pop(run, None)

    def failed(self, run: str, peer: str, now_s: float) -> bool:
        """Notes that a peer was asked for a run in vain; returns whether it is the first that was."""
        is_first = all(run != other for other, _ in self._failed)
        times = self._failed.pop((run, peer), (0, 0.0))[0] + 1
        wait_s = min(_AGAIN_S * 2.0 ** (times - 1), _MOST_AGAIN_S) if times < 16 else _MOST_AGAIN_S
        self._failed[run, peer] = times, now_s + wait_s
        if len(self._failed) > _MAX_FAILED:
            del self._failed[next(iter(self._failed))]
        return is_first

    def _may_ask(self, peer: str, network: str) -> bool:
        asked = list(self._asked.values())
        if len(asked) >= _MAX_ASKED or any(peer == other for other, _ in asked):
            return False
        return sum(network == where for _, where in asked) < _MAX_ASKED_OF_NETWORK
