"""Runs that a bootstrap node forgot because their owners ended them.

It does not join these again, though peers that still seed them go on telling of them.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from paris_p2p.disk import explained, write_atomic
from paris_p2p.rules.run_state import RunState
from paris_p2p.store.ledger import Ledger

_HEARD = "end-heard"  # in a run's ledger
_MAX_RUNS = 4096  # the oldest go first; one that comes back is learned to be over once more, and forgotten


class ForgottenRuns:
    """Remembers run ids over restarts, one in a line of a file; `in` asks for one."""

    def __init__(self, file: Path):
        self.file = file
        self._runs = dict.fromkeys(self._read())

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._runs

    def add(self, run_id: str) -> None:
        """Remembers a run; StoreError where this disk does not take it."""
        self._runs.pop(run_id, None)
        self._runs[run_id] = None
        while len(self._runs) > _MAX_RUNS:
            del self._runs[next(iter(self._runs))]
        with explained(self.file):
            write_atomic(self.file, "".join(f"{one}\n" for one in self._runs))

    def _read(self) -> list[str]:
        try:
            lines = self.file.read_text().splitlines()
        except (OSError, ValueError):  # none yet, or damaged: what is over is learned again
            return []
        return [line for line in lines if re.fullmatch(r"[0-9a-f]{64}", line)][-_MAX_RUNS:]


def end_heard_s(ledger: Ledger, state: RunState) -> float | None:
    """Returns when this node heard that a run was ended (Unix time), also over a restart; None while it goes
    on.

    What is forgotten after the end is counted from then, not from the notice's own date: with a key that was
    stolen for a minute an end can be dated back, and all copies would go at once.
    """
    if state.ended is None:
        return None
    kept, now_s = ledger.get(_HEARD) or b"", time.time()
    if kept.isdigit() and len(kept) <= 12 and int(kept) <= now_s:
        return float(kept)
    ledger.put(_HEARD, str(int(now_s)).encode())
    return float(int(now_s))
