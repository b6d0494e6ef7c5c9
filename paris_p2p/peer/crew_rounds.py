"""What a lead signs of a merge: the round, and the checkpoint or the light card that goes out with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from paris_p2p.crew_records import MAX_REFUSED, CrewRound, MergedUpdate, RefusedUpdate, UpdateRecord
from paris_p2p.disk import write_atomic
from paris_p2p.envelope import Envelope
from paris_p2p.records import CardRecord
from paris_p2p.round_file import encode_round
from paris_p2p.rules.next_card import NewCheckpoint, NewRound
from paris_p2p.rules.rounds import next_counts
from paris_p2p.training.crew_messages import MergedReady


def round_of(
    merged: MergedReady,
    base: Envelope[CardRecord],
    lineage: Sequence[str],
    counts: Mapping[str, int],
    updates: Mapping[str, Envelope[UpdateRecord]],
    refused: Mapping[str, tuple[str, str]],
) -> CrewRound:
    """Returns the round that a trainer merged into the state of `base`: `updates` are the candidates by id,
    `refused` those that were left out, with their makers and codes.
    """
    files = merged.round
    went_in = [(one, updates[one.update]) for one in files.updates]
    ends = {one.signer: one.record.first_clip + one.record.clips for _, one in went_in}
    left_out = [RefusedUpdate(update=id, peer=peer, reason=code) for id, (peer, code) in refused.items()]
    left_out.sort(key=lambda one: (one.peer not in counts, one.update))  # attestors ask for those
    return CrewRound(
        run=base.record.run,
        slot=base.record.slot,
        lineage=tuple(lineage),
        steps_before=files.steps_before,
        clips_before=files.clips_before,
        steps=files.steps,
        clips=files.clips,
        full=files.full,
        merged_before=base.record.merged,
        merged=files.merged,
        updates=tuple(
            MergedUpdate(envelope=one.data, late=file.late, scale=file.scale) for file, one in went_in
        ),
        refused=tuple(sorted(left_out[:MAX_REFUSED], key=lambda one: one.update)),
        counted=next_counts(counts, ends),
    )


def checkpoint_of(
    merged: MergedReady, made: CrewRound, base: Envelope[CardRecord], round_s: float, folder: Path
) -> NewCheckpoint:
    """Writes a round into `folder` and returns what goes out with it: a full checkpoint where the trainer
    wrote its files, else a light one that stands on the base's full card.
    """
    path, record, files = folder / f"round-{made.steps:09}", base.record, merged.round
    write_atomic(path, encode_round(made))
    is_full = merged.weights_path is not None
    new = NewRound(
        parent=base.id,
        path=path,
        before=record.rounds if record.is_light else (),
        merged=files.merged,
        round_s=round_s,
        full="" if is_full else record.full or base.id,
        blobs=None if is_full else (record.weights, record.resume),
    )
    return NewCheckpoint(
        weights_path=merged.weights_path,
        resume_path=merged.resume_path,
        clips=files.clips,
        steps=files.steps,
        train_loss=merged.train_loss,
        round=new,
    )
