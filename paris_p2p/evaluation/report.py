"""An evaluation as report.html and results.json: the same numbers for a person and for a program."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from paris_p2p.disk import write_atomic
from paris_p2p.errors import DataError
from paris_p2p.evaluation.evidence import Evidence
from paris_p2p.evaluation.headline import headline
from paris_p2p.evaluation.options import EvaluateOptions
from paris_p2p.evaluation.results import results_json
from paris_p2p.evaluation.scorecard import score_all
from paris_p2p.evaluation.sections import sections_of
from paris_p2p.pasted import invites_in
from paris_p2p.progress import Progress
from paris_p2p.score.figures import Curve
from paris_p2p.score.intervals import Plan
from paris_p2p.score.page import Report, render

MAX_LOSS_LINES = 1_000_000
Facts = dict[str, str]


def write_evaluation(
    out: Path,
    evidence: Evidence,
    losses: Path | None,
    made: Facts,
    progress: Progress,
    plan: Plan | None = None,
    known: Sequence[Curve] = (),
) -> None:
    """Writes out/results.json, then out/report.html; each whole or not at all.

    Loss curves are those of the file `losses`, or else those that are `known` of the run's history.
    """
    curves = read_losses(losses) if losses else list(known)
    scored = score_all(evidence, plan or Plan(), progress)
    _write(out / "results.json", results_json(made, evidence, scored))
    title = f"Is it any good? {', '.join(scored)} against {len(evidence.clips)} held-out clips"
    first = headline({name: one.card for name, one in scored.items()}, evidence)
    sections = sections_of(evidence, scored, curves)
    _write(out / "report.html", render(Report(title, first, sections, tuple(made.items()))))


def made_by(command: Sequence[str], options: EvaluateOptions) -> Facts:
    """Returns what a number needs to be believed: what it was made from, with what, and when. An invite is a
    key: its peers stay out.
    """
    shown = [next(invites_in(word), "").partition("?")[0] or word for word in command]
    names = ("paris-p2p", "torch", "numpy", "scikit-learn", "matplotlib")
    return {
        "command": shlex.join(shown),
        "options": options.model_dump_json(),
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def read_losses(path: Path) -> list[Curve]:
    """Returns a curve for each name in a file of JSON lines {"model": name, "clips": seen, "loss": held-out
    loss}. DataError.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for count, line in enumerate(file, 1):
                if count > MAX_LOSS_LINES:
                    raise DataError(f"{path} has more than {MAX_LOSS_LINES} lines; keep one in a few")
                if line.strip():
                    row = json.loads(line)
                    point = float(row["clips"]), float(row["loss"])
                    if not np.isfinite(point).all():
                        raise ValueError(f"line {count} is not finite")
                    found.setdefault(str(row["model"])[:100], []).append(point)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path} cannot be read ({error}); each line must be {{"model": …, "clips": …, "loss": …}}'
        ) from error
    return [Curve(name, *np.array(sorted(points)).T) for name, points in found.items()]


def _write(path: Path, text: str) -> None:
    write_atomic(path, text.encode("utf-8", "backslashreplace"))  # a path need not be UTF-8
