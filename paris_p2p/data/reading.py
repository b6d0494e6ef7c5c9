"""One source, a video or an image, to its clips: the one place that asks which of the two it is."""

from __future__ import annotations

from paris_p2p.data.decode import Clip, Frames, UnusableVideo, decode_clip_at, decode_clips
from paris_p2p.data.images import decode_image
from paris_p2p.data.sources import Source
from paris_p2p.spec import ClipShape


def read_clips(source: Source, shape: ClipShape, max_clips: int) -> list[Clip]:
    """Up to `max_clips` clips of a video, the one of an image; UnusableVideo when there is none."""
    try:
        with source.open() as file:
            return [Clip(0.0, decode_image(file, shape))] if source.is_image else decode_clips(file, shape, max_clips)
    except OSError as error:
        raise UnusableVideo("unreadable", str(error)) from error


def read_clip_at(source: Source, shape: ClipShape, start_s: float) -> Frames:
    """uint8 [T, H, W, 3]: the clip that starts there, as `read_clips` gave it; OSError when the file is gone."""
    with source.open() as file:
        return decode_image(file, shape) if source.is_image else decode_clip_at(file, shape, start_s)
