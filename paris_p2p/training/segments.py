"""Keeps which clips a lineage was trained on from which clip counter on, where notices changed them.

A resume state's metadata keep one segment for each change that its lineage met:
`<first clip counter>:<notice number>:<clips>`, separated by commas. A lineage that met none keeps nothing.
The job says of each of the slot's train shards from which notice until which it belonged to the run, so that
segments and job together give the order of clips (data/clip_order.py) on every machine alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from paris_p2p.data.clip_order import GONE, ClipOrder, Places
from paris_p2p.data.draws import Draws
from paris_p2p.errors import CheckpointError, DataError
from paris_p2p.model.checkpoint import resume_note
from paris_p2p.training.messages import ShardSpan, SlotJob, TrainJob

NOTE = "segments"  # the key in a resume state's metadata
MAX_SEGMENTS = 4096
_SEGMENT = re.compile(r"(\d{1,16}):(\d{1,16}):(\d{1,16})")


@dataclass(frozen=True)
class Segment:
    """Says that a lineage has the slot's `clips` clips of notice `notices` from `first_clip` on."""

    first_clip: int
    notices: int
    clips: int


Segments = tuple[Segment, ...]


def read_segments(path: Path, job: SlotJob, clips: int, batch_clips: int) -> Segments:
    """Returns the segments of a resume state that stands at `clips`; CheckpointError unless they can be.

    They must ascend, begin with a batch each, and have the clips that the job says.
    """
    text = resume_note(path, NOTE)
    segments = _parsed(path, text) if text else (Segment(0, 0, _clips_at(job, 0)),)
    if segments[0].first_clip or segments[-1].first_clip > clips or segments[-1].notices > job.notices:
        raise CheckpointError(
            f"the segments in {path.name} do not go from clip 0 to at most clip {clips} "
            f"and notice {job.notices}: {text[:80]!r}"
        )
    for before, after in pairwise(segments):
        if not (before.first_clip < after.first_clip and before.notices < after.notices):
            raise CheckpointError(f"the segments in {path.name} do not ascend: {text[:80]!r}")
    for segment in segments:
        there = _clips_at(job, segment.notices)
        if segment.first_clip % batch_clips or (job.spans and segment.clips != there):
            raise CheckpointError(
                f"{path.name} has a segment from clip {segment.first_clip} with {segment.clips} clips; "
                f"notice {segment.notices} gave {there}, and batches have {batch_clips}"
            )
    if text and not job.spans:
        raise CheckpointError(f"{path.name} has segments, and no notice changed the clips of {job.slot}")
    return segments


def begin_segments(job: TrainJob, batch_clips: int) -> Segments:
    """Returns the segments of the lineage that the job goes on with, one more where its clips are new to it.

    CheckpointError.
    """
    here = Segment(job.resume_clips, job.notices, _clips_at(job, job.notices))
    if job.resume_path is None:
        return (here,)
    segments = read_segments(job.resume_path, job, job.resume_clips, batch_clips)
    if _set_at(job.spans, segments[-1].notices) == _set_at(job.spans, job.notices):
        return segments
    if segments[-1].first_clip == here.first_clip:  # nothing was learned from the one before
        segments = segments[:-1]
    return (*segments, here)


def check_segments(path: Path, job: SlotJob, clips: int, batch_clips: int) -> None:
    """Raises CheckpointError unless a successor can go on from a card's resume state with its clips.

    The last segment must have the clips of the notice number that the card names.
    """
    last = read_segments(path, job, clips, batch_clips)[-1]
    if _set_at(job.spans, last.notices) != _set_at(job.spans, job.notices):
        raise CheckpointError(
            f"the card says notice {job.notices}, {path.name} was trained on the clips of {last.notices}"
        )


def check_spans(job: TrainJob, clips: Sequence[int]) -> None:
    """Raises DataError unless the job's spans end with the shards that the run has now, of so many clips."""
    now = [job.spans[i].clips for i in _set_at(job.spans, job.notices)]
    if job.spans and now != list(clips):
        raise DataError(
            f"the job says that {job.slot} has shards of {now[:8]} clips since notice {job.notices}, "
            f"the run of {list(clips)[:8]}"
        )


def segments_note(segments: Segments, spans: Sequence[ShardSpan]) -> dict[str, str]:
    """Returns what a resume state's metadata say; nothing while the clips are those of the RunSpec."""
    if not spans or all(segment.notices == 0 for segment in segments):
        return {}
    return {NOTE: ",".join(f"{s.first_clip}:{s.notices}:{s.clips}" for s in segments)}


def order_of(draws: Draws, spans: Sequence[ShardSpan], segments: Segments, clips: int) -> ClipOrder:
    """Returns the order of the last segment's `clips` clips, after all that came before."""
    if not spans:
        return ClipOrder(draws, clips)
    order = ClipOrder(draws, segments[0].clips)
    for before, after in pairwise(segments):
        order = order.changed(after.first_clip, _places(spans, before.notices, after.notices), after.clips)
    return order


def _parsed(path: Path, text: str) -> Segments:
    parts = text.split(",", MAX_SEGMENTS)
    matches = [_SEGMENT.fullmatch(part) for part in parts[:MAX_SEGMENTS]]
    found = [Segment(*map(int, match.groups())) for match in matches if match is not None]
    if len(found) != len(parts):
        raise CheckpointError(f"{path.name} has segments that cannot be read: {text[:80]!r}")
    return tuple(found)


def _set_at(spans: Sequence[ShardSpan], notices: int) -> list[int]:
    """Returns which of the shards belonged to the run at a notice."""
    return [i for i, span in enumerate(spans) if span.since <= notices and not 0 < span.until <= notices]


def _clips_at(job: SlotJob, notices: int) -> int:
    return sum(job.spans[i].clips for i in _set_at(job.spans, notices))


def _places(spans: Sequence[ShardSpan], before: int, after: int) -> Places:
    """Returns where each clip of the set at notice `before` stands in the set at notice `after`, or GONE."""
    starts, at = {}, 0
    for i in _set_at(spans, after):
        starts[i], at = at, at + spans[i].clips
    parts = [
        np.arange(starts[i], starts[i] + spans[i].clips)
        if i in starts
        else np.full(spans[i].clips, GONE, np.int64)
        for i in _set_at(spans, before)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
