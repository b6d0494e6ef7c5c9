"""Encodes videos to latents, features and text embeddings in the cache: the long half of prepare.

It can be stopped at any time. Legend: B clips, T x H x W x 3 pixels, L tokens, D token width, P pooled width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paris_p2p.codec.text import TextEncoder, fitted
from paris_p2p.codec.video import Codec
from paris_p2p.data.cache import Cache, Encoded, cache_key
from paris_p2p.data.captions import Note
from paris_p2p.data.decode import Clip, UnusableVideo
from paris_p2p.data.sheet import thumbnail
from paris_p2p.data.source_clips import read_clips, read_parts
from paris_p2p.data.sources import Source
from paris_p2p.features.image import Features
from paris_p2p.preparation.threads import one_thread_per_operation, side_by_side
from paris_p2p.progress import Progress
from paris_p2p.spec import ClipShape

CLIPS_AT_ONCE = 4  # bounds the activations of codec and features
CAPTIONS_AT_ONCE = 64
PARTS_AT_ONCE = 16  # parts of a long video in one pass, so that several threads can read it
FP16_MAX = 65504.0


@dataclass(frozen=True)
class Decoding:
    """Says how videos become clips."""

    shape: ClipShape
    max_clips: int
    threads: int

    def clips_of(self, source: Source) -> list[Clip] | UnusableVideo:
        """Returns a source's clips, or why it gives none."""
        try:
            return read_clips(source, self.shape, self.max_clips)
        except UnusableVideo as unusable:
            return unusable

    def decoded(self, sources: Iterable[Source]) -> Iterator[tuple[Source, list[Clip] | UnusableVideo]]:
        """Yields sources with their clips in order, several decoded at once."""
        return side_by_side(self.clips_of, sources, self.threads)


@dataclass(frozen=True)
class Encoder:
    """Takes a video's clips to its cache file, through codec and features, in one step."""

    codec: Codec
    features: Features
    decoding: Decoding
    cache: Cache
    made_from: str  # hash of codec, features and clip shape
    first_features: Features | None = None  # of the first frames, for image-to-video

    def key(self, source: Source) -> str:
        """Names a source's cache file by all that its content depends on."""
        return cache_key(self.made_from, source.name, source.size_bytes, source.mtime_ns, *source.stretches_s)

    def run(self, sources: Sequence[Source], progress: Progress) -> dict[str, list[float] | UnusableVideo]:
        """Encodes what is not cached yet; returns source id -> where its clips start, or why it has none."""
        results: dict[str, list[float] | UnusableVideo] = {}
        todo: list[list[Source]] = []
        for source in sources:
            known = self.cache.starts_s(self.key(source))
            if known is not None:
                results[source.id] = known
            elif todo and _goes_on(todo[-1], source):
                todo[-1].append(source)
            else:
                todo.append([source])
        progress("encode", len(results), len(sources))

        def work(parts: list[Source]) -> None:
            for part, result in self._encode(parts):
                results[part.id] = result
                progress("encode", len(results), len(sources))

        with one_thread_per_operation():
            for _ in side_by_side(work, todo, self.decoding.threads):
                pass
        return results

    def remarks(self, sources: Sequence[Source]) -> dict[str, Counter[str]]:
        """Returns of each file how often reading it met what, by a few words."""
        found: dict[str, Counter[str]] = {}
        for source in sources:
            remarks = self.cache.note(self._remarks_key(source))
            if remarks:
                found.setdefault(source.name, Counter()).update(remarks)
        return found

    def _remarks_key(self, source: Source) -> str:
        return cache_key("told", self.key(source))  # the word in caches of all versions

    def _encode(self, parts: list[Source]) -> Iterator[tuple[Source, list[float] | UnusableVideo]]:
        """Encodes the parts of one file in order: each is in the cache when it is yielded."""
        remarks: Counter[str] = Counter()
        pending = _Pending(self)
        left = list(parts)
        try:
            for part, clip in read_parts(parts, self.decoding.shape, self.decoding.max_clips, remarks):
                while left[0].id != part.id:
                    yield left[0], pending.finish(left.pop(0))
                if isinstance(clip, UnusableVideo):
                    pending.failed(clip)
                else:
                    pending.add(clip)
            for part in list(left):
                yield part, pending.finish(left.pop(0))
        except UnusableVideo as unusable:
            for part in left:
                pending.failed(unusable)
                yield part, pending.finish(part)
        if remarks:
            self.cache.put_note(self._remarks_key(parts[0]), dict(remarks))


def _may_pass(failure: UnusableVideo) -> bool:
    """Says whether the disk or the network failed, not the file: it is looked at again the next time."""
    return isinstance(failure.__cause__, OSError) and not isinstance(failure.__cause__, av.FFmpegError)


def _goes_on(parts: Sequence[Source], source: Source) -> bool:
    """Says whether a part is read in one pass with those before it.

    Where seeking is cheap, a long video is cut into several passes.
    """
    last = parts[-1]
    seeks = source.track is not None and source.track.in_order
    return source.name == last.name and not (seeks and len(parts) >= PARTS_AT_ONCE)


class _Pending:
    """Takes the clips of one part after another through the networks, a few at a time.

    So only a few are in memory.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._begin()

    def _begin(self) -> None:
        self.clips: list[Clip] = []
        self.starts_s: list[float] = []
        self.thumbs: list[NDArray[np.uint8]] = []
        self.made: dict[str, list[Tensor]] = {"latents": [], "features": [], "firsts": []}
        self.failure: UnusableVideo | None = None

    def failed(self, why: UnusableVideo) -> None:
        self.failure = why

    def add(self, clip: Clip) -> None:
        self.clips.append(clip)
        if len(self.clips) == CLIPS_AT_ONCE:
            self._through()

    def _through(self) -> None:
        if not self.clips:
            return
        encoder, video = self.encoder, stack(self.clips)  # B T H W 3
        self.made["latents"].append(encoder.codec.encode(video).cpu())
        self.made["features"].append(encoder.features(video).cpu())
        if encoder.first_features is not None:
            self.made["firsts"].append(encoder.first_features(video[:, :1]).cpu())
        self.starts_s += [clip.start_s for clip in self.clips]
        self.thumbs += [thumbnail(clip.frames[encoder.decoding.shape.frames // 2]) for clip in self.clips]
        self.clips = []

    def finish(self, part: Source) -> list[float] | UnusableVideo:
        """Puts the part's file into the cache, and begins the next."""
        self._through()
        encoder, key = self.encoder, self.encoder.key(part)
        made = {name: torch.cat(tensors) for name, tensors in self.made.items() if tensors}
        starts_s, thumbs, failure = self.starts_s, self.thumbs, self.failure
        self._begin()
        if not starts_s:
            failure = failure or UnusableVideo("damaged", "no clip of it is whole")
        elif not all(bool(torch.isfinite(tensor).all()) for tensor in made.values()):
            networks = f"the codec {encoder.codec.name} or {encoder.features.name}"
            failure = UnusableVideo("not finite", f"{networks} gave values that are not finite")
        if failure is not None:
            if not _may_pass(failure):
                encoder.cache.put_failure(key, failure)
            return failure
        stored = {name: tensor for name, tensor in made.items() if name != "features"}
        half = {name: tensor.clamp(-FP16_MAX, FP16_MAX).half().numpy() for name, tensor in stored.items()}
        encoded = Encoded(
            latents=half["latents"],
            features=made["features"].numpy(),
            thumbs=np.stack(thumbs),
            starts_s=np.array(starts_s),
            firsts=half.get("firsts"),
        )
        encoder.cache.put_encoded(key, encoded)
        return starts_s


@dataclass(frozen=True)
class EmbeddedCaptions:
    """Says where each caption's embedding stands in the cache."""

    cache: Cache
    rows: dict[str, tuple[str, int]]  # caption -> cache key, row

    def read(self, caption: str, name: str) -> NDArray[Any]:
        """Returns `tokens` [L, D], `mask` [L] or `pooled` [P] of one caption."""
        key, row = self.rows[caption]
        return self.cache.read(key, name, row)


def fit_text(
    encoder: TextEncoder, captions: Iterable[tuple[str, str]], tokens: int
) -> tuple[TextEncoder, int, list[Note]]:
    """Returns the encoder with as many tokens as are read of a caption, and what the longest has.

    `captions` are (source name, caption); those that are cut are noted. For 0 `tokens` the captions decide.
    """
    named = sorted(set(captions))
    unique = sorted({caption for _, caption in named})
    counts = dict(zip(unique, encoder.count(unique), strict=True))
    encoder = fitted(encoder, list(counts.values()), tokens)
    what = f"caption cut to {encoder.tokens} text tokens"
    notes = [
        Note(name, what, f"it has {counts[caption]}: {caption[:200]}")
        for name, caption in named
        if counts[caption] > encoder.tokens
    ]
    return encoder, max(counts.values()), notes


def embed_captions(
    captions: Iterable[str], encoder: TextEncoder, cache: Cache, progress: Progress
) -> EmbeddedCaptions:
    """Embeds each different caption once, in groups that depend on the captions alone."""
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


def stack(clips: Sequence[Clip]) -> Tensor:
    """Stacks clips of one shape: uint8 [B, T, H, W, 3]."""
    return torch.from_numpy(np.stack([clip.frames for clip in clips]))
