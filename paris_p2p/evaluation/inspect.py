"""What a model's parts know of held-out clips: the router's belief over t, and each expert's loss on each
clip.

Legend: N clips, B a batch of them, K experts, E experts present, S times. t = 1 is noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from paris_p2p.data.batches import Batch, ClipOrder, Draws, make_batch
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.prepared import SplitClip, split_clips
from paris_p2p.errors import DataError
from paris_p2p.evaluation.held_out import Held
from paris_p2p.evaluation.opened_model import OpenedModel
from paris_p2p.evaluation.parts import Arrays, Parts
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.path import clip_losses, interpolate, velocity
from paris_p2p.flow.times import flow_times
from paris_p2p.model.first_frame import first_condition
from paris_p2p.model.posterior import posterior_logits
from paris_p2p.model.router import Router
from paris_p2p.progress import Progress

TIMES = 8  # of the router: in the middle of as many equal slices of [0, 1]; and t = 1, where sampling begins
KIND = "inspected-from-the-start"


@dataclass(frozen=True)
class Inspection:
    """What was seen of clips in an order that depends on the seed; noise and times are the same for every
    expert and every model.
    """

    clusters: NDArray[np.int64]  # [N]
    sources: NDArray[np.str_]  # [N], the source video of each
    t: NDArray[np.float64]  # [S]
    beliefs: NDArray[np.float64] | None  # [N S K]; None where the model has no router over these clusters
    losses: NDArray[np.float64]  # [N E], each at one t of the run's own distribution
    experts: tuple[int, ...]  # E
    plain: NDArray[np.float64] | None = None  # beliefs without the router's calibration, where it has one


def inspect(model: OpenedModel, held: Held, parts: Parts, progress: Progress) -> Inspection:
    """Returns what the model knows of as many clips of the split as `parts` is for, or of all there are;
    DataError when the shards are not those of the list of splits.
    """
    clips, listed = _open_held(model, held)
    if len(clips) < parts.clips or len(listed) != len(clips):
        raise DataError(
            f"the shards of {held.split} hold {len(clips)} clips, its list {len(listed)}; "
            "prepare the clips again"
        )
    draws = Draws.of(str(held.rng_seed), f"evaluate/{held.split}")
    order = ClipOrder(draws, len(clips))
    spec = model.run.spec
    # a split or dropped expert's clips are labelled here as the owner first dealt them
    same = spec.experts == held.prepared.experts > 1 and not spec.dropped_experts
    router = model.router if same else None

    def make(part: range) -> Arrays:
        batch = make_batch(clips, order, draws, part.start, len(part)).to(model.device.torch)
        losses = _losses(model, batch, held.image_to_video)
        asked = {} if router is None else _asked(router, batch)
        return {"clusters": batch.cluster.cpu().numpy(), "losses": losses} | asked

    parts.fill(KIND, f"inspect {parts.title}", make, progress)
    return Inspection(
        clusters=parts.gather(KIND, "clusters"),
        sources=np.array([listed[order[i]].video for i in range(parts.clips)]),
        t=_times(),
        beliefs=None if router is None else parts.gather(KIND, "beliefs"),
        losses=parts.gather(KIND, "losses"),
        experts=tuple(model.run.experts),
        plain=None if router is None or router.calibration is None else parts.gather(KIND, "plain"),
    )


def _open_held(model: OpenedModel, held: Held) -> tuple[ClipSet, list[SplitClip]]:
    """Returns the split's clips as they lie in its shards, and its list in the same order."""
    prepared, shards = held.prepared, held.prepared.shards_for(held.split)
    asks = held.image_to_video and model.router is not None
    clips = ClipSet(
        [held.folder / shard.path for shard in shards],
        [shard.cluster for shard in shards],
        latent=prepared.latent,
        text=prepared.text_shape,
        first_width=model.run.spec.first_width if asks else 0,
    )
    return clips, sorted(split_clips(held.folder, held.split), key=lambda clip: clip.cluster)


def _times() -> NDArray[np.float64]:
    """Returns 1 and the middle of each slice, from noise on."""
    return np.concatenate([[1.0], (np.arange(TIMES)[::-1] + 0.5) / TIMES])


def _asked(router: Router, batch: Batch) -> Arrays:
    """Returns the router's `beliefs` [B S K] and, where it is calibrated, its `plain` ones without that."""
    found = {"beliefs": _beliefs(router, batch)}
    if (calibration := router.calibration) is not None:
        router.calibrate(None)
        try:
            found["plain"] = _beliefs(router, batch)
        finally:
            router.calibrate(calibration)
    return found


def _beliefs(router: Router, batch: Batch) -> NDArray[np.float64]:
    """Returns the router's softmax at each time: [B S K]."""
    found, first = [], None if batch.first is None else batch.first.float()
    for time in _times():
        t = torch.full((len(batch),), float(time), device=batch.latent.device)
        x_t = interpolate(batch.latent.float(), batch.noise, t)
        with torch.no_grad():
            logits = posterior_logits(router, x_t, t, batch.pooled.float(), first)
        found.append(logits.double().softmax(1).cpu().numpy())
    return np.stack(found, 1)


def _losses(model: OpenedModel, batch: Batch, image_to_video: bool) -> NDArray[np.float64]:
    """Returns [B E], at the same times for all, or they would not compare: those of the velocity predictors,
    where there are some.
    """
    experts, training = model.run.experts, model.run.spec.training
    noise = set(experts) <= set(training.ddpm_experts)
    shape = training.time_mean, training.time_std, training.time_shift
    x0, t = batch.latent.float(), flow_times(batch.normal, *shape, predicts_noise=noise)
    x_t, target = interpolate(x0, batch.noise, t), velocity(x0, batch.noise)
    first = first_condition(x0, torch.ones_like(t, dtype=torch.bool)) if image_to_video else None
    known = Condition(batch.tokens.float(), batch.mask, batch.pooled.float(), first)
    pool = model.engine.mixture.pool
    return np.stack(
        [
            clip_losses(pool.velocity(k, x_t, t, known).float(), target).double().cpu().numpy()
            for k in experts
        ],
        1,
    )
