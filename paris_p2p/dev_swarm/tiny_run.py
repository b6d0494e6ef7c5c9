"""Makes a tiny run of made clips, for a dev-swarm of those who have no run: waves that run across in one
cluster, and down in the other. Its captions are embedded as noise, so nobody should generate with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paris_p2p.codec.pca import PcaCodec, fit_pca
from paris_p2p.data.prepared import Prepared, PreparedCluster, PreparedModel, Split
from paris_p2p.data.shards import Sample, write_shards
from paris_p2p.disk import make_directory
from paris_p2p.errors import UsageError
from paris_p2p.preparation.create import CreateOptions, create_run
from paris_p2p.run_file import RUN_FILE
from paris_p2p.spec import ClipShape, GateSpec, LatentShape, TextShape, TimingSpec, TrainingSpec

EXPERTS, TRAIN_CLIPS, GATE_CLIPS = 2, 256, 32  # of the tiny run; clips of each cluster
_FRAMES, _SIDE_PIXELS, _PATCH_PIXELS, _CHANNELS, _TOKENS, _WIDTH = 4, 16, 4, 4, 4, 384
_SHARD_BYTES = 64 << 20


def make_tiny_run(folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
    """Prepares and creates a run of made clips that trains in milliseconds; nothing where one is there."""
    if (folder / RUN_FILE).exists():
        return
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty and holds no run; name a new folder for the tiny one")
    say(f"making a tiny run in {folder}")
    _prepare_tiny(folder)
    options = CreateOptions(
        name="tiny",
        purpose="breaking a swarm on purpose",
        data_licence="CC0-1.0",
        weights_licence="CC0-1.0",
        expert="nano",
        router="nano",
        training=TrainingSpec(
            batch_clips=8, learning_rate=1e-3, router_batch_clips=8, warmup_steps=20, ema_decay=0.99
        ),
        # so few clips are soon learned by heart, and then a slot would rest as converged
        gate=GateSpec(clips=GATE_CLIPS, tolerance=10.0),
        timing=TimingSpec(),
        members_only=True,
    )
    create_run(folder, options, None)


def _prepare_tiny(folder: Path) -> None:
    """Writes a prepared folder: waves that run across in one cluster, and down in the other."""
    make_directory(folder)
    codec = fit_pca([_waves(k, 0, 32) for k in range(EXPERTS)], _PATCH_PIXELS, _CHANNELS)
    file = codec.save(folder / "codec")
    side = _SIDE_PIXELS // _PATCH_PIXELS
    counts: dict[Split, int] = {"train": TRAIN_CLIPS, "gate": GATE_CLIPS, "validation": 0, "test": 0}
    splits: dict[Split, int] = {"train": 0, "gate": TRAIN_CLIPS}  # the first clip of each
    shards = [
        shard
        for split, first in splits.items()
        for k in range(EXPERTS)
        for shard in write_shards(
            folder / "shards", split, k, _samples(codec, k, first, counts[split]), _SHARD_BYTES
        )
    ]
    Prepared(
        fingerprint="dev-swarm",
        rng_seed=0,
        clip=ClipShape(frames=_FRAMES, height=_SIDE_PIXELS, width=_SIDE_PIXELS, fps=8.0),
        latent=LatentShape(channels=_CHANNELS, frames=_FRAMES, height=side, width=side),
        text_shape=TextShape(tokens=_TOKENS, dim=_WIDTH, pooled_dim=_WIDTH),
        codec=PreparedModel(name="pca", files={file.name: f"codec/{file.name}"}),
        text=PreparedModel(name="minilm"),
        features=PreparedModel(name="none"),
        codec_psnr_db=0.0,
        experts=EXPERTS,
        clusters=tuple(PreparedCluster(cluster=k, clips=counts, silhouette=0.0) for k in range(EXPERTS)),
        shards=tuple(shards),
        captions={},
        clips={split: EXPERTS * count for split, count in counts.items()},
        sources=counts,
        skipped={},
    ).write(folder)


def _waves(cluster: int, first: int, count: int) -> Tensor:
    """Returns made clips as uint8 [B, T, H, W, 3]."""
    rng = np.random.Generator(np.random.Philox([cluster, first]))
    t, h, w = np.meshgrid(*(np.arange(n) for n in (_FRAMES, _SIDE_PIXELS, _SIDE_PIXELS)), indexing="ij")
    along = (h if cluster else w)[..., None] / 2
    phases = rng.uniform(0, 2 * np.pi, (count, 1, 1, 1, 1)) + np.arange(3)
    pixels = 127 + 90 * np.sin(phases + along + t[..., None]) + 12 * rng.standard_normal((count, *t.shape, 3))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))


def _samples(codec: PcaCodec, cluster: int, first: int, count: int) -> Iterator[Sample]:
    rng = np.random.Generator(np.random.Philox([7, cluster, first]))
    for number, latent in enumerate(codec.encode(_waves(cluster, first + 1, count)).numpy()):
        yield Sample(
            f"{number:06}",
            latent.astype(np.float16),
            rng.standard_normal((_TOKENS, _WIDTH)).astype(np.float16),
            np.ones(_TOKENS, np.uint8),
            rng.standard_normal(_WIDTH).astype(np.float16),
            {
                "caption": f"waves that run {'down' if cluster else 'across'}",
                "source": "made",
                "cluster": cluster,
                "start_frame": 0,
            },
        )
