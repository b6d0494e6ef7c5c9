"""Maps clip counters to clips: once each in every pass, also where the set changes on the way.

A pass is a permutation of the set. Where the set changes in the middle of a pass, what is left of the pass
and all that is new come in one last, mixed pass; whole passes over the new set follow.
Legend: N clips of the set, M clips of the set after a change.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from paris_p2p.data.draws import Draws
from paris_p2p.errors import DataError

GONE: Final = -1  # the place of a clip that the changed set no longer holds
Places = NDArray[np.int64]
_NONE: Final = np.empty(0, np.int64)


class ClipOrder:
    """Maps each clip counter, from `first_clip` on, to the place of a clip in the set.

    `mixed` [at most N] are the places of the pass that was running when the set became this one, in their
    order. `number` is the number of the first whole pass.
    """

    def __init__(
        self, draws: Draws, clips: int, *, first_clip: int = 0, number: int = 0, mixed: Places = _NONE
    ):
        if clips < 1:
            raise DataError("the slot's shards hold no clip; the run's owner must prepare it again")
        self.draws, self.clips, self.first_clip = draws, clips, first_clip
        self._number, self._mixed = number, mixed
        self._order = lru_cache(maxsize=2)(lambda number: draws.order(number, clips))

    def __getitem__(self, counter: int) -> int:
        number, position = self._position(counter)
        return int(self._mixed[position] if number is None else self._order(number)[position])

    def changed(self, first_clip: int, places: Places, clips: int) -> ClipOrder:
        """Returns the order from counter `first_clip` on, at which the set becomes another one.

        `places` [N] says where each clip of this set stands among the M = `clips` clips of the other one, or
        GONE.
        """
        left, number = self._left(first_clip)
        if left is None:
            return ClipOrder(self.draws, clips, first_clip=first_clip, number=number)
        kept = places[left]
        new = np.setdiff1d(np.arange(clips), places)
        pool = np.union1d(kept[kept != GONE], new)  # sorted: no order of before matters
        mixed = pool[self.draws.order(number, len(pool))] if len(pool) else _NONE
        return ClipOrder(self.draws, clips, first_clip=first_clip, number=number + 1, mixed=mixed)

    def _position(self, counter: int) -> tuple[int | None, int]:
        """Returns (number of the pass, None for the mixed one; the position in it)."""
        at = counter - self.first_clip
        if at < 0:
            raise DataError(
                f"clip {counter} comes before clip {self.first_clip}, where the slot's clips changed last; "
                "go on from a later checkpoint"
            )
        if at < len(self._mixed):
            return None, at
        passes, position = divmod(at - len(self._mixed), self.clips)
        return self._number + passes, position

    def _left(self, counter: int) -> tuple[Places | None, int]:
        """Returns what is left of the pass that is running at a counter, and the number of the next.

        It is None where a pass has just ended or the lineage begins.
        """
        number, position = self._position(counter)
        if number is None:
            return self._mixed[position:], self._number
        if position == 0:
            return None, number
        return self._order(number)[position:], number + 1
