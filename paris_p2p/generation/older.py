"""Finds the older weights of a run's experts that autoguidance takes, in an earlier export of the run.

A swarm keeps a slot's tip, its best card and the card before the tip (rules/keeping.py): older weights are
nobody's to fetch. An owner, or anybody who generates, has them where the run was exported before.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paris_p2p.errors import UsageError
from paris_p2p.family import ancestors
from paris_p2p.fetched_run import FetchedRun
from paris_p2p.generation.exported import open_export
from paris_p2p.model.checkpoint import counters_of


def open_older(folder: Path, run: FetchedRun) -> FetchedRun:
    """Returns an earlier export of the run, with older weights for each of the run's experts: its own, or
    those of the expert that it was split from.

    UsageError when it is of another run, lacks an expert, or is not older; errors as of `open_export`.
    """
    older = open_export(folder)
    if older.id != run.id:
        raise UsageError(
            f"{folder} holds run {older.id[:16]}…, and the clips are made with {run.id[:16]}…; autoguidance "
            "takes an earlier export of the same run"
        )
    weights = {}
    for k in run.experts:
        slot = f"expert-{k}"
        found = next((one for one in (slot, *ancestors(run.spec, slot)) if one in older.weights), "")
        if not found:
            raise UsageError(f"{folder} has no weights of {slot}; take an export that has all experts")
        then, now = (counters_of(path).steps for path in (older.weights[found], run.weights[slot]))
        if then >= now:
            raise UsageError(
                f"{slot} in {folder} has {then:,} steps, the one that makes the clips {now:,}: it is not "
                "older; take an earlier export, for example of a sixteenth of the steps"
            )
        weights[slot] = older.weights[found]
    return replace(older, weights=weights, effective=run.effective)
