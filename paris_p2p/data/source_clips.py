"""Reads sources (videos, parts of them, images) to clips: the one place that asks which of these it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from paris_p2p.data.decode import Clip, Frames, UnusableVideo, Video, decode_clip_at, spread_starts
from paris_p2p.data.film_parts import clips_in
from paris_p2p.data.images import decode_image
from paris_p2p.data.sources import Source
from paris_p2p.spec import ClipShape


def read_parts(
    parts: Sequence[Source], shape: ClipShape, max_clips: int, remarks: Counter[str]
) -> Iterator[tuple[Source, Clip | UnusableVideo]]:
    """Yields the clips of one file's parts in order, at most `max_clips` of each, or why a part gives none.

    `remarks` counts what reading met. Each file is opened once, whatever the number of its parts.
    """
    try:
        with parts[0].open() as file:
            if parts[0].is_image:
                yield parts[0], Clip(0.0, decode_image(file, shape))
                return
            video = Video(file, parts[0].track)
            try:
                yield from _clips(video, parts, shape, max_clips)
            finally:
                remarks.update(video.remarks)
    except OSError as error:
        raise UnusableVideo("unreadable", str(error)) from error


def _clips(
    video: Video, parts: Sequence[Source], shape: ClipShape, max_clips: int
) -> Iterator[tuple[Source, Clip | UnusableVideo]]:
    plan = [
        (part, start_s)
        for part in parts
        for start_s in starts_of(part, shape, max_clips, video.track.duration_s)
    ]
    owner = {start_s: part for part, start_s in plan}
    gave: set[str] = set()
    reached = 0
    for clip in video.clips([start_s for _, start_s in plan], shape):
        part = owner[clip.start_s]
        while parts[reached].id != part.id:
            yield from _nothing(parts[reached], gave)
            reached += 1
        gave.add(part.id)
        yield part, clip
    for part in parts[reached:]:
        yield from _nothing(part, gave)


def _nothing(part: Source, gave: set[str]) -> Iterator[tuple[Source, UnusableVideo]]:
    if part.id not in gave:
        yield part, UnusableVideo("damaged", "no clip of this part is whole")


def starts_of(source: Source, shape: ClipShape, max_clips: int, duration_s: float) -> list[float]:
    """Returns where a source's clips start; with captions by time each lies inside one.

    UnusableVideo when none does.
    """
    begin_s, end_s = (0.0, duration_s) if source.span is None else (source.span.start_s, source.span.end_s)
    if not source.timed:
        return spread_starts(begin_s, end_s, shape, max_clips)
    stretches = [(max(begin_s, cue.start_s), min(end_s, cue.end_s)) for cue in source.timed]
    fitting = [(a, b, clips_in(b - a, shape)) for a, b in stretches if clips_in(b - a, shape)]
    starts_s = [start_s for a, b, count in fitting for start_s in spread_starts(a, b, shape, count)]
    if not starts_s:
        clip_s = shape.frames / shape.fps
        raise UnusableVideo(
            "no caption", f"none of {len(source.timed)} captions by time is as long as a clip, {clip_s:.2f} s"
        )
    if len(starts_s) <= max_clips:
        return starts_s
    return [starts_s[i * len(starts_s) // max_clips] for i in range(max_clips)]


def read_clips(source: Source, shape: ClipShape, max_clips: int) -> list[Clip]:
    """Returns up to `max_clips` clips of a source, the one of an image; UnusableVideo when there is none."""
    found = list(read_parts([source], shape, max_clips, Counter()))
    for _, clip in found:
        if isinstance(clip, UnusableVideo):
            raise clip
    return [clip for _, clip in found if isinstance(clip, Clip)]


def read_clip_at(source: Source, shape: ClipShape, start_s: float) -> Frames:
    """Returns the clip that starts at `start_s`, as `read_clips` gave it: uint8 [T, H, W, 3].

    OSError without the file.
    """
    with source.open() as file:
        if source.is_image:
            return decode_image(file, shape)
        return decode_clip_at(file, shape, start_s, source.track)
