"""A trainer whose merges cheat, each by the next of KINDS; what it trains itself is honest.

    drop    it leaves a peer's updates out and says nothing of it, three rounds in a row: the first time they
            may have come late, as far as anybody else can tell
    scale   it gives an update half of the scale that its length asks for
    state   its merged state is not what the updates make of the state before
    add     an update that nobody signed is named beside those that it merged (cheat.py)

The state that its card names goes with what it did, so that recomputing alone does not show all of it. Beside
the merged files it writes which card's state was made how, for the report.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paris_p2p.training import crew_merging, trainer
from paris_p2p.training.crew_messages import Merge, MergedReady, NotMerged, UpdateFile
from paris_p2p.updates.full_round import round_state

KINDS = ("drop", "drop again", "drop for good", "scale", "state", "add")
UNPROVEN = ("drop", "drop again")  # what attestors may take for lateness
NOTES = "cheats.jsonl"  # in the peer's data directory, which is the fourth above the work folder
NUDGE = np.float32(1e-3)
_PATCHED: Any = crew_merging
_honest_merge, _honest_round, _honest_scaled = (
    crew_merging.Merger.merge,
    _PATCHED.merge_round,
    _PATCHED.scaled,
)


class Cheating:
    """What the merge that is being made does wrong; "" while nothing can be."""

    kind = ""


def merge(self: crew_merging.Merger, command: Merge) -> MergedReady | NotMerged:
    """Merges as asked, but for what the next kind of cheating changes."""
    notes = self.job.out_dir.parents[3] / NOTES
    others = [one for one in command.candidates if one.signer != self.job.peer]
    done = notes.read_text().count("\n") if notes.exists() else 0
    Cheating.kind = KINDS[done % len(KINDS)] if others else ""
    if Cheating.kind.startswith("drop"):
        victim = min(one.signer for one in others)
        left = tuple(one for one in command.candidates if one.signer != victim)
        command = command.model_copy(update={"candidates": left})
    made = _honest_merge(self, command)
    if Cheating.kind and isinstance(made, MergedReady):
        note(notes, made)
    return made


def note(notes: Path, made: MergedReady) -> None:
    with notes.open("a") as file:
        file.write(json.dumps({"kind": Cheating.kind, "merged": made.round.merged}) + "\n")


def scaled(files: Sequence[UpdateFile], updates: Sequence[Any]) -> tuple[UpdateFile, ...]:
    """Returns the scales; with "scale", the last of them is half of what it should be."""
    found: tuple[UpdateFile, ...] = _honest_scaled(files, updates)
    if Cheating.kind != "scale":
        return found
    return (*found[:-1], found[-1].model_copy(update={"scale": max(1, found[-1].scale // 2)}))


def merge_round(*args: Any, **more: Any) -> Any:
    """Merges a round; with "state", the weights are then changed a little."""
    state = _honest_round(*args, **more)
    if Cheating.kind == "state":
        state.weights[:100] += NUDGE
        if more["full"]:
            round_state(state)
    return state


if __name__ == "__main__":
    _PATCHED.Merger.merge = merge
    _PATCHED.merge_round, _PATCHED.scaled = merge_round, scaled
    sys.exit(trainer.main())
