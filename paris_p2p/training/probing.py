"""Measures what an update is worth: a clip's loss before a small step along it and after, of the same noise.

Legend: B clips, n parameters, Q an update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paris_p2p.data.batches import Batch, ClipOrder, Draws, make_batch
from paris_p2p.data.clips import ClipSet
from paris_p2p.device import Device
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.objective import expert_losses, first_frames, router_losses_by_draw, times

PART_CLIPS = 8  # clips through the network at once: fixed, so that every attestor's memory is bounded
STEP_SHARE = 0.2  # of an update, that is taken on trial
Losses = NDArray[np.float64]  # [B]


def probe_batch(
    clips: ClipSet, spec: RunSpec, run: str, slot: str, name: str, count: int
) -> tuple[Batch, Tensor]:
    """Returns (batch, t [B]) of `count` clips that `name` picks, with their noise and times.

    Times are stratified, one in each of B equal slices of the training times' distribution, as at the gate.
    """
    return stratified_batch(clips, spec, slot, Draws.of(run, f"probe/{slot}/{name}"), count)


def stratified_batch(
    clips: ClipSet, spec: RunSpec, slot: str, draws: Draws, count: int
) -> tuple[Batch, Tensor]:
    """Returns (batch, t [B]) of `count` clips, one time in each of B equal slices of the training times'
    distribution.
    """
    batch = make_batch(clips, ClipOrder(draws, len(clips)), draws, 0, count)
    slices = (torch.arange(len(batch)) + batch.uniforms[:, 0]) / len(batch)  # [B] in (0, 1)
    return batch, times(spec, slot, torch.special.ndtri(slices))


def stream_batch(
    clips: ClipSet, spec: RunSpec, run: str, slot: str, peer: str, first_clip: int, count: int
) -> tuple[Batch, Tensor]:
    """Returns (batch, t [B]) of a peer's own stream from `first_clip` on, as the peer was trained on it."""
    draws = peer_draws(run, slot, peer)
    batch = make_batch(clips, ClipOrder(draws, len(clips)), draws, first_clip, count)
    return batch, times(spec, slot, batch.normal)


def peer_draws(run: str, slot: str, peer: str) -> Draws:
    """Returns the randomness of a crew member's own stream of clips.

    The order of its clips is that of a lineage over the slot's shards as its notices say they are. Where
    notices change them the order changes with them, at whatever counter: nobody goes on with another's
    stream, so it need not continue exactly.
    """
    return Draws.of(run, f"{slot}/{peer}")


def losses_of_clips(
    network: nn.Module, spec: RunSpec, slot: str, batch: Batch, t: Tensor, device: Device
) -> Losses:
    """Returns each clip's loss, in an order that is the same for all weights (`losses_by_part`)."""
    parts = losses_by_part(network, spec, slot, batch, t, device)
    return np.concatenate([losses.cpu().numpy() for losses in parts])


def losses_by_part(
    network: nn.Module, spec: RunSpec, slot: str, batch: Batch, t: Tensor, device: Device
) -> Iterator[Tensor]:
    """Yields the losses of PART_CLIPS clips after the other, float64, with captions and without dropout.

    First frames are given at the rate of the run.
    """
    for start in range(0, len(batch), PART_CLIPS):
        part = batch.part(start, start + PART_CLIPS).to(device.torch)
        part_t = t[start : start + PART_CLIPS].to(device.torch)
        with torch.no_grad(), device.autocast():
            if slot == ROUTER:
                losses = router_losses_by_draw(spec, network, part, part_t)
            else:
                # The clips' own draws decide, alike for all weights.
                first, noise = first_frames(spec, part), spec.predicts_noise(slot)
                losses = expert_losses(network, part, part_t, part.mask, predicts_noise=noise, first=first)
        yield losses.double()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switches off what networks do in training alone."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def paired_z(differences: Losses) -> float:
    """Returns how many standard errors the mean of paired differences [B] is above zero.

    It is infinite where one is not finite; 0 where fewer than two say nothing about noise.
    """
    if not np.isfinite(differences).all():
        return math.inf
    if len(differences) < 2:
        return 0.0
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences))
    if error == 0:
        return 0.0 if mean == 0 else math.copysign(math.inf, mean)
    return mean / error
