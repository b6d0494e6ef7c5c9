"""Gives random access to latent clips in local webdataset shards.

A shard may come from anybody: only plain files are indexed, every size is bounded, and nothing is unpacked to
disk.
Legend: C channels, T latent frames, H height, W width, L text tokens, D token width, P pooled width, F
features of a first frame.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from paris_p2p.data.tar_index import tar_members
from paris_p2p.errors import DataError
from paris_p2p.spec import LatentShape, TextShape

MAX_CLIPS_PER_SHARD = 1 << 20
MAX_TENSORS_BYTES = 1 << 30  # of one clip
MAX_JSON_BYTES = 64 << 10
DEFAULT_CACHE_BYTES = 256 << 20

_DTYPES = {
    "latent": torch.float16,
    "tokens": torch.float16,
    "mask": torch.uint8,
    "pooled": torch.float16,
    "first": torch.float16,
}
_RANKS = {"latent": 4, "tokens": 2, "mask": 1, "pooled": 1, "first": 1}
_OPTIONAL = "first"


@dataclass(frozen=True)
class LatentClip:
    """Holds one clip as the networks take it."""

    latent: Tensor  # [C T H W] float32
    tokens: Tensor  # [L D] float32
    mask: Tensor  # [L] bool, True where there is text
    pooled: Tensor  # [P] float32
    cluster: int
    caption: str


@dataclass(frozen=True)
class StoredClip:
    """Holds one clip as it is stored, in half the size."""

    latent: Tensor  # [C T H W] float16
    tokens: Tensor  # [L D] float16
    mask: Tensor  # [L] uint8
    pooled: Tensor  # [P] float16
    cluster: int
    first: Tensor | None = None  # [F] float16, features of the first frame where they were asked for

    @property
    def size_bytes(self) -> int:
        return sum(
            tensor.nbytes
            for tensor in (self.latent, self.tokens, self.mask, self.pooled, self.first)
            if tensor is not None
        )


@dataclass(frozen=True)
class _Place:
    shard: int
    tensors_at: int
    tensors_bytes: int
    json_at: int
    json_bytes: int


class ClipSet:
    """Gives the clips of some shards, in the shards' order and the order inside them.

    `latent` and `text`, where given, are the only shapes accepted. Features of first frames are read where
    `first_width` says how wide they must be, and left where it is 0. Clips that were read stay in memory up
    to `cache_bytes`; the least recently used go first. It is safe to use from several threads. DataError for
    a bad shard.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        clusters: Sequence[int],
        *,
        latent: LatentShape | None = None,
        text: TextShape | None = None,
        first_width: int = 0,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ):
        if len(paths) != len(clusters):
            raise DataError(f"{len(paths)} shards but {len(clusters)} clusters")
        self.paths, self.clusters, self.cache_bytes = tuple(paths), tuple(clusters), cache_bytes
        self._shapes: dict[str, tuple[int, ...]] = {}
        if latent is not None:
            self._shapes["latent"] = latent.shape
        if text is not None:
            self._shapes.update(
                tokens=(text.tokens, text.dim), mask=(text.tokens,), pooled=(text.pooled_dim,)
            )
        if first_width:
            self._shapes[_OPTIONAL] = (first_width,)
        self._places = [place for shard, path in enumerate(self.paths) for place in _index_shard(shard, path)]
        self._cache: OrderedDict[int, StoredClip] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> LatentClip:
        stored = self.stored(index)
        return LatentClip(
            latent=stored.latent.float(),
            tokens=stored.tokens.float(),
            mask=stored.mask.bool(),
            pooled=stored.pooled.float(),
            cluster=stored.cluster,
            caption=self.caption(index),
        )

    def __iter__(self) -> Iterator[LatentClip]:
        return (self[index] for index in range(len(self)))

    def cluster(self, index: int) -> int:
        """Returns the cluster of a clip, which the RunSpec says of its shard."""
        return self.clusters[self._places[index].shard]

    def caption(self, index: int) -> str:
        """Reads a clip's caption from its shard; DataError when it is not readable."""
        place = self._places[index]
        raw = _read(self.paths[place.shard], place.json_at, place.json_bytes)
        try:
            caption = json.loads(raw)["caption"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"clip {index} in {self.paths[place.shard]} has no readable caption") from error
        return str(caption)

    def stored(self, index: int) -> StoredClip:
        """Returns the clip as it is stored.

        Its tensors are shared with the cache, so they must not be changed.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        with self._lock:
            clip = self._cache.get(index)
            if clip is not None:
                self._cache.move_to_end(index)
                return clip
        clip = self._load(index)
        with self._lock:
            if index not in self._cache and clip.size_bytes <= self.cache_bytes:
                self._cache[index] = clip
                self._cached_bytes += clip.size_bytes
                while self._cached_bytes > self.cache_bytes:
                    self._cached_bytes -= self._cache.popitem(last=False)[1].size_bytes
        return clip

    def _load(self, index: int) -> StoredClip:
        place = self._places[index]
        path = self.paths[place.shard]
        try:
            tensors = load(_read(path, place.tensors_at, place.tensors_bytes))
        except (SafetensorError, ValueError, TypeError) as error:
            raise DataError(f"clip {index} in {path} is not valid safetensors: {str(error)[:120]}") from error
        if _OPTIONAL not in self._shapes:
            tensors.pop(_OPTIONAL, None)
        expected = set(_DTYPES) - ({_OPTIONAL} - set(self._shapes))
        if set(tensors) != expected:
            raise DataError(
                f"clip {index} in {path} has tensors {sorted(tensors)[:8]}, expected {sorted(expected)}"
            )
        for name, tensor in tensors.items():
            shape = self._shapes.get(name, tuple(tensor.shape))
            if tensor.dtype != _DTYPES[name] or tensor.dim() != _RANKS[name] or tuple(tensor.shape) != shape:
                got, wanted = f"{tensor.dtype} {list(tensor.shape)}", f"{_DTYPES[name]} {list(shape)}"
                raise DataError(
                    f"clip {index} in {path}: {name} is {got}, expected {wanted}; prepare the clips again"
                )
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise DataError(f"clip {index} in {path}: {name} is not finite; prepare the clips again")
        return StoredClip(**tensors, cluster=self.clusters[place.shard])


def _index_shard(shard: int, path: Path) -> list[_Place]:
    """Indexes the clips of a shard, in the order of their tensors.

    Each clip is a `<key>.safetensors` and a `<key>.json`.
    """
    tensors: dict[str, tuple[int, int]] = {}
    captions: dict[str, tuple[int, int]] = {}
    for name, start, size_bytes in tar_members(path):
        key, _, suffix = name.rpartition(".")
        table, limit = {"safetensors": (tensors, MAX_TENSORS_BYTES), "json": (captions, MAX_JSON_BYTES)}.get(
            suffix, (None, 0)
        )
        if table is None:
            continue
        if key in table or size_bytes > limit or len(table) >= MAX_CLIPS_PER_SHARD:
            raise DataError(
                f"{path}: {name[:80]!r} ({size_bytes} bytes) is there twice, too large, or one too many"
            )
        table[key] = (start, size_bytes)
    if tensors.keys() != captions.keys():
        odd = sorted(tensors.keys() ^ captions.keys())[0]
        raise DataError(
            f"{path}: clip {odd[:80]!r} has tensors or a caption, not both; "
            f"{len(tensors)} tensors, {len(captions)} captions"
        )
    return [_Place(shard, *tensors[key], *captions[key]) for key in tensors]


def _read(path: Path, start: int, size_bytes: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), size_bytes, start)
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror}") from error
    if len(data) != size_bytes:
        raise DataError(
            f"{path} ends at {start + len(data)}, a clip in it should end at {start + size_bytes}; "
            "the file changed while in use"
        )
    return data
