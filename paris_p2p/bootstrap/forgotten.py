"""Runs that a bootstrap node forgot because their owners ended them.

It does not join these again, though peers that still seed them go on telling of them.
"""

from __future__ import annotations

import re
from pathlib import Path

from paris_p2p.disk import explained, write_atomic

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
