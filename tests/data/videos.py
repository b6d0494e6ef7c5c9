"""Writes small videos for tests."""

from __future__ import annotations

import io
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from paris_p2p.data.decode import Clip, Video, spread_starts
from paris_p2p.spec import ClipShape


def decode_clips(file: BinaryIO, shape: ClipShape, max_clips: int) -> list[Clip]:
    """Returns up to `max_clips` clips that do not overlap, spread evenly; UnusableVideo."""
    video = Video(file)
    return list(video.clips(spread_starts(0.0, video.track.duration_s, shape, max_clips), shape))


def write_video(
    path: Path, frames: NDArray[np.uint8], fps: int | Fraction = 8, codec: str = "libx264rgb"
) -> Path:
    """Writes uint8 [T, H, W, 3] as a video; libx264rgb at qp 0 keeps every bit."""
    pixel_format = "rgb24" if codec == "libx264rgb" else "yuv420p"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"qp": "0"} if codec == "libx264rgb" else {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        for picture in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


def counting(frames: int, height: int = 16, width: int = 16, step: int = 10) -> NDArray[np.uint8]:
    """Returns frames, of which frame i is all (10 i)."""
    return np.stack([np.full((height, width, 3), step * i % 256, np.uint8) for i in range(frames)])


def scene(kind: int, rng: np.random.Generator, frames: int = 8, side: int = 16) -> NDArray[np.uint8]:
    """Returns one of three kinds of moving pictures that an image network tells apart."""
    y, x = np.mgrid[:side, :side]
    shift = int(rng.integers(0, side))
    colour = rng.integers(120, 255, 3)
    pictures = []
    for t in range(frames):
        if kind == 0:
            picture = np.full((side, side, 3), (20.0, 90.0, 20.0))
            picture[((x - shift - t) % side < 5) & ((y - shift) % side < 5)] = colour
        elif kind == 1:
            picture = ((np.sin((x + shift + t) * 1.5) + 1) * 0.5)[..., None] * (
                colour * np.array([1.0, 0.5, 0.2])
            )
        else:
            picture = rng.integers(0, 256, (side, side, 3)).astype(float)
        pictures.append(picture.clip(0, 255).astype(np.uint8))
    return np.stack(pictures)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
