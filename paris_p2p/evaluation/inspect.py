"""What a model's parts know of held-out clips: the router's belief over t, and each expert's loss on each
clip.

Legend: N clips, B a batch of them, K experts, E experts present, S times. t = 1 is noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
from paris_p2p.evaluation.routed_losses import WAYS, held_losses, told_losses
from paris_p2p.flow.path import interpolate
from paris_p2p.model.posterior import posterior_logits
from paris_p2p.model.router import Router
from paris_p2p.progress import Progress

TIMES = 8  # of the router: in the middle of as many equal slices of [0, 1]; and t = 1, where sampling begins
KIND = "inspected-through-the-router"


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
    # [N] each: `told`, by the own cluster's expert; `top_1` and `full`, through the router; those there are
    routed: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    at: NDArray[np.float64] | None = None  # [N], the times of all losses


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
        asked = {} if router is None else _asked(router, batch)
        found = held_losses(model, batch, held.image_to_video)
        return {"clusters": batch.cluster.cpu().numpy()} | found | asked

    parts.fill(KIND, f"inspect {parts.title}", make, progress)
    clusters, losses = parts.gather(KIND, "clusters"), parts.gather(KIND, "losses")
    ways = WAYS if model.router is not None or spec.experts == 1 else ()
    return Inspection(
        clusters=clusters,
        sources=np.array([listed[order[i]].video for i in range(parts.clips)]),
        t=_times(),
        beliefs=None if router is None else parts.gather(KIND, "beliefs"),
        losses=losses,
        experts=tuple(model.run.experts),
        plain=None if router is None or router.calibration is None else parts.gather(KIND, "plain"),
        routed={way: parts.gather(KIND, way) for way in ways}
        | (told_losses(tuple(model.run.experts), clusters, losses) if same else {}),
        at=parts.gather(KIND, "at"),
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
