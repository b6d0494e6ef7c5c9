"""Keeps what was computed of each video in one small file, so that a stopped prepare continues where it was.

Files are named by a hash of all they were made from, written beside and renamed; a damaged one is made again.
Legend: n clips of one video, C x T x H x W latents, F features, h x w pixels of a thumbnail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from paris_p2p.data.decode import UnusableVideo
from paris_p2p.disk import write_atomic


@dataclass(frozen=True)
class Encoded:
    """Holds all clips of one video, encoded."""

    latents: NDArray[np.float16]  # [n, C, T, H, W]
    features: NDArray[np.float32]  # [n, F]
    thumbs: NDArray[np.uint8]  # [n, h, w, 3]
    starts_s: NDArray[np.float64]  # [n]
    firsts: NDArray[np.float16] | None = None  # [n, F], features of the first frames


class Cache:
    """Stores safetensors files in a folder, and JSON files for videos that gave nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def starts_s(self, key: str) -> list[float] | UnusableVideo | None:
        """Returns where the video's clips start, why there are none, or None when it is not done yet."""
        try:
            starts = self.read(key, "starts_s")
        except (OSError, SafetensorError, KeyError):
            return self._failure(key)
        return [float(start) for start in starts]

    def read(self, key: str, name: str, index: int | None = None) -> NDArray[Any]:
        """Returns one tensor of a file, or one row of it."""
        with safe_open(self._path(key, "safetensors"), "np") as file:
            tensor: NDArray[Any] = file.get_tensor(name) if index is None else file.get_slice(name)[index]
        return tensor

    def has(self, key: str) -> bool:
        """Says whether a whole safetensors file is there."""
        try:
            with safe_open(self._path(key, "safetensors"), "np"):
                return True
        except (OSError, SafetensorError):
            return False

    def put(self, key: str, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Stores tensors by name under a key."""
        self._write(
            self._path(key, "safetensors"),
            save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}),
        )

    def put_encoded(self, key: str, encoded: Encoded) -> None:
        self.put(key, {name: tensor for name, tensor in vars(encoded).items() if tensor is not None})

    def put_failure(self, key: str, failure: UnusableVideo) -> None:
        """Remembers why a video gave nothing."""
        self._write(
            self._path(key, "json"), json.dumps({"reason": failure.reason, "detail": failure.detail}).encode()
        )

    def note(self, key: str) -> Any:
        """Returns a small value that was kept; None when there is none."""
        try:
            return json.loads(self._path(key, "note.json").read_bytes())
        except (OSError, ValueError):
            return None

    def put_note(self, key: str, value: Any) -> None:
        """Keeps a small value that JSON can hold."""
        self._write(self._path(key, "note.json"), json.dumps(value).encode())

    def _failure(self, key: str) -> UnusableVideo | None:
        try:
            row = json.loads(self._path(key, "json").read_bytes())
            return UnusableVideo(row["reason"], row["detail"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _path(self, key: str, suffix: str) -> Path:
        return self.root / key[:2] / f"{key}.{suffix}"

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        # A cached file that a power cut leaves empty is made again.
        write_atomic(path, data, durable=False)


def cache_key(*parts: object) -> str:
    """Hashes everything that a cached file was made from."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return blake3(text.encode("utf-8", "surrogatepass")).hexdigest()
