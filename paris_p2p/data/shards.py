"""Writes webdataset shards, the same bytes every time.

They are tars of `<key>.safetensors` (latent, tokens, mask, pooled) and `<key>.json`. Clips that were prepared
for image-to-video have `first` too, the first frame's features.
Legend: C channels, T latent frames, H height, W width, L text tokens, D token width, P pooled width, F
features.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from paris_p2p.data.prepared import PreparedShard, Split
from paris_p2p.data.tar_index import tar_members
from paris_p2p.errors import DataError


@dataclass(frozen=True)
class Sample:
    """Holds one clip as it stands in a shard."""

    key: str
    latent: NDArray[np.float16]  # [C, T, H, W]
    tokens: NDArray[np.float16]  # [L, D]
    mask: NDArray[np.uint8]  # [L]
    pooled: NDArray[np.float16]  # [P]
    info: dict[str, Any]  # caption, source, cluster, start_frame
    first: NDArray[np.float16] | None = None  # [F], features of the first frame


@dataclass(frozen=True)
class StoredMembers:
    """Holds one clip as the bytes in a shard."""

    key: str
    tensors: bytes  # safetensors
    info: bytes  # JSON


def write_shards(
    root: Path, split: Split, cluster: int, samples: Iterable[Sample], shard_bytes: int
) -> Iterator[PreparedShard]:
    """Writes `root/<split>/cluster-<k>/NNNNNN.tar`, each closed at `shard_bytes`.

    It yields each shard as it is done.
    """
    return _write(root, split, cluster, map(_encode, samples), shard_bytes)


def move_clips(
    root: Path, split: Split, cluster: int, clips: Iterable[StoredMembers], shard_bytes: int
) -> Iterator[PreparedShard]:
    """Writes clips of other shards as shards of a cluster, as `write_shards` would have written them."""
    return _write(root, split, cluster, (_moved(clip, cluster) for clip in clips), shard_bytes)


def stored_clips(path: Path) -> Iterator[StoredMembers]:
    """Yields the clips of a shard as they are stored, in its order; DataError where it is damaged."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    for name, at, size_bytes in tar_members(path):
        key, _, kind = name.rpartition(".")
        places.setdefault(key, {})[kind] = at, size_bytes
    with path.open("rb") as file:
        for key, members in places.items():
            if set(members) != {"json", "safetensors"}:
                raise DataError(f"{path}: {key[:80]!r} is no clip; it has {', '.join(sorted(members))[:80]}")
            read: dict[str, bytes] = {}
            for kind, (at, size_bytes) in members.items():
                file.seek(at)
                read[kind] = file.read(size_bytes)
            yield StoredMembers(key, read["safetensors"], read["json"])


def _write(
    root: Path, split: Split, cluster: int, members: Iterator[dict[str, Any]], shard_bytes: int
) -> Iterator[PreparedShard]:
    from webdataset import TarWriter

    folder = root / split / f"cluster-{cluster}"
    first = next(members, None)
    number = 0
    while first is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:06d}.tar"
        clips = 0
        with (
            path.open("wb") as file,
            TarWriter(file, encoder=False, user="paris", group="paris", mtime=0, compress=False) as tar,
        ):
            while first is not None and (clips == 0 or file.tell() < shard_bytes):
                tar.write(first)
                clips += 1
                first = next(members, None)
        relative = path.relative_to(root.parent).as_posix()
        yield PreparedShard(
            split=split, cluster=cluster, path=relative, clips=clips, size_bytes=path.stat().st_size
        )
        number += 1


def _moved(clip: StoredMembers, cluster: int) -> dict[str, Any]:
    info = json.dumps(json.loads(clip.info) | {"cluster": cluster}, sort_keys=True, ensure_ascii=False)
    return {"__key__": clip.key, "json": info.encode(), "safetensors": clip.tensors}


def _encode(sample: Sample) -> dict[str, Any]:
    tensors: dict[str, NDArray[Any]] = {
        "latent": sample.latent,
        "tokens": sample.tokens,
        "mask": sample.mask,
        "pooled": sample.pooled,
    }
    if sample.first is not None:
        tensors["first"] = sample.first
    return {
        "__key__": sample.key,
        "json": json.dumps(sample.info, sort_keys=True, ensure_ascii=False).encode(),
        "safetensors": save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}),
    }
