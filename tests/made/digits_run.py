"""Makes a tiny run of scikit-learn's digits: real images of 8 x 8 that shift by a pixel each frame."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from tests.data.shards import LATENT, TEXT, write_tar
from tests.made.tiny_run import TinyRun

TRAIN_DIGITS, GATE_DIGITS = 300, 96  # of each cluster
_GATE_SEED = 500  # with which a tiny run asks for its gate's clips


def digits_run(folder: Path) -> TinyRun:
    """Returns a run whose first expert learns the digits 0 to 4, its second 5 to 9; of LATENT's shape."""
    return TinyRun(folder, train_clips=TRAIN_DIGITS, gate_clips=GATE_DIGITS, write=_write_digits)


def _write_digits(path: Path, cluster: int, clips: int, first_seed: int = 0, first_width: int = 0) -> Path:
    images, labels = _digits()
    mine = np.flatnonzero((labels >= 5) == bool(cluster))
    start = TRAIN_DIGITS if first_seed == _GATE_SEED else 0
    members = []
    for number, index in enumerate(mine[start : start + clips]):
        label = int(labels[index])
        words = np.zeros((TEXT.tokens, TEXT.dim), np.float16)
        words[0, label % TEXT.dim] = 1 + label // TEXT.dim
        tensors = {
            "latent": _clip(images[index]),
            "tokens": words,
            "pooled": words[0],
            "mask": np.eye(1, TEXT.tokens, dtype=np.uint8)[0],
        }
        caption = {"caption": f"digit {label}", "source": "digits", "cluster": cluster, "start_frame": 0}
        members.append((f"{number:06}.safetensors", safetensors.numpy.save(tensors)))
        members.append((f"{number:06}.json", json.dumps(caption).encode()))
    return write_tar(path, members)


def _clip(image: NDArray[np.float32]) -> NDArray[np.float16]:
    """Returns a latent [C T H W] of the image [8 8] and of itself a pixel further."""
    frames = [np.roll(image, shift, axis=1) for shift in range(LATENT.frames)]
    cut = [frame.reshape(4, 2, 4, 2).transpose(1, 3, 0, 2).reshape(4, 4, 4) for frame in frames]
    return np.stack(cut, axis=1).astype(np.float16)


@cache
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    data = load_digits()
    return (data.images / 8 - 1).astype(np.float32), data.target
