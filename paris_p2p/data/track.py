"""Finds a file's video stream, how long it runs and whether its times hold, in a pass over its packets.

What a container says of itself may be missing (browser recordings), too much (a file that was cut off) or
about its first part only (joined streams), so the packets themselves are counted; nothing is decoded.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from paris_p2p.data.unusable import UnusableVideo

MAX_PACKETS = 8_000_000  # a day and a half at 60 frames a second
MAX_STILL_S = 10.0  # a longer silence between two frames is a jump of the clock
DEMUX_TRIES = 3
# Program streams time only a few frames; after seeking, ffmpeg guesses the others' times otherwise.
_GUESSED = ("mpeg",)
_NOT_THE_VIDEO = (
    Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
)


@dataclass(frozen=True)
class Track:
    """Describes the stream that is read, by its packets."""

    stream: int  # index in the container
    frame_s: float  # the usual time from frame to frame
    duration_s: float
    frames: int
    in_order: bool  # times rise without a jump, so that seeking finds them
    counted: bool = False  # no times that hold: each frame comes a step after the one before
    notes: dict[str, str] = field(default_factory=dict)  # what -> detail


@dataclass
class _Times:
    decode: list[float] = field(default_factory=list)
    show: list[float] = field(default_factory=list)
    packets: int = 0


def scan(container: Any) -> Track:
    """Reads all packets of all video streams and chooses one; UnusableVideo when there is none."""
    streams = {stream.index: stream for stream in container.streams.video}
    if not streams:
        raise UnusableVideo("no video", "the file has sound or data only")
    times, cut = _packets(container, list(streams.values()))
    index = _choose(streams, times)
    stream, mine = streams[index], times[index]
    show = np.sort(np.array(mine.show or mine.decode))
    rate_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
    steps = np.diff(show)
    steps = steps[steps > 1e-6]
    frame_s = float(np.median(steps)) if len(steps) else rate_s or 1 / 25
    jump = _jumps(mine, frame_s)
    jumps = int(jump.sum())
    timed = len(show) >= mine.packets // 2 and mine.packets > 0 and len(show) > 0
    if not timed:
        duration_s = mine.packets * frame_s
    elif jumps:
        duration_s = float(np.where(jump, frame_s, np.diff(mine.decode or mine.show)).sum()) + frame_s
    else:
        duration_s = float(show[-1] - show[0]) + frame_s
    notes = {}
    if jumps:
        notes["times jump"] = f"{jumps} times: the parts are put one after another"
    said_s = _claimed_s(container, stream)
    if cut or said_s - duration_s > max(1.0, 0.05 * said_s):
        there = f"{duration_s:.2f} s of {said_s:.2f} s are there"
        notes["ends early"] = there if said_s > duration_s else "its last packet is damaged"
    others = len(streams) - 1
    if others:
        notes["other pictures left"] = f"{others} streams that are a cover, a preview or smaller"
    counted = not timed or _numbered(container, stream)
    found = not counted and not jumps and container.format.name not in _GUESSED
    return Track(index, frame_s, duration_s, mine.packets, found, counted, notes)


def _claimed_s(container: Any, stream: Any) -> float:
    """Returns how long the stream, or else the container, says that it runs; 0 when neither does."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return float((container.duration or 0) / av.time_base)


def _numbered(container: Any, stream: Any) -> bool:
    """Says whether times are of decoding, not of showing.

    An AVI numbers packets, and frames come in another order.
    """
    return container.format.name == "avi" and bool(stream.codec_context.has_b_frames)


def _packets(container: Any, streams: list[Any]) -> tuple[dict[int, _Times], bool]:
    """Returns the times of all packets by stream, and whether reading ended in an error."""
    times: defaultdict[int, _Times] = defaultdict(_Times)
    total, tries = 0, 0
    while True:
        try:
            for packet in container.demux(streams):
                total += 1
                if total > MAX_PACKETS:
                    return times, False
                if packet.size and not packet.is_discard:
                    mine = times[packet.stream_index]
                    mine.packets += 1
                    unit_s = float(packet.time_base)
                    if packet.dts is not None:
                        mine.decode.append(packet.dts * unit_s)
                    if packet.pts is not None:
                        mine.show.append(packet.pts * unit_s)
            return times, tries > 0
        except av.FFmpegError:
            tries += 1
            if tries >= DEMUX_TRIES:
                return times, True


def _choose(streams: dict[int, Any], times: dict[int, _Times]) -> int:
    """Prefers streams that are not a cover or preview and have several frames; among them the most pixels.

    Of several as large it is the file's default, else the first.
    """
    readable = [s for s in streams.values() if s.codec_context is not None and times[s.index].packets]
    moving = [s for s in readable if not s.disposition & _NOT_THE_VIDEO]
    if not readable:
        raise UnusableVideo("unreadable", "its video holds no packet that can be read")
    if not moving:
        raise UnusableVideo("no video", "the file has sound and a cover picture only")
    most = max(times[s.index].packets for s in moving)
    several = [s for s in moving if times[s.index].packets > 1 or most == 1]
    return int(max(several, key=_preference).index)


def _preference(stream: Any) -> tuple[int, bool, int]:
    pixels = stream.codec_context.width * stream.codec_context.height
    return pixels, bool(stream.disposition & Disposition.default), -stream.index


def is_jump(step_s: float, frame_s: float) -> bool:
    """Says whether the clock was set anew from one frame to the next."""
    return step_s < -2 * frame_s or step_s > max(MAX_STILL_S, 4 * frame_s)


def _jumps(times: _Times, frame_s: float) -> NDArray[np.bool_]:
    """Says of each step between packets whether the clock jumps there.

    Where only times of showing are known, neighbours may be out of order.
    """
    steps = np.diff(times.decode or times.show)
    back_frames = 2 if times.decode else 16
    return (steps < -back_frames * frame_s) | (steps > max(MAX_STILL_S, 4 * frame_s))
