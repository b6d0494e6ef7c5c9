"""Checks cards for an attestor, `python -m paris_p2p.training.gate`.

A GateJob comes on stdin and a GateResult goes to stdout, a line each. One process may check many cards, so
that torch is loaded once where checkpoints come often. Whatever is wrong with the checkpoint is a result with
a reason. Only what is wrong on this side (shards, device, memory) ends the process without one, with the
words on stderr. It dies with its parent, as the trainer does.
Legend: B clips. t = 1 is noise.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from paris_p2p.data.batches import Batch, ClipOrder, Draws, make_batch
from paris_p2p.device import Device, pick_device, set_threads
from paris_p2p.errors import CheckpointError, ParisError
from paris_p2p.family import parents_from, silent_experts
from paris_p2p.flow.path import velocity
from paris_p2p.model.checkpoint import (
    Counters,
    check_weights,
    load_weights_into,
)
from paris_p2p.model.grown_router import grow_outputs, without_outputs
from paris_p2p.model.resume_format import resume_format
from paris_p2p.records import MAX_LOSS
from paris_p2p.rules.refusals import REASONS, code_of
from paris_p2p.rules.tips import refuse_loss
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.child import open_line
from paris_p2p.training.messages import GateJob, GateResult
from paris_p2p.training.objective import (
    batch_clips,
    build_network,
    expert_losses,
    first_frames,
    network_shapes,
    open_clips,
    read_spec,
    router_losses_by_draw,
    times,
)
from paris_p2p.training.segments import check_segments

PART_CLIPS = 8  # clips through the network at once: fixed, so that every attestor's memory is bounded
RESUME_SLACK = 2.0  # the weights before averaging are noisier, by far less than this


def main() -> int:
    """Gives verdicts until stdin closes, which ends the process; returns 1 for a job without a verdict."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    line = open_line()
    try:
        while True:
            line.send(check_card(GateJob.model_validate_json(line.receive())))
    except (ParisError, ValidationError) as error:
        print(error, file=sys.stderr)
    return 1


def check_card(job: GateJob) -> GateResult:
    """Returns the verdict on a card's checkpoint; ParisError for what is wrong on this side."""
    set_threads(job.threads)
    spec, device = read_spec(job), pick_device(job.device)
    expected_clips = job.steps * batch_clips(spec, job.slot)
    if job.clips != expected_clips or job.steps == 0:
        return GateResult(
            ok=False,
            reason=f"{job.steps} steps take {expected_clips} clips, the card says {job.clips}",
            code="malformed",
        )
    shapes = network_shapes(spec, job.slot)
    counters = Counters(job.run, job.slot, job.steps, job.clips)
    try:
        check_weights(job.weights_path, shapes, counters)
        resume_format(compact=spec.training.compact).check(
            job.resume_path, shapes, counters, spec.training.clip_grad_norm, job.weights_path
        )
        check_segments(job.resume_path, job, job.clips, batch_clips(spec, job.slot))
    except CheckpointError as error:
        return GateResult(ok=False, reason=str(error), code="malformed")
    return _measure(job, spec, device)


def gate_batch(job: GateJob, spec: RunSpec) -> tuple[Batch, Tensor]:
    """Returns (batch, t [B]) with the clips, noise and times that the card's id picks.

    They are the same for every attestor and for both weights, and unknown before. Times are stratified: one
    in each of B equal slices of the training times' distribution.
    """
    return _batch(job, spec, Draws.of(job.run, f"gate/{job.slot}/{job.card}"))


def fixed_batch(job: GateJob, spec: RunSpec) -> tuple[Batch, Tensor]:
    """Returns (batch, t [B]) that is the same for every card of the slot.

    Nothing is decided by it, but its losses may be compared from card to card.
    """
    return _batch(job, spec, Draws.of(job.run, f"gate/{job.slot}/fixed"))


def _batch(job: GateJob, spec: RunSpec, draws: Draws) -> tuple[Batch, Tensor]:
    """Returns (batch, t [B]); `gate_batch` says how they are drawn."""
    clips = open_clips(job, spec)
    batch = make_batch(clips, ClipOrder(draws, len(clips)), draws, 0, spec.gate.clips)
    slices = (torch.arange(len(batch)) + batch.uniforms[:, 0]) / len(batch)  # [B] in (0, 1)
    return batch, times(spec, job.slot, torch.special.ndtri(slices))


def mean_loss(network: nn.Module, spec: RunSpec, slot: str, batch: Batch, t: Tensor, device: Device) -> float:
    """Returns the network's mean loss over the batch, with captions and without dropout.

    First frames are given at the rate of the run.
    """
    total = 0.0
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
        total += float(losses.double().sum())
    return total / len(batch)


def zero_loss(spec: RunSpec, slot: str, batch: Batch) -> float:
    """Returns the loss of weights that know nothing, per element.

    It is E|eps - x0|^2, E|eps|^2 for a noise predictor, and log K for the router of K experts that have
    clips.
    """
    if slot == ROUTER:
        return math.log(spec.experts - len(silent_experts(spec)))
    target = batch.noise if spec.predicts_noise(slot) else velocity(batch.latent.float(), batch.noise)
    return float(target.square().double().mean())


@dataclass(frozen=True)
class _Losses:
    ignorant: float  # of weights that know nothing
    reference: float  # of the best attested ancestor, else `ignorant`
    average: float  # of the card's averaged weights
    fixed: float  # of the same on the slot's fixed batch
    raw: float  # of the weights that training goes on with


def _measure(job: GateJob, spec: RunSpec, device: Device) -> GateResult:
    batch, t = gate_batch(job, spec)
    network = build_network(job.run, spec, job.slot).to(device.torch).eval()
    tensors = dict(network.named_parameters())

    ignorant = zero_loss(spec, job.slot, batch)
    best, reference = job.best_weights_path, ignorant
    if best is not None:
        load_reference(best, tensors, parents_from(spec, job.best_experts))
        reference = mean_loss(network, spec, job.slot, batch, t, device)
    if not reference <= MAX_LOSS:
        raise CheckpointError(
            f"the gate's loss of the reference weights {best} is {reference:.4g}; "
            "nothing can be measured against them"
        )

    load_weights_into(job.weights_path, tensors)
    loss = mean_loss(network, spec, job.slot, batch, t, device)
    fixed_loss = mean_loss(network, spec, job.slot, *fixed_batch(job, spec), device)
    # The average may be good while what training goes on with is spoilt: the next lead would be refused for
    # it.
    counters = Counters(job.run, job.slot, job.steps, job.clips)
    resume_format(compact=spec.training.compact).load_weights(job.resume_path, tensors, counters)
    raw_loss = mean_loss(network, spec, job.slot, batch, t, device)
    return _verdict(job, spec, len(batch), _Losses(ignorant, reference, loss, fixed_loss, raw_loss))


def load_reference(path: Path, tensors: Mapping[str, Tensor], parents: Sequence[int]) -> None:
    """Copies attested weights into a network's tensors; a router that lacks its last outputs gets them first,
    one for each of `parents`. CheckpointError.
    """
    if not parents:
        load_weights_into(path, tensors)
        return
    shapes = without_outputs({name: tuple(tensor.shape) for name, tensor in tensors.items()}, len(parents))
    smaller = {name: torch.empty(shape) for name, shape in shapes.items()}
    load_weights_into(path, smaller)
    with torch.no_grad():
        for name, value in grow_outputs(smaller, parents).items():
            tensors[name].copy_(value)


def _verdict(job: GateJob, spec: RunSpec, gate_clips: int, losses: _Losses) -> GateResult:
    """Returns the verdict that these losses ask for."""
    loss, reference = losses.average, losses.reference
    # A good router's cross-entropy is next to nothing, where ratios say nothing.
    least_limit = losses.ignorant / 2 if job.slot == ROUTER else 0.0
    raw_limit = max(RESUME_SLACK * max(loss, reference), least_limit)
    if not (loss <= MAX_LOSS and losses.raw <= raw_limit):  # NaN fails both
        measured = {"loss": loss, "reference_loss": reference} if loss <= MAX_LOSS else {}
        return GateResult(
            ok=False,
            code="diverged",
            gate_clips=gate_clips,
            **measured,
            reason=f"{REASONS['diverged']}: {losses.raw:.4g}, their average {loss:.4g}, "
            f"at most {raw_limit:.4g} is allowed",
        )
    first = job.best_weights_path is None
    reason = refuse_loss(loss, reference, spec.gate.tolerance, first=first) or ""
    return GateResult(
        ok=not reason,
        reason=reason,
        code=code_of(reason) if reason else "",
        loss=loss,
        reference_loss=reference,
        gate_clips=gate_clips,
        fixed_loss=losses.fixed if losses.fixed <= MAX_LOSS else None,
    )


if __name__ == "__main__":
    sys.exit(main())
