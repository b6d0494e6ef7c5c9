"""Makes the clips, prepares them as an owner does, and deals them into random parts as large as the clusters.

Legend: N clips, C T H W latents, L text tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.ddm_vs_monolith.dealing import deal_groups
from bench.ddm_vs_monolith.results import Results, require_protocol, write_json
from bench.ddm_vs_monolith.settings import Partition, Scale
from paris_p2p.codec.video import Codec, load_codec
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared, PreparedShard, Split, SplitClip, split_clips
from paris_p2p.data.shards import Sample, write_shards
from paris_p2p.data.splits import SplitOptions
from paris_p2p.errors import DataError
from paris_p2p.preparation.networks import PrepareOptions
from paris_p2p.preparation.prepare import prepare

SHARD_BYTES = 32 << 20
CACHE_BYTES = 2 << 30  # the clips of a scale stay in memory
RANDOM_FILE = "random.json"


@dataclass(frozen=True)
class Bench:
    """Holds one scale of the comparison on this machine: `work` may be deleted, `results` is what stays."""

    scale: Scale
    work: Path
    results: Results
    threads: int = 1

    @property
    def clips(self) -> Path:
        return self.work.parent / f"clips-{self.scale.clips}"  # scales with the same clips share them

    @property
    def folder(self) -> Path:
        return self.work / "prepared"

    @cached_property
    def prepared(self) -> Prepared:
        return Prepared.load(self.folder)

    @cached_property
    def codec(self) -> Codec:
        return load_codec(self.prepared.codec.name, self.folder / "codec")

    def parts(self, partition: Partition) -> int:
        return 1 if partition == "union" else self.scale.experts

    def shards(self, partition: Partition, split: Split) -> list[tuple[Path, int, int]]:
        """Returns (path, cluster, clips) of each shard of a split under a partition."""
        if partition == "random":
            rows = json.loads((self.work / RANDOM_FILE).read_text())["shards"]
            return [
                (self.work / row["path"], row["cluster"], row["clips"])
                for row in rows
                if row["split"] == split
            ]
        mine = self.prepared.shards_for(split)
        return [(self.folder / s.path, s.cluster if partition == "clusters" else 0, s.clips) for s in mine]


def prepare_clips(bench: Bench) -> Prepared:
    """Makes and prepares the scale's clips; what is there already is not made again."""
    scale = bench.scale
    if not (bench.clips / "captions.csv").exists():
        command = [sys.executable, "-m", "bench.clips", str(bench.clips), "--clips", str(scale.clips)]
        subprocess.run([*command, "--workers", str(os.cpu_count() or 1)], check=True)
    options = PrepareOptions(
        experts=scale.experts,
        frames=scale.frames,
        height=scale.side_pixels,
        width=scale.side_pixels,
        fps=scale.fps,
        codec=scale.codec,
        pca_patch_pixels=scale.pca[0],
        pca_channels=scale.pca[1],
        text_tokens=scale.text_tokens,
        clips_per_video=1,
        splits=SplitOptions(
            gate_share=0.0,
            validation_share=0.0,
            test_share=0.0,
            gate_min_clips=min(120, scale.clips // 8),
            validation_min_clips=scale.validation_clips,
            test_min_clips=scale.test_clips,
        ),
        threads=os.cpu_count() or 1,
    )
    return prepare(bench.clips, bench.folder, options)


def make_data(bench: Bench) -> dict[str, Any]:
    """Makes clips, prepared clips and the random partition; what is there already is not made again."""
    prepared = prepare_clips(bench)
    deal(bench)
    return describe(bench, prepared)


def describe(bench: Bench, prepared: Prepared) -> dict[str, Any]:
    """Describes the data for the report: counts, clusters against what made the clips, and the codec."""
    made = made_of(bench.clips)
    domains: dict[str, dict[str, int]] = {}
    for clip in split_clips(bench.folder, "train"):
        row = domains.setdefault(str(clip.cluster), {})
        domain = made[clip.source].get("domain", "unknown")
        row[domain] = row.get(domain, 0) + 1
    return {
        "clips": dict(prepared.clips),
        "clusters": [row.model_dump() for row in prepared.clusters],
        "clusters_by_domain": domains,
        "random_parts": sizes(bench, "random"),
        "codec_psnr_db": prepared.codec_psnr_db,
        "latent": list(prepared.latent.shape),
        "text": prepared.text_shape.model_dump(),
        "captions": len({clip.caption for clip in split_clips(bench.folder, "train")}),
    }


def sizes(bench: Bench, partition: Partition) -> list[int]:
    """Counts the train clips of each part."""
    counts = [0] * bench.parts(partition)
    for _, cluster, clips in bench.shards(partition, "train"):
        counts[cluster] += clips
    return counts


def deal(bench: Bench) -> None:
    """Writes the clips of each split into K random parts, by whole source videos, as large as the clusters
    are.
    """
    made = made_of(bench.clips)
    rows = []
    for split in ("train", "gate", "validation", "test"):
        held = HeldOut(bench, split)
        groups = [made[clip.source].get("source", clip.source) for clip in held.clips]
        wanted = np.bincount([clip.cluster for clip in held.clips], minlength=bench.scale.experts)
        part = deal_groups(groups, [int(count) for count in wanted], np.random.default_rng(0))
        for k in range(bench.scale.experts):
            samples = held.samples([row for row in range(len(held.clips)) if part[row] == k], k)
            rows += [shard.model_dump() for shard in _write(bench.work, split, k, samples)]
    write_json(bench.work / RANDOM_FILE, {"shards": rows})


def _write(work: Path, split: Split, k: int, samples: Iterator[Sample]) -> Iterator[PreparedShard]:
    return write_shards(work / "random", split, k, samples, SHARD_BYTES)


class HeldOut:
    """Holds a split's clips and their sources, in shard order: latents and text of shards, pixels of
    videos.
    """

    def __init__(self, bench: Bench, split: Split):
        self.bench, self.split = bench, split
        # Shards are written cluster by cluster, each in the order of splits.json.
        self.clips: list[SplitClip] = sorted(split_clips(bench.folder, split), key=lambda clip: clip.cluster)
        shards = bench.shards("clusters", split)
        paths, clusters = [path for path, _, _ in shards], [cluster for _, cluster, _ in shards]
        self.set = ClipSet(
            paths,
            clusters,
            latent=bench.prepared.latent,
            text=bench.prepared.text_shape,
            cache_bytes=CACHE_BYTES,
        )
        if len(self.set) != len(self.clips):
            raise DataError(
                f"the {split} split has {len(self.set)} clips in shards, {len(self.clips)} in splits.json; "
                "prepare again"
            )

    def pick(self, count: int) -> list[int]:
        """Returns `count` rows, or all: the same ones every time, spread over everything."""
        order = np.random.default_rng(1).permutation(len(self.clips))[:count]
        return [int(row) for row in np.sort(order)]

    def samples(self, rows: Sequence[int], cluster: int) -> Iterator[Sample]:
        for row in rows:
            stored, clip = self.set.stored(row), self.clips[row]
            yield Sample(
                key=clip.key,
                latent=stored.latent.numpy(),
                tokens=stored.tokens.numpy(),
                mask=stored.mask.numpy(),
                pooled=stored.pooled.numpy(),
                info={"caption": clip.caption, "source": clip.source, "cluster": cluster, "start_frame": 0},
            )

    def pixels(self, rows: Sequence[int]) -> NDArray[np.uint8]:
        """Returns pixels, uint8 [N T H W 3]."""
        return np.stack([self.clips[row].pixels(self.bench.prepared.clip) for row in rows])

    def latents(self, rows: Sequence[int]) -> Tensor:
        """Returns latents, float32 [N C T H W]."""
        return torch.stack([self.set.stored(row).latent for row in rows]).float()

    def text(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns tokens [N L D], mask [N L], pooled [N P]."""
        stored = [self.set.stored(row) for row in rows]
        tokens = torch.stack([clip.tokens for clip in stored]).float()
        return (
            tokens,
            torch.stack([clip.mask for clip in stored]).bool(),
            torch.stack([clip.pooled for clip in stored]).float(),
        )

    def clusters(self, rows: Sequence[int]) -> list[int]:
        return [self.clips[row].cluster for row in rows]

    def made(self, rows: Sequence[int]) -> list[Mapping[str, Any]]:
        """Returns what the clips' maker says of them: source video, domain, scene, attributes."""
        table = made_of(self.bench.clips)
        return [table[self.clips[row].source] for row in rows]


def open_split(bench: Bench, split: Split) -> HeldOut:
    """Opens a held-out split; the test split opens only under the recorded protocol."""
    if split == "test":
        require_protocol()
    return HeldOut(bench, split)


def made_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns file name -> its row of attributes.jsonl; DataError when that cannot be read."""
    path = folder / "attributes.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["file"]: row for row in rows}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}); make the clips again") from error
