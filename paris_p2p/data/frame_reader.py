"""Reads a video's stream in one pass and gives clips with rising starts, whatever of the file is damaged.

Legend: T frames at `fps`, H x W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import av
import numpy as np

from paris_p2p.data.picture import picture
from paris_p2p.data.track import DEMUX_TRIES, Track, is_jump
from paris_p2p.data.unusable import Clip, Frames, UnusableVideo
from paris_p2p.spec import ClipShape

MAX_PICTURE_PIXELS = 8192 * 4608
MAX_WORK_PIXELS = 2_000_000_000_000  # decoded for one video: eleven hours of 1920 x 1080
MAX_BAD_PACKETS = 100_000
SEEK_AHEAD_S = 4.0  # decoding on is cheaper than seeking for less
SEEK_BEFORE_S = (0.0, 1.0, 8.0)  # some containers seek to what comes a little after
_BROKEN_IN = ("mpegts",)  # seeking enters these in the middle of a frame, which gets the next one's time
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own leave transparency out


@dataclass
class FrameReader:
    """Gives clips with rising starts in one pass over a stream."""

    open: Callable[[], Any]  # opens the container anew, at its start
    track: Track
    remarks: Counter[str]  # counts what is met, by a few words; grows
    threads: int = 1  # of the decoder: for small files more cost more than they give
    work_pixels: int = 0
    at_s: float = 0.0
    offset_s: float = 0.0  # of the stream's clock against the video's start; set anew where the clock jumps
    sought: bool = False
    damaged: bool = False  # something was lost since the frame before
    pending: list[tuple[Any, float, bool]] = field(default_factory=list)  # the next clip needs them

    def __post_init__(self) -> None:
        self.container = self.open()
        try:
            self._start()
        except BaseException:
            self.container.close()
            raise

    def close(self) -> None:
        self.container.close()

    def _start(self) -> None:
        self.stream = self.container.streams[self.track.stream]
        codec = self.stream.codec_context
        if codec.width * codec.height > MAX_PICTURE_PIXELS:
            size = f"{codec.width}x{codec.height} pixels"
            raise UnusableVideo(
                "too large", f"{size}; at most {MAX_PICTURE_PIXELS} in a picture: scale it down"
            )
        self.codec = self._decoder()
        self.codec.options = {"max_pixels": str(MAX_PICTURE_PIXELS)}
        self.codec.thread_count = self.threads
        self.pixel_aspect = float(self.stream.sample_aspect_ratio or 1)
        self.frames = self._decoded()
        first = next(self.frames, None)
        if first is None:
            raise UnusableVideo("unreadable", "no picture can be decoded")
        self.offset_s = self._clock(first) or 0.0  # its start time is a frame early of H.264 in AVI
        self.pending = [(first, 0.0, False)]

    def _decoder(self) -> Any:
        layered = self.stream.metadata.get("alpha_mode") == "1"
        name = _ALPHA_DECODERS.get(self.stream.codec_context.name) if layered else None
        if name is None or name not in av.codecs_available:
            return self.stream.codec_context
        codec = av.CodecContext.create(name, "r")
        codec.extradata = self.stream.codec_context.extradata
        return codec

    def _decoded(self) -> Iterator[Any]:
        """Yields all frames that decode; errors of reading and decoding are counted and passed over."""
        for tries in range(DEMUX_TRIES):
            try:
                for packet in self.container.demux(self.stream):
                    yield from self._of(packet if packet.size else None)
                return
            except av.FFmpegError:
                self.damaged = True
                if tries + 1 == DEMUX_TRIES:
                    yield from self._of(None)

    def _of(self, packet: Any) -> Iterator[Any]:
        try:
            frames = self.codec.decode(packet)
        except av.FFmpegError:
            if packet is None:  # the end
                return
            self._bad()
            return
        for frame in frames:
            self.work_pixels += frame.width * frame.height
            if self.work_pixels > MAX_WORK_PIXELS:
                raise UnusableVideo(
                    "too large", f"over {MAX_WORK_PIXELS} pixels had to be decoded; cut or re-encode it"
                )
            if frame.is_corrupt:
                self._bad()
            else:
                yield frame

    def _bad(self) -> None:
        if self.sought:  # nothing decodes between the place sought and the first whole picture
            return
        self.damaged = True
        self.remarks["packets damaged"] += 1
        if self.remarks["packets damaged"] > MAX_BAD_PACKETS:
            raise UnusableVideo(
                "damaged", f"more than {MAX_BAD_PACKETS} packets cannot be decoded; make the file anew"
            )

    def clip(self, start_s: float, shape: ClipShape) -> Clip | None:
        """Returns a clip; None when the video ends before it does, or frames of it are missing."""
        nearest_s = 0.5 * min(self.track.frame_s, 1 / shape.fps)  # so late a frame still counts as there
        self._go_to(start_s, nearest_s)
        times_s = [start_s + i / shape.fps for i in range(shape.frames)]
        picked: list[Frames] = []
        shown, shown_until_s = None, 0.0
        for frame, time_s, damaged in self.timed():
            while (
                len(picked) < shape.frames and shown is not None and time_s > times_s[len(picked)] + nearest_s
            ):
                if damaged and times_s[len(picked)] >= shown_until_s - nearest_s:  # the frame for it is lost
                    self.pending = [(frame, time_s, damaged)]
                    return None
                picked.append(self._picture(shown, shape))
            if len(picked) == shape.frames:
                self.pending = [(shown, shown_until_s - self.track.frame_s, False), (frame, time_s, damaged)]
                break
            if shown is None and damaged and time_s > times_s[0] + nearest_s:
                self.pending = [(frame, time_s, damaged)]
                return None
            shown, shown_until_s = frame, time_s + self.track.frame_s
        while (
            len(picked) < shape.frames
            and shown is not None
            and times_s[len(picked)] < shown_until_s + nearest_s
        ):
            picked.append(self._picture(shown, shape))
        return Clip(start_s, np.stack(picked)) if len(picked) == shape.frames else None

    def _picture(self, frame: Any, shape: ClipShape) -> Frames:
        once: set[str] = set()
        shown = picture(frame, shape, self.pixel_aspect, once.add)
        self.remarks.update(once)
        return shown

    def _go_to(self, start_s: float, nearest_s: float) -> None:
        """Seeks where that saves decoding.

        Where seeking lands too late, even from before the start, it decodes from the beginning of the file.
        """
        if not self.track.in_order or start_s - self.at_s <= SEEK_AHEAD_S:
            return
        for before_s in SEEK_BEFORE_S[self.container.format.name in _BROKEN_IN :]:
            first = self._seek(max(0.0, start_s - before_s))
            reached_s = None if first is None else self._clock(first)
            if reached_s is not None and reached_s - self.offset_s <= start_s + nearest_s:
                self.sought, self.damaged = False, False
                self.at_s = reached_s - self.offset_s
                self.pending = [(first, self.at_s, False)]
                return
        self.container.close()
        self.container, self.track = self.open(), replace(self.track, in_order=False)
        self.sought, self.at_s = False, 0.0
        self._start()

    def _seek(self, to_s: float) -> Any:
        """Returns the first frame that decodes there, or None."""
        try:
            self.container.seek(int((to_s + self.offset_s) / self.stream.time_base), stream=self.stream)
            self.codec.flush_buffers()
            self.frames, self.pending, self.sought = self._decoded(), [], True
            return next(self.frames, None)
        except av.FFmpegError:
            return None

    def timed(self) -> Iterator[tuple[Any, float, bool]]:
        """Yields frames with their time since the video's start, and whether any before them were lost.

        The times rise.
        """
        pending, self.pending = self.pending, []
        yield from pending
        for frame in self.frames:
            time_s = self._time_of(frame)
            if time_s >= self.at_s:
                self.at_s = time_s
                damaged, self.damaged = self.damaged, False
                yield frame, time_s, damaged

    def _time_of(self, frame: Any) -> float:
        frame_s, clock_s = self.track.frame_s, self._clock(frame)
        if clock_s is None:
            return self.at_s + frame_s
        if is_jump(clock_s - self.offset_s - self.at_s, frame_s):
            self.offset_s = clock_s - self.at_s - frame_s
        return clock_s - self.offset_s

    def _clock(self, frame: Any) -> float | None:
        """Returns the stream's own time of a frame; `frame.time` is wrong for the last of some decoders."""
        if self.track.counted or frame.pts is None:
            return None
        return float(frame.pts * self.stream.time_base)
