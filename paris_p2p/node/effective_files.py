"""The RunSpec as of some notice, in files for this node's own trainer and gate."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path

from paris_p2p.disk import explained
from paris_p2p.rules.run_state import RunState
from paris_p2p.run_file import write_effective

MAX_KEPT = 8  # a job reads its file when it starts; several slots may start from different cards


class EffectiveFiles:
    """Writes a file for each notice number that a job asks for, and keeps the last few."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._kept: OrderedDict[int, Path] = OrderedDict()
        shutil.rmtree(folder, ignore_errors=True)  # from before a restart: no job reads them any more

    def path(self, state: RunState, number: int) -> Path | None:
        """Returns a file with the RunSpec by the first `number` notices; None where it is as signed."""
        number = min(number, state.number)
        if (spec := state.spec_at(number)) == state.signed:
            return None
        path = self._kept.get(number)
        if path is None or not path.exists():
            path = self.folder / f"{number}.json"
            with explained(path):
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_effective(path, spec)
        self._kept[number] = path
        self._kept.move_to_end(number)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)[1].unlink(missing_ok=True)
        return path
