"""Samples clips from a crew's averaged weights, and measures how far they are from held-out ones.

Real clips are those of the slot's validation, gate and test splits as their own latents give them back, so
that the codec's share is in neither side. Each caption gets one clip, from noise that is the same for all
crews of a seed.
Legend: N clips, C T H W latents, F features, n parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.crew.clips_seen import HELD_OUT, open_split
from bench.crew.experiments import SEEDS, final
from bench.crew.plans import Plan
from bench.crew.playing import Stage
from bench.crew.stacked import Seen, Stacked
from paris_p2p.codec.video import Codec, load_codec
from paris_p2p.data.batches import Draws
from paris_p2p.data.prepared import Prepared, split_clips
from paris_p2p.disk import write_atomic
from paris_p2p.features.image import load_features
from paris_p2p.flow.sampler import sample, time_grid
from paris_p2p.score.distances import score_frechet, score_kernel
from paris_p2p.score.intervals import Clips
from paris_p2p.spec import cluster_of

SAMPLED = {"every-step": "whole", "default": "first"}  # row -> its group
MOST_CLIPS = 96  # of a slot
STEPS, GUIDANCE, AT_ONCE = 16, 1.5, 16
NETWORKS, COMPONENTS = ("efficientnet-lite0", "transnetv2"), 32
Features = dict[str, NDArray[np.float32]]  # network -> [N F]


def distances(
    stacked: Stacked, folder: Path, plans: Sequence[Plan], weights: Mapping[str, NDArray[np.float32]]
) -> dict[str, Any]:
    """Returns the Fréchet and kernel distances of the plans' clips together; each plan has its own seed."""
    codec = load_codec(Prepared.load(folder).codec.name, folder / "codec")
    real, made, sources, seeds, real_sources = [], [], [], [], []
    for slot in sorted({plan.slot for plan in plans}):
        real.append(embedded(codec, _latents(folder, slot)))
        real_sources += _sources(folder, slot)
    for plan in plans:
        made.append(embedded(codec, sampled(stacked, folder, plan, weights[plan.name])))
        sources += _sources(folder, plan.slot)
        seeds += [plan.seed] * len(_sources(folder, plan.slot))
    found: dict[str, Any] = {}
    for name in NETWORKS:
        truth = Clips(np.concatenate([each[name] for each in real]), np.array(real_sources))
        clips = Clips(np.concatenate([each[name] for each in made]), np.array(sources), np.array(seeds))
        found[name] = {
            "frechet": asdict(score_frechet(name, truth, clips, components=COMPONENTS)),
            "kernel": asdict(score_kernel(name, truth, clips)),
        }
    return found


def sample_rows(folder: Path, keep: Path, results: Path) -> None:
    """Measures the rows whose weights were kept at all seeds; what was measured is not measured again."""
    torch.set_num_threads(1)
    for row in SAMPLED:
        path = results / f"distances-{row}.json"
        if path.exists():
            continue
        plans = [plan for plan in final(SAMPLED[row], list(SEEDS)) if plan.name.startswith(f"{row}-seed")]
        weights = {plan.name: np.load(keep / f"{plan.name}.npy") for plan in plans}
        found = distances(Stage.open(folder).stacked, folder, plans, weights)
        write_atomic(path, json.dumps({"distances": found}, indent=1) + "\n")


def sampled(stacked: Stacked, folder: Path, plan: Plan, weights: NDArray[np.float32]) -> Tensor:
    """Returns a latent for each held-out caption of the plan's slot: [N C T H W]."""
    clips = open_split(folder, plan.slot, HELD_OUT)
    draws = Draws.of(plan.run, f"sample/{plan.slot}")
    named = stacked.named(torch.from_numpy(weights)[None])
    parts = []
    count = min(MOST_CLIPS, len(clips))
    for first in range(0, count, AT_ONCE):
        stored = [clips.stored(index) for index in range(first, min(count, first + AT_ONCE))]
        shape = tuple(stored[0].latent.shape)
        noise = torch.from_numpy(np.stack([draws.noise(first + i, shape) for i in range(len(stored))]))
        tokens = torch.stack([clip.tokens.float() for clip in stored])
        mask = torch.stack([clip.mask.bool() for clip in stored])
        parts.append(_integrated(stacked, named, noise, tokens, mask))
    return torch.cat(parts)


@torch.no_grad()
def _integrated(
    stacked: Stacked, named: Mapping[str, Tensor], noise: Tensor, tokens: Tensor, mask: Tensor
) -> Tensor:
    """Goes from noise [B C T H W] to a latent, guided by the text."""
    both = torch.cat([tokens, tokens]), torch.cat([mask, torch.zeros_like(mask)])

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        twice, times = torch.cat([x, x])[None], torch.cat([t, t])[None]
        seen = Seen(twice, twice, times, both[0][None], both[1][None])
        worded, silent = stacked.velocity(named, twice, seen)[0].chunk(2)
        return silent + GUIDANCE * (worded - silent)

    return sample(velocity, noise, time_grid(STEPS))


def embedded(codec: Codec, latents: Tensor) -> Features:
    """Returns the features of clips [N C T H W] by each network."""
    pixels = torch.cat([codec.decode(part) for part in latents.split(AT_ONCE)])  # N T H W 3
    return {
        name: torch.cat([network(part) for part in pixels.split(AT_ONCE)]).numpy()
        for name in NETWORKS
        for network in (load_features(name),)
    }


def _latents(folder: Path, slot: str) -> Tensor:
    clips = open_split(folder, slot, HELD_OUT)
    return torch.stack([clips.stored(index).latent.float() for index in range(min(MOST_CLIPS, len(clips)))])


def _sources(folder: Path, slot: str) -> list[str]:
    """Returns the episodes of the held-out clips, in the order of the shards."""
    shards = [shard.split for shard in Prepared.load(folder).shards if shard.cluster == cluster_of(slot)]
    found = [
        clip.group or clip.source
        for split in dict.fromkeys(split for split in shards if split in HELD_OUT)
        for clip in split_clips(folder, split)
        if clip.cluster == cluster_of(slot)
    ]
    return found[:MOST_CLIPS]
