"""Loss curves of an evaluation's page from the run's own history, where this machine keeps one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from paris_p2p.keyring import load_keyring
from paris_p2p.node.kept_admission import kept_opener
from paris_p2p.node.run_history import history_on_disk
from paris_p2p.run_file import RUN_FILE, read_run
from paris_p2p.score.figures import Curve


def history_curves(run_id: str, data_dirs: Iterable[Path]) -> list[Curve]:
    """Returns a curve of the gate's comparable loss for each slot, over the clips that it was trained on,
    from the data directory that knows most tips; none where none knows the run.
    """
    found = []
    for data_dir in data_dirs:
        folder = data_dir / "runs" / run_id
        if not (folder / RUN_FILE).exists():
            continue
        run = read_run(folder / RUN_FILE, run_id, mend="join the run again")
        history = history_on_disk(data_dir, run, kept_opener(run, load_keyring(folder)))
        found.append({slot: lines for slot, lines in history.lines().items() if lines})
    best = max(found, key=lambda lines: sum(map(len, lines.values())), default={})
    curves = []
    for slot, lines in best.items():
        points = [(line.clips, line.gate_loss) for line in lines if line.gate_loss is not None]
        if len(points) > 1:
            curves.append(Curve(slot.replace("-", " "), *np.array(points, dtype=np.float64).T))
    return curves
