"""Decodes video files to clips of one shape: PyAV decodes, frames are picked by time, cropped and scaled.

Files are hostile: containers, pictures and work are bounded. Legend: T frames at `fps`, H x W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, BinaryIO

import av

from paris_p2p.data.frame_reader import FrameReader
from paris_p2p.data.track import Track, scan
from paris_p2p.data.unusable import Clip as Clip
from paris_p2p.data.unusable import Frames as Frames
from paris_p2p.data.unusable import UnusableVideo as UnusableVideo
from paris_p2p.spec import ClipShape

# ffmpeg looks at content, not at names: without this list a "clip.mp4" could be a playlist of other files.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,gif,apng,ogg,mxf,m4v,ivf,dv,nut,"
    "yuv4mpegpipe"
)


def decode_clip_at(file: BinaryIO, shape: ClipShape, start_s: float, track: Track | None = None) -> Frames:
    """Returns the clip that starts there, as `Video.clips` gives it; a known `track` saves a pass."""
    return next(iter(Video(file, track).clips([start_s], shape))).frames


def spread_starts(start_s: float, end_s: float, shape: ClipShape, max_clips: int) -> list[float]:
    """Returns where the clips of a stretch start, evenly spread.

    It gives one start even where no clip fits: reading then finds the stretch too short.
    """
    clip_s = shape.frames / shape.fps
    count = max(1, min(max_clips, int((end_s - start_s) / clip_s + 0.01)))
    return [start_s + i * (end_s - start_s) / count for i in range(count)]


class Video:
    """Reads a video file.

    `track` is what a pass over its packets found; `remarks` counts what reading met. UnusableVideo when the
    file is not a video that can be read.
    """

    def __init__(self, file: BinaryIO, track: Track | None = None) -> None:
        self.file = file
        self.remarks: Counter[str] = Counter()
        if track is None:
            with _refusals(), closing(self.open()) as container:
                track = scan(container)
        self.track = track

    def clips(self, starts_s: Sequence[float], shape: ClipShape) -> Iterator[Clip]:
        """Yields the clips that start at `starts_s` (rising) and do not lie on damage.

        UnusableVideo when there was none.
        """
        count = 0
        with _refusals(), closing(FrameReader(self.open, self.track, self.remarks)) as reader:
            for start_s in starts_s:
                clip = reader.clip(start_s, shape)
                if clip is not None:
                    count += 1
                    yield clip
        lost = len(starts_s) - count
        if not count:
            raise self._nothing(shape)
        if lost:
            self.remarks["clips lost to damage or a short end"] += lost

    def pictures(self, width: int, threads: int = 1) -> Iterator[tuple[float, Any]]:
        """Yields every frame with its time in seconds, as [h, width, 3] in blue, green, red.

        All have the size of the first.
        """
        height = 0
        with _refusals(), closing(FrameReader(self.open, self.track, self.remarks, threads)) as reader:
            for frame, time_s, _ in reader.timed():
                height = height or max(2, min(4 * width, round(width * frame.height / frame.width)))
                size = {"width": width, "height": height, "interpolation": "FAST_BILINEAR"}
                yield time_s, frame.to_ndarray(format="bgr24", **size)

    def open(self) -> Any:
        """Opens the container anew, at its start."""
        self.file.seek(0)
        return av.open(self.file, options={"format_whitelist": CONTAINERS})

    def _nothing(self, shape: ClipShape) -> UnusableVideo:
        clip_s = shape.frames / shape.fps
        wanted = f"a clip is {shape.frames} frames at {shape.fps:g} a second, {clip_s:.2f} s"
        there = f"{self.track.frames} frames, {self.track.duration_s:.2f} s"
        if self.remarks["packets damaged"] and self.track.duration_s >= clip_s:
            damaged = f"{self.remarks['packets damaged']} damaged packets"
            return UnusableVideo("damaged", f"{damaged} in {there}; {wanted}, and none is whole")
        return UnusableVideo(
            "too short", f"{there}; {wanted}: lower --frames, or raise --fps, for such videos"
        )


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns what ffmpeg or the file system refuses into UnusableVideo."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as error:
        text = str(error)
        if isinstance(error, av.InvalidDataError):
            text = (
                f"no video that can be read, or one that was broken off before its index was written ({text})"
            )
        raise UnusableVideo("unreadable", text) from error
