"""What a model's parts know of held-out clips: the router's belief over t, and each expert's loss on each
clip.

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
from paris_p2p.data.prepared import Prepared, Split, SplitClip, split_clips
from paris_p2p.device import Device
from paris_p2p.errors import DataError
from paris_p2p.evaluation.parts import Arrays, Parts
from paris_p2p.flow.ddpm import Clamp
from paris_p2p.flow.path import clip_losses, interpolate, velocity
from paris_p2p.flow.times import flow_times
from paris_p2p.generation.pipeline import ParisPipeline
from paris_p2p.generation.routed import ExpertSeats, seats_for
from paris_p2p.generation.schedulers import shift_of
from paris_p2p.model.first_frame import first_condition
from paris_p2p.progress import Progress

TIMES = 8  # of the router: in the middle of as many equal slices of [0, 1]
KIND = "inspected-at-own-times"


@dataclass(frozen=True)
class Inspection:
    """Clips in an order that depends on the seed; noise and times are the same for every expert and every
    model.
    """

    clusters: NDArray[np.int64]  # [N]
    sources: NDArray[np.str_]  # [N], the source video of each
    t: NDArray[np.float64]  # [S]
    beliefs: NDArray[np.float64] | None  # [N S K]; None where the model has no router over these clusters
    losses: NDArray[np.float64]  # [N E], each at one t of the run's own distribution
    experts: tuple[int, ...]  # E


@dataclass(frozen=True)
class Held:
    """Held-out clips of a prepared folder, and the seed of the order, noise and times they are looked at
    with.
    """

    folder: Path
    prepared: Prepared
    split: Split
    rng_seed: int
    image_to_video: bool = False  # experts and router know the first frame


def inspect(
    pipeline: ParisPipeline, device: Device, held: Held, parts: Parts, progress: Progress
) -> Inspection:
    """Of as many clips of the split as `parts` is for, or all there are."""
    prepared, split = held.prepared, held.split
    shards = prepared.shards_for(split)
    paths, clusters = [held.folder / shard.path for shard in shards], [shard.cluster for shard in shards]
    first_width = (
        pipeline.router.config["first_width"] if held.image_to_video and pipeline.router is not None else 0
    )
    clips = ClipSet(
        paths, clusters, latent=prepared.latent, text=prepared.text_shape, first_width=first_width
    )
    # the shards' order
    listed: list[SplitClip] = sorted(split_clips(held.folder, split), key=lambda clip: clip.cluster)
    if len(clips) < parts.clips or len(listed) != len(clips):
        raise DataError(
            f"the shards of {split} hold {len(clips)} clips, its list {len(listed)}; prepare the clips again"
        )
    draws = Draws.of(str(held.rng_seed), f"evaluate/{split}")
    order = ClipOrder(draws, len(clips))
    routes = pipeline.router is not None and pipeline.experts.total == prepared.experts > 1
    pool = _pool(pipeline, device)

    def make(part: range) -> Arrays:
        batch = make_batch(clips, order, draws, part.start, len(part)).to(device.torch)
        found = {
            "clusters": batch.cluster.cpu().numpy(),
            "losses": _losses(pool, pipeline, batch, held.image_to_video),
        }
        return found | ({"beliefs": _beliefs(pipeline, batch)} if routes else {})

    parts.fill(KIND, f"inspect {parts.folder.name}", make, progress)
    return Inspection(
        clusters=parts.gather(KIND, "clusters"),
        sources=np.array([listed[order[i]].video for i in range(parts.clips)]),
        t=_times(),
        beliefs=parts.gather(KIND, "beliefs") if routes else None,
        losses=parts.gather(KIND, "losses"),
        experts=tuple(pipeline.experts.present),
    )


def _times() -> NDArray[np.float64]:
    return (np.arange(TIMES)[::-1] + 0.5) / TIMES  # from noise on


def _beliefs(pipeline: ParisPipeline, batch: Batch) -> NDArray[np.float64]:
    """The router's softmax at each time: [B S K]."""
    found, first = [], None if batch.first is None else batch.first.float()
    for time in _times():
        t = torch.full((len(batch),), float(time), device=batch.latent.device)
        x_t = interpolate(batch.latent.float(), batch.noise, t)
        with torch.no_grad():
            found.append(
                pipeline.router(x_t, t, batch.pooled.float(), first).double().softmax(1).cpu().numpy()
            )
    return np.stack(found, 1)


def _pool(pipeline: ParisPipeline, device: Device) -> ExpertSeats:
    config = pipeline.experts.config
    clamp = Clamp(config["clamp_x0"], config["clamp_alpha"])
    return ExpertSeats(
        config["expert"],
        pipeline.experts.state,
        device,
        seats_for(config["expert"], device),
        config["ddpm"],
        clamp,
    )


def _losses(
    pool: ExpertSeats, pipeline: ParisPipeline, batch: Batch, image_to_video: bool
) -> NDArray[np.float64]:
    """[B E], at the same times for all, or they would not compare: those of the velocity predictors, where
    there are some.
    """
    experts = pipeline.experts.present
    noise = set(experts) <= set(pipeline.experts.config["ddpm"])
    shape = pipeline.config["time_mean"], pipeline.config["time_std"], shift_of(pipeline.scheduler)
    x0, t = batch.latent.float(), flow_times(batch.normal, *shape, predicts_noise=noise)
    x_t, target = interpolate(x0, batch.noise, t), velocity(x0, batch.noise)
    first = first_condition(x0, torch.ones_like(t, dtype=torch.bool)) if image_to_video else None
    given = (x_t, t, batch.tokens.float(), batch.mask, batch.pooled.float(), first)
    return np.stack(
        [clip_losses(pool.velocity(k, *given).float(), target).double().cpu().numpy() for k in experts], 1
    )
