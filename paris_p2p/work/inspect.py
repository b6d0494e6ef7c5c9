"""What a model's parts know of held-out clips: the router's belief over t, and each expert's loss on each clip.

Legend: N clips, K experts, E experts present, S times. t = 1 is noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from paris_p2p.data.batches import Batch, ClipOrder, Draws, make_batch
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import Prepared, Split
from paris_p2p.errors import DataError
from paris_p2p.flow.path import clip_losses, interpolate, logit_normal, velocity
from paris_p2p.work.device import Device
from paris_p2p.work.parts import Arrays, Parts, Progress
from paris_p2p.work.pipeline import ParisPipeline
from paris_p2p.work.routed import ExpertSeats, seats_for

TIMES = 8  # of the router: in the middle of as many equal slices of [0, 1]
KIND = "inspected"


@dataclass(frozen=True)
class Inspection:
    """Clips in an order that depends on the seed; noise and times are the same for every expert and every model."""

    clusters: NDArray[np.int64]  # [N]
    t: NDArray[np.float64]  # [S]
    beliefs: NDArray[np.float64] | None  # [N S K]; None where the model has no router over these clusters
    losses: NDArray[np.float64]  # [N E], each at one t of the training's default distribution
    experts: tuple[int, ...]  # E


@dataclass(frozen=True)
class Held:
    """Held-out clips of a prepared folder, and the seed of the order, noise and times they are looked at with."""

    folder: Path
    prepared: Prepared
    split: Split
    rng_seed: int


def inspect(pipeline: ParisPipeline, device: Device, held: Held, parts: Parts, progress: Progress) -> Inspection:
    """Of as many clips of the split as `parts` is for, or all there are."""
    prepared, split = held.prepared, held.split
    shards = prepared.shards_for(split)
    paths, clusters = [held.folder / shard.path for shard in shards], [shard.cluster for shard in shards]
    clips = ClipSet(paths, clusters, latent=prepared.latent, text=prepared.text_shape)
    if len(clips) < parts.clips:
        raise DataError(f"the shards of {split} hold {len(clips)} clips, its list {parts.clips}; prepare the clips again")
    draws = Draws.of(str(held.rng_seed), f"evaluate/{split}")
    order = ClipOrder(draws, len(clips))
    routes = pipeline.router is not None and pipeline.experts.total == prepared.experts > 1
    config = pipeline.experts.config["expert"]
    pool = ExpertSeats(config, pipeline.experts.state, device, seats_for(config, device))

    def make(part: range) -> Arrays:
        batch = make_batch(clips, order, draws, part.start, len(part)).to(device.torch)
        found = {"clusters": batch.cluster.cpu().numpy(), "losses": _losses(pool, pipeline.experts.present, batch)}
        return found | ({"beliefs": _beliefs(pipeline, batch)} if routes else {})

    parts.fill(KIND, f"inspect {parts.folder.name}", make, progress)
    return Inspection(
        clusters=parts.gather(KIND, "clusters"),
        t=_times(),
        beliefs=parts.gather(KIND, "beliefs") if routes else None,
        losses=parts.gather(KIND, "losses"),
        experts=tuple(pipeline.experts.present),
    )


def _times() -> NDArray[np.float64]:
    return (np.arange(TIMES)[::-1] + 0.5) / TIMES  # from noise on


def _beliefs(pipeline: ParisPipeline, batch: Batch) -> NDArray[np.float64]:
    """The router's softmax at each time: [B S K]."""
    found = []
    for time in _times():
        t = torch.full((len(batch),), float(time), device=batch.latent.device)
        x_t = interpolate(batch.latent.float(), batch.noise, t)
        with torch.no_grad():
            found.append(pipeline.router(x_t, t, batch.pooled.float()).double().softmax(1).cpu().numpy())
    return np.stack(found, 1)


def _losses(pool: ExpertSeats, experts: list[int], batch: Batch) -> NDArray[np.float64]:
    """[B E]."""
    x0, t = batch.latent.float(), logit_normal(batch.normal, 0.0, 1.0).float()
    x_t, target = interpolate(x0, batch.noise, t), velocity(x0, batch.noise)
    given = (x_t, t, batch.tokens.float(), batch.mask, batch.pooled.float())
    return np.stack([clip_losses(pool.velocity(k, *given).float(), target).double().cpu().numpy() for k in experts], 1)
