"""Pure functions of records, the clock, and what this node signed say whether another signs with its key."""

from __future__ import annotations

from dataclasses import dataclass

_YOUNG_S = 120.0  # a node that started so lately is the one that stops
_GRACE_S = 60.0  # in which the other is given time to notice, and to stop


@dataclass(frozen=True)
class Twin:
    """A record under this node's key that this node did not sign, and when the first such one was noticed."""

    what: str
    issued_s: float
    first_noticed_s: float


def is_foreign(issued_s: float, started_s: float, last_before_start_ms: int) -> bool:
    """Tells whether a record that this life of the node did not sign cannot be of an earlier life either.

    `last_before_start_ms` is the ledger's newest mark from before the start, never below any signature's time
    in milliseconds: it tells where the clock was set back since. A record from before the start is nobody
    else's: the data folder may be an old copy of itself.
    """
    return issued_s > started_s and int(issued_s * 1000) > last_before_start_ms


def must_stop(twin: Twin, age_s: float) -> bool:
    """Tells whether a node that runs for `age_s` stops: the younger one at once, an older one when the other
    goes on signing after the grace.
    """
    return age_s < _YOUNG_S or twin.issued_s > twin.first_noticed_s + _GRACE_S
