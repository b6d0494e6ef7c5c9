"""Writes odd videos for tests: damaged, joined, without a length, with covers, layers and matrices."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from tests.data.videos import counting

Pictures = NDArray[np.uint8]  # [T, H, W, 3], or 4 with transparency


class NoWayBack(io.RawIOBase):
    """Writes a file as it comes, as browsers record: nothing at its start can be filled in later."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


def encode(
    target: Any,
    frames: Pictures,
    codec: str,
    pixel_format: str,
    fps: int | Fraction = 8,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    times: Sequence[int] | None = None,
    tag: Callable[[Any], None] = lambda _: None,
    gop: int = 0,
) -> None:
    """Writes frames; `times`, in frames, are their timestamps; `tag` may change the codec before it opens."""
    with av.open(target, "w", format=container_format, options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        if gop:
            stream.codec_context.gop_size = gop
        tag(stream.codec_context)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[-1] == 4 else "rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], 1 / Fraction(fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


LOSSLESS = {"qp": "0"}


def keyframes(
    path: Path, frames: Pictures, gop: int = 1, fps: int = 8, options: dict[str, str] | None = None
) -> Path:
    """Writes a video of which every `gop`-th frame can be decoded alone, and every bit is kept."""
    encode(str(path), frames, "libx264rgb", "rgb24", fps, LOSSLESS, options, gop=gop)
    return path


def recording(frames: Pictures, fps: int = 8) -> bytes:
    """Writes WebM as MediaRecorder leaves it: with neither a duration nor an index."""
    file = NoWayBack()
    encode(file, frames, "libvpx", "yuv420p", fps, {"crf": "4", "b": "2M"}, {"live": "1"}, "webm")
    return bytes(file.data)


def with_cover(path: Path, cover: Pictures, frames: Pictures, attached: bool) -> Path:
    """Writes a video whose first stream is a cover of one picture."""
    with av.open(str(path), "w") as out:
        picture = out.add_stream(
            "png" if attached else "libx264rgb", rate=8, options={} if attached else LOSSLESS
        )
        picture.height, picture.width, picture.pix_fmt = cover.shape[1], cover.shape[2], "rgb24"
        video = out.add_stream("libx264rgb", rate=8, options=LOSSLESS)
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "rgb24"
        if attached:
            picture.disposition = av.stream.Disposition.attached_pic
        for stream, pixels in ((picture, cover), (video, frames)):
            for each in pixels:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
            out.mux(stream.encode())
    return path


def with_matrix(path: Path, frames: Pictures, matrix: tuple[int, int, int, int]) -> Path:
    """Writes an mp4 whose header lays its pictures as `matrix` (a, b, c, d) says.

    x' = a x + c y, y' = b x + d y.
    """
    keyframes(path, frames)
    a, b, c, d = matrix
    upright, laid = (
        b"".join((n << 16).to_bytes(4, "big", signed=True) for n in row)
        for row in ((1, 0, 0, 0, 1), (a, b, 0, c, d))
    )
    data = path.read_bytes()
    at = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:at] + laid + data[at + len(laid) :])
    return path


def with_hole(data: bytes, marks: Sequence[bytes]) -> bytes:
    """Overwrites with noise what follows each mark."""
    changed, noise = bytearray(data), np.random.default_rng(0).integers(1, 255, 24, dtype=np.uint8).tobytes()
    for mark in marks:
        at = data.index(mark)
        changed[at : at + len(noise)] = noise
    return bytes(changed)


def packets(path: Path) -> list[bytes]:
    """Returns the bytes of each packet of the first video stream."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def levels(count: int, side: int = 32) -> Pictures:
    """Returns frames, of which frame i is all (3 i), in a texture of its own.

    So no two frames encode to the same bytes.
    """
    frames = counting(count, side, side, step=3)
    frames[:, -2:] = np.random.default_rng(1).integers(0, 256, (count, 2, side, 3), dtype=np.uint8)
    return frames


def sound_with_cover(path: Path) -> Path:
    """Writes a song as music programs write it."""
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=8000)
        picture = out.add_stream("png", rate=1)
        picture.height = picture.width = 32
        picture.pix_fmt, picture.disposition = "rgb24", av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux([*sound.encode(frame), *sound.encode()])
        out.mux(
            [
                *picture.encode(av.VideoFrame.from_ndarray(counting(1, 32, 32)[0], format="rgb24")),
                *picture.encode(),
            ]
        )
    return path
