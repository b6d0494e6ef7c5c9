"""Video files to clips of one shape: PyAV decodes, frames are picked by their timestamps, cropped to the middle and scaled.

Legend: T frames at `fps`, H x W pixels. Files are hostile: containers, picture sizes, frames and work are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import DataError
from paris_p2p.spec import ClipShape

# ffmpeg looks at content, not at names: without this list a "clip.mp4" could be a playlist that opens other files.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,gif,ogg,mxf,m4v,ivf,dv"
MAX_PICTURE_PIXELS = 8192 * 4608
MAX_WORK_PIXELS = 100_000_000_000  # decoded for one video; seeking keeps honest long videos far below
MAX_ASPECT = 16
SEEK_AHEAD_S = 4.0  # decoding on is cheaper than seeking for less

Frames = NDArray[np.uint8]  # [T, H, W, 3]


class UnusableVideo(DataError):
    """This video gives no clip; `reason` is one of a few words to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Clip:
    """Pixels [T, H, W, 3] and where in the video they start."""

    start_s: float
    frames: Frames


def decode_clips(file: BinaryIO, shape: ClipShape, max_clips: int) -> list[Clip]:
    """Up to `max_clips` clips that do not overlap, spread evenly over the video; UnusableVideo when there is none."""
    return _decode(file, shape, lambda duration_s: _spread(duration_s, shape, max_clips))


def decode_clip_at(file: BinaryIO, shape: ClipShape, start_s: float) -> Frames:
    """The clip that starts there, as `decode_clips` gave it."""
    return _decode(file, shape, lambda _: [start_s])[0].frames


def _decode(file: BinaryIO, shape: ClipShape, plan: Callable[[float], list[float]]) -> list[Clip]:
    try:
        with av.open(file, options={"format_whitelist": CONTAINERS}) as container:
            if not container.streams.video:
                raise UnusableVideo("no video", "the file has sound or data only")
            reader = _Reader(container, container.streams.video[0], shape)
            starts_s = plan(reader.duration_s)
            clips = [clip for start_s in starts_s if (clip := reader.clip(start_s)) is not None]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnusableVideo("unreadable", str(error)) from error
    if not clips:
        raise UnusableVideo("too short", f"{reader.duration_s:.2f} s where a clip is {shape.frames / shape.fps:.2f} s")
    return clips


def _spread(duration_s: float, shape: ClipShape, max_clips: int) -> list[float]:
    clip_s = shape.frames / shape.fps
    count = max(1, min(max_clips, int(duration_s / clip_s + 0.01)))
    return [i * duration_s / count for i in range(count)]


@dataclass
class _Reader:
    """One pass over a stream that hands out clips with rising starts."""

    container: Any
    stream: Any
    shape: ClipShape
    duration_s: float = 0.0
    frame_s: float = 0.0  # of the source
    work_pixels: int = 0
    at_s: float = 0.0
    frames: Iterator[Any] = field(default_factory=lambda: iter(()))

    def __post_init__(self) -> None:
        codec = self.stream.codec_context
        if codec.width * codec.height > MAX_PICTURE_PIXELS:
            raise UnusableVideo("too large", f"{codec.width}x{codec.height} pixels; at most {MAX_PICTURE_PIXELS} in a picture")
        codec.options = {"max_pixels": str(MAX_PICTURE_PIXELS)}
        codec.thread_count = 1  # threads for every small file cost more than they give; several files are decoded side by side
        self.frame_s = float(1 / self.stream.average_rate) if self.stream.average_rate else 0.5 / self.shape.fps
        if self.stream.duration is not None:
            self.duration_s = float(self.stream.duration * self.stream.time_base)
        elif self.container.duration is not None:
            self.duration_s = self.container.duration / av.time_base
        self.pixel_aspect = float(self.stream.sample_aspect_ratio or 1)
        self.frames = self.container.decode(self.stream)
        first = next(self.frames, None)
        if first is None:
            raise UnusableVideo("unreadable", "no picture can be decoded")
        self.origin_s = float(first.time or 0.0)  # not the stream's start time: of H.264 in AVI that is a frame early
        self.pending: list[tuple[Any, float]] = [(first, 0.0)]  # decoded, and needed by the next clip

    def clip(self, start_s: float) -> Clip | None:
        """None when the video ends before the clip does."""
        if start_s - self.at_s > SEEK_AHEAD_S:
            self.container.seek(int((start_s + self.origin_s) / self.stream.time_base), stream=self.stream)
            self.frames, self.pending = self.container.decode(self.stream), []
        shape = self.shape
        times_s = [start_s + i / shape.fps for i in range(shape.frames)]
        nearest_s = 0.5 * min(self.frame_s, 1 / shape.fps)  # a frame shown up to this late still counts as there
        picked: list[Frames] = []
        shown, shown_until_s = None, 0.0
        for frame, time_s in self._timed():
            while len(picked) < shape.frames and shown is not None and time_s > times_s[len(picked)] + nearest_s:
                picked.append(_picture(shown, shape, self.pixel_aspect))
            if len(picked) == shape.frames:
                self.pending = [(shown, shown_until_s - self.frame_s), (frame, time_s)]
                break
            shown, shown_until_s = frame, time_s + self.frame_s
        while len(picked) < shape.frames and shown is not None and times_s[len(picked)] < shown_until_s + nearest_s:
            picked.append(_picture(shown, shape, self.pixel_aspect))
        return Clip(start_s, np.stack(picked)) if len(picked) == shape.frames else None

    def _timed(self) -> Iterator[tuple[Any, float]]:
        """Frames with their time since the video's start, rising; counts the work."""
        pending, self.pending = self.pending, []
        yield from pending
        for frame in self.frames:
            self.work_pixels += frame.width * frame.height
            if self.work_pixels > MAX_WORK_PIXELS:
                raise UnusableVideo("too large", f"more than {MAX_WORK_PIXELS} pixels had to be decoded; cut or re-encode it")
            time_s = self.at_s + self.frame_s if frame.time is None else float(frame.time) - self.origin_s
            if time_s >= self.at_s:
                self.at_s = time_s
                yield frame, time_s


def _picture(frame: Any, shape: ClipShape, pixel_aspect: float) -> Frames:
    """Scale so that the shape is just covered, then crop to the middle: [H, W, 3]."""
    turns = round((frame.rotation or 0) / 90) % 4
    wanted_h, wanted_w = (shape.width, shape.height) if turns % 2 else (shape.height, shape.width)
    shown_w, shown_h = frame.width * pixel_aspect, frame.height
    if not 1 / MAX_ASPECT <= shown_w / shown_h <= MAX_ASPECT:
        raise UnusableVideo("too large", f"a picture of {shown_w:.0f}x{shown_h}: nothing is left of it after cropping")
    scale = max(wanted_w / shown_w, wanted_h / shown_h)
    width, height = max(wanted_w, round(shown_w * scale)), max(wanted_h, round(shown_h * scale))
    picture = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA" if scale < 1 else "BICUBIC")
    top, left = (height - wanted_h) // 2, (width - wanted_w) // 2
    cropped: Frames = np.rot90(picture[top : top + wanted_h, left : left + wanted_w], turns)
    return cropped
