"""Writes clips to files, by the file's ending: mp4 and gif are one file a clip, png is a sheet (for images
one file each), npy and npz hold raw frames.

Every file appears whole or not at all. Legend: B clips, T frames, H x W pixels.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from paris_p2p.data.unusable import Frames
from paris_p2p.disk import temporary_for, write_atomic
from paris_p2p.errors import ReadOnlyError, UsageError

Info = dict[str, Any]  # what a clip was made from: goes into the file's metadata
MAX_SHEET_CLIPS = 64
GIF_MAX_FPS = 50
_MP4_CODECS = (("libx264", {"crf": "16", "preset": "slow"}), ("mpeg4", {"qscale": "2"}))
# x264's AVX-512 kernels make one of several files of the same frames, its AVX2 kernels always one.
_SAME_BYTES = {"x264-params": "asm=AVX2"}


class ClipWriter:
    """Takes clips as they come, and keeps on disk what goes into one file; `paths` are the files that are
    done.
    """

    def __init__(self, out: Path, clips: int, fps: float):
        self.out, self.clips, self.fps = out, clips, fps
        self.suffix = out.suffix.lower()
        self.paths: list[Path] = []
        self._held: Frames | None = None  # a file of its own, in npy's format
        self._held_path = temporary_for(out)
        self._infos: list[Info] = []

    def add(self, videos: Frames, infos: Sequence[Info]) -> None:
        """Writes clips [B T H W 3], or keeps them until all are there."""
        for video, info in zip(videos, infos, strict=True):
            one_by_one = _SINGLE.get(self.suffix) or (_IMAGE.get(self.suffix) if len(video) == 1 else None)
            if one_by_one is not None:
                number = len(self.paths)
                path = self.out if self.clips == 1 else self.out.with_stem(f"{self.out.stem}-{number:03}")
                self._write(path, one_by_one(video, self.fps, info))
                continue
            if self._held is None:
                self._held = np.lib.format.open_memmap(
                    self._held_path, mode="w+", dtype=np.uint8, shape=(self.clips, *video.shape)
                )
            self._held[len(self._infos)] = video
            self._infos.append(info)

    def finish(self) -> None:
        """Makes the one file of all clips, where there is one."""
        if self._held is None:
            return
        if self.suffix == _RAW:
            del self._held  # written out
            os.replace(self._held_path, self.out)
            self.paths.append(self.out)
        else:
            self._write(self.out, _TOGETHER[self.suffix](self._held, self.fps, self._infos))

    @property
    def notes(self) -> tuple[str, ...]:
        """Says what a file does not keep of its clips."""
        if self.suffix == ".gif" and self.fps > GIF_MAX_FPS:
            kept = f"a gif plays at most {GIF_MAX_FPS} frames a second: of {self.fps:g} those are kept"
            return (f"{kept}, at the clips' own speed; .mp4 keeps all",)
        return ()

    def close(self) -> None:
        """Removes what was held until all clips are there."""
        self._held = None
        self._held_path.unlink(missing_ok=True)

    def _write(self, path: Path, data: bytes) -> None:
        write_atomic(path, data)
        self.paths.append(path)


@contextmanager
def open_writer(out: Path, clips: int, fps: float, frames: int = 0) -> Iterator[ClipWriter]:
    """Opens a writer for `clips` clips of `frames` frames (0: not known).

    UsageError for an ending it does not know, ReadOnlyError when the folder cannot be written.
    """
    known = [*_SINGLE, *_TOGETHER, _RAW]
    if out.suffix.lower() not in known:
        raise UsageError(
            f"{out.name!r} ends in {out.suffix or 'nothing'!r}; choose one of {', '.join(known)}"
        )
    if out.suffix.lower() == ".png" and frames != 1 and clips > MAX_SHEET_CLIPS:
        raise UsageError(
            f"a sheet holds at most {MAX_SHEET_CLIPS} clips, not {clips}; ask for fewer, or write .npy"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReadOnlyError(
            f"cannot write to {out.parent}: {error.strerror}; choose another place with --out"
        ) from error
    if not os.access(out.parent, os.W_OK):
        raise ReadOnlyError(f"cannot write to {out.parent}; choose another place with --out")
    writer = ClipWriter(out, clips, fps)
    try:
        yield writer
        writer.finish()
    finally:
        writer.close()


def _mp4(video: Frames, fps: float, info: Info) -> bytes:
    """Returns H.264, or MPEG-4 where this build of FFmpeg has none; the info is the file's comment."""
    codec, options = next(
        (name, options) for name, options in _MP4_CODECS if name in av.codec.codecs_available
    )
    if codec == "libx264" and torch.cpu._is_avx512_supported():
        options = options | _SAME_BYTES
    # 4:2:0 wants even sides
    video = np.pad(video, ((0, 0), (0, video.shape[1] % 2), (0, video.shape[2] % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        container.metadata["comment"] = json.dumps(info)
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
        for frame in video:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _gif(video: Frames, fps: float, info: Info) -> bytes:
    kept, delays = gif_frames(len(video), fps)
    buffer = io.BytesIO()
    first, *others = [Image.fromarray(video[i]) for i in kept]
    durations = [10 * delay for delay in delays]  # Pillow's milliseconds
    comment = json.dumps(info).encode()
    first.save(
        buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0, comment=comment
    )
    return buffer.getvalue()


def gif_frames(frames: int, fps: float) -> tuple[list[int], list[int]]:
    """Returns which frames a gif gets, and how many hundredths of a second each stands, so that the clip
    keeps its speed.

    Browsers take a delay under 2 hundredths for 10 of them, so none is; rounding does not add up (24 a second
    are 4, 4, 5 …).
    """
    kept, starts = [0], [0]
    for i in range(1, frames):
        start = round(100 * i / fps)
        if start - starts[-1] >= 2:
            kept.append(i)
            starts.append(start)
    end = max(round(100 * frames / fps), starts[-1] + 2)
    return kept, [after - start for start, after in zip(starts, [*starts[1:], end], strict=True)]


def _png(videos: Frames, fps: float, infos: list[Info]) -> bytes:
    """Returns a sheet with a row for each clip and a column for each frame."""
    clips, frames, height, width, _ = videos.shape
    text = PngInfo()
    text.add_itxt("comment", json.dumps(infos))
    buffer = io.BytesIO()
    sheet = videos.transpose(0, 2, 1, 3, 4).reshape(clips * height, frames * width, 3)
    Image.fromarray(sheet).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def _image_png(video: Frames, fps: float, info: Info) -> bytes:
    return _png(video[None], fps, [info])


def _npz(videos: Frames, fps: float, infos: list[Info]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, frames=videos, fps=np.float64(fps), comment=np.array(json.dumps(infos)))
    return buffer.getvalue()


_SINGLE: dict[str, Callable[[Frames, float, Info], bytes]] = {".mp4": _mp4, ".gif": _gif}
_IMAGE: dict[str, Callable[[Frames, float, Info], bytes]] = {".png": _image_png}  # of clips of one frame
_TOGETHER: dict[str, Callable[[Frames, float, list[Info]], bytes]] = {".png": _png, ".npz": _npz}
_RAW = ".npy"  # the array [B T H W 3] alone: the format has no room for more
