"""Runs a volunteer that cheats when it leads a crew: `python -m bench.crew_swarm.cheat start @invite …`.

It trains and works honestly in others' crews, and attests as everybody does. Its own rounds are made by
cheating_trainer.py; where that says "add", an update that nobody signed goes into the round here, with counts
that fit it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

from bench.crew_swarm.cheating_trainer import NOTES
from paris_p2p.cli.peer import main
from paris_p2p.crew_records import CrewRound, UpdateRecord
from paris_p2p.envelope import Envelope, seal
from paris_p2p.identity import Identity
from paris_p2p.peer import crew_lead, crew_process
from paris_p2p.rules.next_card import NewCheckpoint
from paris_p2p.training.crew_messages import MergedReady

TRAINER = "bench.crew_swarm.cheating_trainer"
_PATCHED: Any = crew_lead
_honest_round, _honest_checkpoint = _PATCHED.round_of, _PATCHED.checkpoint_of


def unsigned(like: Envelope[UpdateRecord]) -> Envelope[UpdateRecord]:
    """Returns an update of a peer that there is not, with a signature that is none."""
    nobody = Identity.generate()
    made = seal(nobody, like.record)
    data: bytes = msgpack.packb((made.payload, nobody.peer_id_bytes, os.urandom(64)))
    return Envelope(record=made.record, signer=nobody.peer_id, payload=made.payload, data=data)


def round_of(
    merged: MergedReady,
    base: Any,
    lineage: Any,
    counts: Any,
    updates: Mapping[str, Envelope[UpdateRecord]],
    refused: Any,
) -> CrewRound:
    """Makes the round of a merge; with one update more where the trainer said so."""
    if _kind(merged) == "add":
        first = merged.round.updates[0]
        more = unsigned(updates[first.update])
        named = first.model_copy(update={"update": more.id, "signer": more.signer})
        files = {
            "steps": merged.round.steps + first.steps,
            "clips": merged.round.clips + first.clips,
            "updates": tuple(sorted([*merged.round.updates, named], key=lambda one: one.signer)),
        }
        merged = merged.model_copy(update={"round": merged.round.model_copy(update=files)})
        updates = {**updates, more.id: more}
    made: CrewRound = _honest_round(merged, base, lineage, counts, updates, refused)
    return made


def checkpoint_of(merged: MergedReady, made: CrewRound, *more: Any) -> NewCheckpoint:
    """Makes what goes out with a round, with the round's counts."""
    files = merged.round.model_copy(update={"steps": made.steps, "clips": made.clips})
    new: NewCheckpoint = _honest_checkpoint(merged.model_copy(update={"round": files}), made, *more)
    return new


def _kind(merged: MergedReady) -> str:
    notes = Path(sys.argv[sys.argv.index("--data-dir") + 1]) / NOTES
    lines = notes.read_text().splitlines() if notes.exists() else []
    last = json.loads(lines[-1]) if lines else {}
    return str(last["kind"]) if last.get("merged") == merged.round.merged else ""


if __name__ == "__main__":
    crew_process._TRAINER = TRAINER
    _PATCHED.round_of, _PATCHED.checkpoint_of = round_of, checkpoint_of
    main()
