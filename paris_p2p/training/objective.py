"""Defines a slot's network and its loss: flow matching or noise prediction, cross-entropy for the router.

Training and the gate share it, so that both measure the same. t = 1 is noise.
Legend: B clips, C channels, T latent frames, H height, W width, K experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from blake3 import blake3
from torch import Tensor, nn

from paris_p2p.data.batches import Batch
from paris_p2p.data.clips import DEFAULT_CACHE_BYTES, ClipSet
from paris_p2p.errors import DataError, UsageError
from paris_p2p.family import silent_experts
from paris_p2p.flow.ddpm import cosine_time, diffuse
from paris_p2p.flow.path import clip_losses, interpolate, velocity
from paris_p2p.flow.times import flow_times
from paris_p2p.model.first_frame import first_condition
from paris_p2p.model.layers import uninitialised
from paris_p2p.model.posterior import posterior_logits
from paris_p2p.model.presets import build_plain_expert, build_plain_router
from paris_p2p.run_file import read_effective, read_run
from paris_p2p.spec import ROUTER, RunSpec, ShardRef
from paris_p2p.training.crew_messages import CrewJob
from paris_p2p.training.messages import GateJob, SlotJob, TrainJob
from paris_p2p.training.segments import check_spans

ROUTER_LATENT_DROPOUT = 0.1  # so that the router also answers from the caption alone
# Which of a clip's uniform draws decides what.
CAPTION_DRAW, LATENT_DRAW, FIRST_FRAME_DRAW, FIRST_FEATURE_DRAW = 0, 1, 2, 3


def read_spec(job: SlotJob) -> RunSpec:
    """Returns the job's RunSpec, its signature and run id checked again, with what notices changed in it.

    RecordError, StoreError, UsageError.
    """
    spec = read_run(job.spec_path, job.run, mend="start this peer again, which fetches it anew").record
    if job.effective_path is not None:  # the node's own word: it checked the notices
        spec = read_effective(job.effective_path, spec)
    if job.slot not in spec.slots:
        raise UsageError(
            f"the run has no slot {job.slot}; "
            f"its slots are {spec.slots[0]} to expert-{spec.experts - 1}, and router"
        )
    return spec


def open_clips(job: SlotJob, spec: RunSpec) -> ClipSet:
    """Opens the job's clips; DataError when they are not all of the slot's clips in the RunSpec's order."""
    refs = spec.shards_for(job.slot, "gate" if isinstance(job, GateJob) else "train")
    if isinstance(job, TrainJob):
        check_spans(job, [ref.clips for ref in refs])
    return _open_shards(job, spec, refs, job.shard_paths, job.shard_clusters)


def open_calibration_clips(job: TrainJob, spec: RunSpec) -> ClipSet | None:
    """Opens the clips that a router's job is calibrated on, None where it names none; DataError as
    `open_clips`.
    """
    if job.slot != ROUTER or not job.calibration_shard_paths:
        return None
    refs, paths = spec.calibration_shards, job.calibration_shard_paths
    if len(paths) != len(refs):
        raise DataError(f"the job has {len(paths)} calibration shards, the run {len(refs)}")
    return _open_shards(job, spec, refs, paths, [ref.cluster for ref in refs])


def open_gate_clips(job: CrewJob, spec: RunSpec) -> ClipSet:
    """Opens the gate's clips that a crew's job names; DataError as `open_clips`."""
    refs = spec.shards_for(job.slot, "gate")
    return _open_shards(job, spec, refs, job.gate_shard_paths, job.gate_shard_clusters)


def _open_shards(
    job: SlotJob, spec: RunSpec, refs: Sequence[ShardRef], paths: Sequence[Path], clusters: Sequence[int]
) -> ClipSet:
    if tuple(clusters) != tuple(ref.cluster for ref in refs):
        raise DataError(
            f"the job has {len(paths)} shards, the run {len(refs)} for {job.slot}; "
            "clusters must agree in order"
        )
    limit_bytes = job.max_memory_bytes if isinstance(job, TrainJob) else 0
    cache_bytes = min(DEFAULT_CACHE_BYTES, limit_bytes // 8) if limit_bytes else DEFAULT_CACHE_BYTES
    width = spec.first_width if job.slot == ROUTER else 0
    clips = ClipSet(
        paths,
        clusters,
        latent=spec.latent,
        text=spec.text_shape,
        first_width=width,
        cache_bytes=cache_bytes,
    )
    expected = sum(ref.clips for ref in refs)
    if len(clips) != expected:
        raise DataError(
            f"the shards of {job.slot} hold {len(clips)} clips, the RunSpec says {expected}; "
            "the owner must create it again"
        )
    return clips


def build_network(run: str, spec: RunSpec, slot: str) -> nn.Module:
    """Builds the slot's network as every peer of the run first has it.

    It is initialised from (run, slot) on the CPU.
    """
    seed = int.from_bytes(blake3(f"paris-p2p/1 init\0{run}\0{slot}".encode()).digest()[:8], "little") >> 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(spec, slot)


def empty_network(spec: RunSpec, slot: str, device: torch.device) -> nn.Module:
    """Builds the slot's network to be measured with weights that others made: without first weights, which
    take as long to draw as many clips to measure. What it answers before all of its parameters were set is
    undefined.
    """
    with uninitialised(device):
        network = _build(spec, slot)
    return network.requires_grad_(False).eval()


def network_shapes(spec: RunSpec, slot: str) -> dict[str, tuple[int, ...]]:
    """Returns the parameters' names and shapes, without any memory for them."""
    with uninitialised(torch.device("meta")):
        network = _build(spec, slot)
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def batch_clips(spec: RunSpec, slot: str) -> int:
    """Returns the clips of one optimizer step."""
    return spec.training.router_batch_clips if slot == ROUTER else spec.training.batch_clips


def times(spec: RunSpec, slot: str, normal: Tensor) -> Tensor:
    """Returns the slot's flow times, from standard normals: [B] float64 -> [B] float32."""
    training = spec.training
    shape = training.time_mean, training.time_std, training.time_shift
    return flow_times(normal, *shape, predicts_noise=spec.predicts_noise(slot))


def train_losses(spec: RunSpec, slot: str, network: nn.Module, batch: Batch) -> Tensor:
    """Returns one loss for each clip, in no particular order: [B].

    The batch's own draws give times and dropout.
    """
    if slot != ROUTER:
        return clip_losses(*expert_answers(spec, slot, network, batch))
    t = times(spec, slot, batch.normal)
    no_caption = batch.uniforms[:, CAPTION_DRAW] < spec.training.caption_dropout
    # A clip loses one of the two at most: the caption's draw goes first.
    no_latent = (batch.uniforms[:, LATENT_DRAW] < ROUTER_LATENT_DROPOUT) & ~no_caption
    return torch.cat([
        router_losses_by_draw(spec, network, batch.where(rows), t[rows], latent=latent, caption=caption)
        for rows, latent, caption in (
            (~no_caption & ~no_latent, True, True),
            (no_caption, True, False),
            (no_latent, False, True),
        )
        if bool(rows.any())
    ])  # fmt: skip


def expert_answers(spec: RunSpec, slot: str, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns an expert's answers in training, and what they should be: [B C T H W] each."""
    no_caption = batch.uniforms[:, CAPTION_DRAW] < spec.training.caption_dropout
    return _answers(
        network,
        batch,
        times(spec, slot, batch.normal),
        batch.mask & ~no_caption[:, None],
        predicts_noise=spec.predicts_noise(slot),
        first=first_frames(spec, batch),
    )


def first_frames(spec: RunSpec, batch: Batch) -> Tensor | None:
    """Returns the clean first frames of the clips whose draw is below the rate of the run: [B C+1 1 H W].

    It is None in a run without them.
    """
    rate = spec.training.first_frame_rate
    return first_condition(batch.latent.float(), batch.uniforms[:, FIRST_FRAME_DRAW] < rate) if rate else None


def expert_losses(
    network: nn.Module,
    batch: Batch,
    t: Tensor,
    mask: Tensor,
    *,
    predicts_noise: bool = False,
    first: Tensor | None = None,
) -> Tensor:
    """Returns the mean squared error of the velocity or of the noise: [B]."""
    return clip_losses(*_answers(network, batch, t, mask, predicts_noise=predicts_noise, first=first))


def _answers(
    network: nn.Module, batch: Batch, t: Tensor, mask: Tensor, *, predicts_noise: bool, first: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns the network's answers and the velocities, or the noise: [B C T H W] each.

    The noise is predicted at the same noise-to-data ratio on the cosine schedule.
    """
    x0 = batch.latent.float()  # [B C T H W]
    if predicts_noise:
        s = cosine_time(t)  # [B]
        x, time, target = diffuse(x0, batch.noise, s), s.float(), batch.noise
    else:
        x, time, target = interpolate(x0, batch.noise, t), t, velocity(x0, batch.noise)
    return network(x, time, batch.tokens.float(), mask, batch.pooled.float(), first), target


def router_losses_by_draw(
    spec: RunSpec, network: nn.Module, batch: Batch, t: Tensor, *, latent: bool = True, caption: bool = True
) -> Tensor:
    """Returns the router's losses, in no particular order: [B].

    Each clip's draw decides whether the router sees its first frame.
    """
    how: dict[str, Any] = {"latent": latent, "caption": caption, "silent": silent_experts(spec)}
    if batch.first is None:
        return router_losses(network, batch, t, **how)
    shown = batch.uniforms[:, FIRST_FEATURE_DRAW] < spec.training.first_frame_rate
    return torch.cat([
        router_losses(network, batch.where(rows), t[rows], first=first, **how)
        for rows, first in ((shown, True), (~shown, False))
        if bool(rows.any())
    ])  # fmt: skip


def router_losses(
    network: nn.Module,
    batch: Batch,
    t: Tensor,
    *,
    latent: bool = True,
    caption: bool = True,
    first: bool = False,
    silent: Sequence[int] = (),
) -> Tensor:
    """Returns the cross-entropy on the cluster, of a softmax without the `silent` experts: [B]."""
    x_t = interpolate(batch.latent.float(), batch.noise, t)  # [B C T H W]
    features = (batch.first.float(),) if first and batch.first is not None else ()
    router: Any = network
    pooled = batch.pooled.float() if caption else None
    # While it is trained a router has no calibration: what is measured of it is what it was trained for.
    logits = (
        posterior_logits(router, x_t, t, pooled, *features)
        if latent
        else router(None, None, pooled, *features)
    )  # [B K]
    if silent:  # as generation does, so that what is measured is what is used
        logits = logits.index_fill(1, torch.tensor(silent, device=logits.device), -torch.inf)
    return F.cross_entropy(logits.float(), batch.cluster, reduction="none")  # [B]


def _build(spec: RunSpec, slot: str) -> nn.Module:
    if slot == ROUTER:
        return build_plain_router(spec.router.config)
    return build_plain_expert(spec.expert.config)
