"""From videos to latents, features and text embeddings in the cache: the long half of prepare, which can be stopped at any time.

Legend: B clips, T x H x W x 3 pixels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paris_p2p.codec.pca import FILE_NAME as PCA_FILE_NAME
from paris_p2p.codec.pca import PcaCodec, default_patch, fit_pca
from paris_p2p.codec.text import TextEncoder
from paris_p2p.codec.video import Codec
from paris_p2p.data.cache import Cache, Encoded, cache_key
from paris_p2p.data.decode import Clip, UnusableVideo
from paris_p2p.data.reading import read_clips
from paris_p2p.data.sheet import thumbnail
from paris_p2p.data.sources import Source
from paris_p2p.errors import DataError
from paris_p2p.features.image import Features
from paris_p2p.spec import ClipShape

Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]  # (stage, done, total)
FIT_CLIPS = 512  # for a patch codec: more change nothing
PSNR_CLIPS = 8
CLIPS_AT_ONCE = 4  # through codec and features: bounds the activations
CAPTIONS_AT_ONCE = 64
FP16_MAX = 65504.0


@dataclass(frozen=True)
class Decoding:
    """How videos become clips."""

    shape: ClipShape
    max_clips: int
    threads: int

    def clips_of(self, source: Source) -> list[Clip] | UnusableVideo:
        try:
            return read_clips(source, self.shape, self.max_clips)
        except UnusableVideo as unusable:
            return unusable

    def decoded(self, sources: Iterable[Source]) -> Iterator[tuple[Source, list[Clip] | UnusableVideo]]:
        return _side_by_side(self.clips_of, sources, self.threads)


def fit_codec(sources: Sequence[Source], decoding: Decoding, patch: tuple[int, int], cache: Cache, progress: Progress) -> PcaCodec:
    """The patch codec of the first clips that `sources` (train only) give; the same sources give the same codec."""
    shape = decoding.shape
    side, channels = patch if all(patch) else default_patch(shape.height, shape.width)
    names = [(source.name, source.size_bytes, source.mtime_ns) for source in sources[:FIT_CLIPS]]
    folder = cache.root / f"pca-{cache_key(names, shape.model_dump(), decoding.max_clips, side, channels)[:32]}"
    if (folder / PCA_FILE_NAME).is_file():
        return PcaCodec.load(folder)

    def batches() -> Iterator[Tensor]:
        seen, reason = 0, "there are no files"
        for _, clips in decoding.decoded(sources):
            if isinstance(clips, UnusableVideo):
                reason = str(clips)
                continue
            yield stack(clips)
            seen += len(clips)
            progress("fit codec", min(seen, FIT_CLIPS), FIT_CLIPS)
            if seen >= FIT_CLIPS:
                break
        progress("fit codec", FIT_CLIPS, FIT_CLIPS)
        if not seen:
            wanted = f"{shape.frames} frames at {shape.fps:g} fps"
            raise DataError(f"none of {len(sources)} files gives a clip of {wanted} to fit the codec on; the last one: {reason}")

    codec = fit_pca(batches(), side, channels)
    codec.save(folder)
    return codec


def codec_psnr_db(codec: Codec, sources: Sequence[Source], decoding: Decoding) -> float:
    """How well a few clips survive the codec; 99 dB at most."""
    errors: list[float] = []
    for _, clips in decoding.decoded(sources[: 4 * PSNR_CLIPS]):
        if not isinstance(clips, UnusableVideo):
            video = stack(clips[:1])
            errors.append(float((codec.decode(codec.encode(video)).cpu().float() - video.float()).square().mean()))
        if len(errors) == PSNR_CLIPS:
            break
    mean = sum(errors) / max(1, len(errors))
    return min(99.0, 10 * math.log10(255**2 / max(mean, 1e-9)))


@dataclass(frozen=True)
class Encoder:
    """Codec and features, as one step from a video's clips to its cache file."""

    codec: Codec
    features: Features
    decoding: Decoding
    cache: Cache
    made_from: str  # hash of codec, features and clip shape
    first_features: Features | None = None  # of the first frames, for image-to-video

    def key(self, source: Source) -> str:
        return cache_key(self.made_from, source.name, source.size_bytes, source.mtime_ns)

    def run(self, sources: Sequence[Source], progress: Progress) -> dict[str, list[float] | UnusableVideo]:
        """Encode what is not cached yet; source name -> where its clips start, or why it has none."""
        results: dict[str, list[float] | UnusableVideo] = {}
        todo: list[Source] = []
        for source in sources:
            known = self.cache.starts_s(self.key(source))
            if known is None:
                todo.append(source)
            else:
                results[source.name] = known
        progress("encode", len(results), len(sources))
        with _one_thread_per_operation():
            for source, result in _side_by_side(self._encode, todo, self.decoding.threads):
                results[source.name] = result
                progress("encode", len(results), len(sources))
        return results

    def _encode(self, source: Source) -> list[float] | UnusableVideo:
        clips = self.decoding.clips_of(source)
        if isinstance(clips, UnusableVideo):
            self.cache.put_failure(self.key(source), clips)
            return clips
        latents, features, firsts = [], [], []
        for start in range(0, len(clips), CLIPS_AT_ONCE):
            video = stack(clips[start : start + CLIPS_AT_ONCE])  # B T H W 3
            latents.append(self.codec.encode(video).cpu())
            features.append(self.features(video).cpu())
            if self.first_features is not None:
                firsts.append(self.first_features(video[:, :1]).cpu())
        z, f = torch.cat(latents), torch.cat(features)
        first = torch.cat(firsts) if firsts else None
        if not all(bool(torch.isfinite(made).all()) for made in (z, f, first) if made is not None):
            unusable = UnusableVideo("not finite", f"the codec {self.codec.name} or {self.features.name} gave values that are not finite")
            self.cache.put_failure(self.key(source), unusable)
            return unusable
        middle = self.decoding.shape.frames // 2
        starts_s = [clip.start_s for clip in clips]
        encoded = Encoded(
            latents=z.clamp(-FP16_MAX, FP16_MAX).half().numpy(),
            features=f.numpy(),
            thumbs=np.stack([thumbnail(clip.frames[middle]) for clip in clips]),
            starts_s=np.array(starts_s),
            firsts=None if first is None else first.clamp(-FP16_MAX, FP16_MAX).half().numpy(),
        )
        self.cache.put_encoded(self.key(source), encoded)
        return starts_s


@dataclass(frozen=True)
class EmbeddedCaptions:
    """Where each caption's embedding stands in the cache."""

    cache: Cache
    rows: dict[str, tuple[str, int]]  # caption -> cache key, row

    def read(self, caption: str, name: str) -> NDArray[Any]:
        """`tokens` [L, D], `mask` [L] or `pooled` [P] of one caption."""
        key, row = self.rows[caption]
        return self.cache.read(key, name, row)


def embed_captions(captions: Iterable[str], encoder: TextEncoder, cache: Cache, progress: Progress) -> EmbeddedCaptions:
    """Embed each different caption once, in groups that depend on the captions alone."""
    unique = sorted(set(captions))
    rows: dict[str, tuple[str, int]] = {}
    for start in range(0, len(unique), CAPTIONS_AT_ONCE):
        group = unique[start : start + CAPTIONS_AT_ONCE]
        key = cache_key("text", encoder.sha256, encoder.tokens, group)
        if not cache.has(key):
            batch = encoder.encode(group)
            tokens = batch.tokens.clamp(-FP16_MAX, FP16_MAX).half().cpu().numpy()
            mask = batch.mask.to(torch.uint8).cpu().numpy()
            cache.put(key, {"tokens": tokens, "mask": mask, "pooled": batch.pooled.half().cpu().numpy()})
        rows.update({caption: (key, row) for row, caption in enumerate(group)})
        progress("embed captions", start + len(group), len(unique))
    return EmbeddedCaptions(cache, rows)


def hash_sources(sources: Sequence[Source], progress: Progress) -> dict[str, str | UnusableVideo]:
    """Source name -> hash of its content."""
    hashes: dict[str, str | UnusableVideo] = {}
    for source in sources:
        try:
            hashes[source.name] = source.content_hash()
        except OSError as error:
            hashes[source.name] = UnusableVideo("unreadable", str(error))
        progress("read files", len(hashes), len(sources))
    return hashes


def _side_by_side(work: Callable[[Source], Result], sources: Iterable[Source], threads: int) -> Iterator[tuple[Source, Result]]:
    """`work` on a few sources at a time, in threads; the order stays, and what was not started is dropped when the caller leaves."""
    pool = ThreadPoolExecutor(threads, "prepare")
    waiting: deque[tuple[Source, Future[Result]]] = deque()
    try:
        for source in sources:
            waiting.append((source, pool.submit(work, source)))
            if len(waiting) > 2 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_per_operation() -> Iterator[None]:
    """Videos run side by side instead: on a busy machine the threads of one operation spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stack(clips: Sequence[Clip]) -> Tensor:
    return torch.from_numpy(np.stack([clip.frames for clip in clips]))
