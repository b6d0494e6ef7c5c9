"""Makes a prepared folder without videos or games: random clips in real shards, which train in a moment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from bench.ddm_vs_monolith.data import Bench, deal
from bench.ddm_vs_monolith.results import Results
from bench.ddm_vs_monolith.settings import TINY
from paris_p2p.codec.pca import fit_pca
from paris_p2p.data.prepared import Prepared, PreparedCluster, PreparedModel, SplitClip
from paris_p2p.data.shards import Sample, write_shards
from paris_p2p.spec import ClipShape, LatentShape, TextShape

CLIP = ClipShape(frames=4, height=32, width=32, fps=8.0)
LATENT, TEXT = LatentShape(channels=4, frames=4, height=4, width=4), TextShape(tokens=3, dim=8, pooled_dim=8)
COUNTS = {"train": 30, "gate": 6, "validation": 12, "test": 12}
EXPERTS = 3
SCALE = TINY.model_copy(
    update={
        "steps": 8,
        "curve_points": 4,
        "clips": 60,
        "validation_clips": 12,
        "test_clips": 12,
        "features": ("efficientnet-lite0",),
    }
)


def made_bench(folder: Path) -> Bench:
    bench = Bench(SCALE, folder / "work" / "tiny", Results(folder / "results"))
    bench.folder.mkdir(parents=True)
    bench.clips.mkdir()
    rng = np.random.default_rng(0)
    fit_pca([torch.randint(0, 256, (4, 4, 32, 32, 3), dtype=torch.uint8)], 8, 4).save(bench.folder / "codec")
    shards, clips, rows = [], [], []
    for split, count in COUNTS.items():
        for k in range(EXPERTS):
            keys = [f"{split}-{k}-{number:03d}" for number in range(count // EXPERTS)]
            shards += list(
                write_shards(
                    bench.folder / "shards", split, k, (_sample(rng, key, k) for key in keys), 1 << 30
                )
            )  # type: ignore[arg-type]
            for key in keys:
                clip = {
                    "key": key,
                    "split": split,
                    "cluster": k,
                    "caption": key,
                    "source": f"{key}.mp4",
                    "start_s": 0.0,
                    "path": "none",
                }
                clips.append(SplitClip.model_validate(clip).model_dump())
                seen = {"domain": "d", "scene": "s", "attributes": {"a": "b"}, "mentioned": ["a"]}
                # ten clips of a source video at most
                rows.append({"file": f"{key}.mp4", "source": key[:-1], **seen})
    (bench.folder / "splits.json").write_text(json.dumps({"clips": clips}))
    (bench.clips / "attributes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _prepared(tuple(shards)).write(bench.folder)
    deal(bench)
    return bench


def _sample(rng: np.random.Generator, key: str, k: int) -> Sample:
    latent = (rng.standard_normal(LATENT.shape) * 0.2 + k - 1).astype(np.float16)
    tokens = rng.standard_normal((TEXT.tokens, TEXT.dim)).astype(np.float16)
    pooled = rng.standard_normal(TEXT.pooled_dim).astype(np.float16)
    info = {"caption": key, "source": f"{key}.mp4", "cluster": k, "start_frame": 0}
    return Sample(key, latent, tokens, np.ones(TEXT.tokens, np.uint8), pooled, info)


def _prepared(shards: tuple) -> Prepared:  # type: ignore[type-arg]
    per_cluster = {split: count // EXPERTS for split, count in COUNTS.items()}
    return Prepared(
        fingerprint="made",
        rng_seed=0,
        clip=CLIP,
        latent=LATENT,
        text_shape=TEXT,
        codec=PreparedModel(name="pca"),
        text=PreparedModel(name="made"),
        features=PreparedModel(name="none"),
        codec_psnr_db=0.0,
        experts=EXPERTS,
        clusters=tuple(PreparedCluster(cluster=k, clips=per_cluster, silhouette=0.0) for k in range(EXPERTS)),  # type: ignore[arg-type]
        shards=shards,
        captions={},
        clips=COUNTS,  # type: ignore[arg-type]
        sources=COUNTS,  # type: ignore[arg-type]
        skipped={},
    )
