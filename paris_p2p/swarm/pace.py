"""Judges while an exchange runs how long it may go on: no silence, and a least rate, on both ends."""

from __future__ import annotations

from paris_p2p.swarm.seam import SILENCE_S

# A checkpoint of 29 MB at this rate takes four hours: who is slower helps nobody, and keeps a stream and a
# chunk.
LEAST_BYTES_PER_S = 2048.0
ANSWER_LEAST_BYTES_PER_S = 8192.0  # of an answer that is no blob: 4 MiB, the longest, in nine minutes
GRACE_S = 10.0


class Pace:
    """Allows `grace_s`, and a second more for every `least_bytes_per_s` that moved.

    It never allows `silence_s` without any byte. Only time that the other end may be blamed for is spent:
    a caller who waits for its own limit or disk does not call `spend`.
    """

    def __init__(
        self,
        least_bytes_per_s: float = LEAST_BYTES_PER_S,
        grace_s: float = GRACE_S,
        silence_s: float = SILENCE_S,
    ):
        self.least_bytes_per_s, self.grace_s, self.silence_s = least_bytes_per_s, grace_s, silence_s
        self._count_bytes, self._spent_s = 0, 0.0

    def left_s(self, count_bytes: int = 0) -> float:
        """Returns the seconds this may go on from the last `spend`, `count_bytes` having moved since.

        They are below zero once it is too slow.
        """
        return self.grace_s + (self._count_bytes + count_bytes) / self.least_bytes_per_s - self._spent_s

    def spend(self, count_bytes: int, spent_s: float) -> None:
        self._count_bytes, self._spent_s = self._count_bytes + count_bytes, self._spent_s + spent_s
