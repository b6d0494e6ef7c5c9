"""Records that do not count yet, and may once a certificate or a notice comes that allows their signer.

They come in any order. What finds no place here comes again from the bulletin board, with each reading.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

from paris_p2p.envelope import Envelope
from paris_p2p.rules.run_state import RunState

MAX_RECORDS = 512  # of a run
MAX_OF_A_SIGNER = 16


class NotYet:
    """Keeps a bounded number of verified records, the newest of each signer."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, Envelope[Any]] = OrderedDict()  # by id

    def __len__(self) -> int:
        return len(self._records)

    def keep(self, envelope: Envelope[Any], state: RunState) -> None:
        """Keeps a record that does not count by the state, if its signer's right is all that it lacks."""
        if envelope.id in self._records or not state.lacks_right(envelope):
            return
        self._records[envelope.id] = envelope
        mine = [id for id, one in self._records.items() if one.signer == envelope.signer]
        if len(mine) > MAX_OF_A_SIGNER:
            del self._records[mine[0]]
        if len(self._records) > MAX_RECORDS:
            loudest = Counter(one.signer for one in self._records.values()).most_common(1)[0][0]
            del self._records[next(id for id, one in self._records.items() if one.signer == loudest)]

    def take(self, state: RunState) -> list[Envelope[Any]]:
        """Returns the records that count by now, and forgets them and those that never will."""
        known = list(self._records.items())
        for id, one in known:
            if not state.lacks_right(one):
                del self._records[id]
        return [one for _, one in known if state.counts(one)]
