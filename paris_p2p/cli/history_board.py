"""A run's past as curves for TensorBoard, written by tensorboardX: `paris-run history --tensorboard`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paris_p2p.disk import explained
from paris_p2p.errors import UsageError

if TYPE_CHECKING:
    from paris_p2p.node.run_history import RunHistory
    from paris_p2p.rules.history import HistoryLine

_SUFFIX = ".paris"


def write_tensorboard(found: RunHistory, folder: Path) -> str:
    """Writes a folder for each slot, in place of what an earlier call wrote, and returns what to type."""
    try:
        writing = importlib.import_module("tensorboardX")
    except ImportError as error:
        raise UsageError(
            "--tensorboard needs the extra `history`: from a clone, pip install -e '.[history]'"
        ) from error
    count = 0
    with explained(folder):
        for slot, lines in found.lines().items():
            if not lines:
                continue
            for old in (folder / slot).glob(f"events.out.tfevents.*{_SUFFIX}"):
                old.unlink()
            with writing.SummaryWriter(str(folder / slot), filename_suffix=_SUFFIX) as writer:
                for line in lines:
                    _add(writer, line)
            count += len(lines)
    return f"wrote {count:,} points; look at them with: tensorboard --logdir {folder}"


def _add(writer: Any, line: HistoryLine) -> None:
    """Adds one tip's numbers at its steps and at the time when its card was signed."""
    values = {
        "loss/gate": line.gate_loss,
        "loss/training": line.train_loss,
        "clips": float(line.clips),
        "clips_per_s": line.clips_per_s,
        "times_the_rate_was_lowered": float(line.lowered),
    }
    for name, value in values.items():
        if value is not None:
            writer.add_scalar(name, value, line.steps, walltime=line.at_s)
