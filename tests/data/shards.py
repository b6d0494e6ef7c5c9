"""Writes small shards of random clips, as the tests of data/, training/ and preparation/ need them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from paris_p2p.spec import LatentShape, TextShape

LATENT = LatentShape(channels=4, frames=2, height=4, width=4)
TEXT = TextShape(tokens=4, dim=8, pooled_dim=8)


def clip_bytes(
    seed: int, cluster: int, latent: LatentShape = LATENT, text: TextShape = TEXT, first_width: int = 0
) -> bytes:
    """Latents that depend on the cluster, so that there is something to learn."""
    rng = np.random.Generator(np.random.Philox(seed))
    mask = np.arange(text.tokens) < 1 + seed % text.tokens
    mean = np.linspace(-1, 1, latent.channels).reshape(-1, 1, 1, 1) * (1 if cluster % 2 else -1)
    tensors = {
        "latent": mean + 0.2 * rng.standard_normal(latent.shape),
        "tokens": rng.standard_normal((text.tokens, text.dim)),
        "pooled": rng.standard_normal(text.pooled_dim),
    }
    if first_width:
        tensors["first"] = (cluster or -1) * np.linspace(-1, 1, first_width) + 0.2 * rng.standard_normal(
            first_width
        )
    stored = {name: torch.from_numpy(value).half() for name, value in tensors.items()}
    return safetensors.torch.save({**stored, "mask": torch.from_numpy(mask.astype(np.uint8))})


def write_tar(path: Path, members: list[tuple[str, bytes]], **fields: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shard(path: Path, cluster: int, clips: int, first_seed: int = 0, first_width: int = 0) -> Path:
    members = []
    for number in range(clips):
        seed = first_seed + number
        caption = {"caption": f"clip {seed}", "source": "test", "cluster": cluster, "start_frame": 0}
        members.append(
            (f"{number:06}.safetensors", clip_bytes(seed + 1000 * cluster, cluster, first_width=first_width))
        )
        members.append((f"{number:06}.json", json.dumps(caption).encode()))
    return write_tar(path, members)
