"""Measures a card's weights on the gate's clips, beside those of the best attested ancestor.

Legend: B clips. t = 1 is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from paris_p2p.data.batches import Batch, Draws
from paris_p2p.device import Device
from paris_p2p.errors import CheckpointError
from paris_p2p.family import parents_from, silent_experts
from paris_p2p.flow.path import velocity
from paris_p2p.model.calibration import Calibration, calibration_of
from paris_p2p.model.checkpoint import load_weights_into
from paris_p2p.model.grown_router import grow_outputs, without_outputs
from paris_p2p.model.plain_router import PlainRouter
from paris_p2p.records import MAX_LOSS
from paris_p2p.rules.refusals import REASONS, code_of
from paris_p2p.rules.tips import refuse_loss
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.messages import GateJob, GateResult
from paris_p2p.training.objective import empty_network, open_clips
from paris_p2p.training.probing import losses_by_part, stratified_batch
from paris_p2p.updates.layout import Layout, Vector
from paris_p2p.updates.merged_state import read_state
from paris_p2p.updates.rounding import round_to_24_bits, split_bf16

RESUME_SLACK = 2.0  # the weights before averaging are noisier, by far less than this
_AT_ONCE = 1 << 22  # numbers that are rounded

Tensors = Mapping[str, Tensor]
Loads = Callable[[Tensors], None]  # copies numbers into a network's tensors; CheckpointError


@dataclass(frozen=True)
class Measured:
    """Says where the numbers come from that are measured, each when its turn comes."""

    reference: Loads | None  # the best attested ancestor's; None: the zero predictor is the reference
    average: Loads  # the card's averaged weights
    raw: Loads  # what training goes on with
    # Of a router: that of the card, and of the ancestor where the card has one too, so that like is measured
    # against like.
    calibration: Calibration | None = None
    reference_calibration: Calibration | None = None


@dataclass(frozen=True)
class _Losses:
    ignorant: float  # of weights that know nothing
    reference: float  # of the best attested ancestor, else `ignorant`
    average: float  # of the card's averaged weights
    fixed: float  # of the same on the slot's fixed batch
    raw: float  # of the weights that training goes on with


def measure_card(job: GateJob, spec: RunSpec, device: Device, numbers: Measured) -> GateResult:
    """Returns the verdict on a card with well-formed files; ParisError for what is wrong on this side."""
    batch, t = gate_batch(job, spec)
    network = empty_network(spec, job.slot, device.torch)
    tensors = dict(network.named_parameters())

    ignorant = reference = zero_loss(spec, job.slot, batch)
    if numbers.reference is not None:
        numbers.reference(tensors)
        _calibrate(network, numbers.reference_calibration)
        reference = mean_loss(network, spec, job.slot, batch, t, device)
    if not reference <= MAX_LOSS:
        raise CheckpointError(
            f"the gate's loss of the reference weights of {job.slot} is {reference:.4g}; "
            "nothing can be measured against them"
        )

    numbers.average(tensors)
    _calibrate(network, numbers.calibration)
    loss = mean_loss(network, spec, job.slot, batch, t, device)
    fixed_loss = mean_loss(network, spec, job.slot, *fixed_batch(job, spec), device)
    # The average may be good while what training goes on with is spoilt: the next lead would be refused for
    # it.
    numbers.raw(tensors)
    raw_loss = mean_loss(network, spec, job.slot, batch, t, device)
    losses = _Losses(ignorant, reference, loss, fixed_loss, raw_loss)
    return _verdict(job, spec, len(batch), losses, first=numbers.reference is None)


def _calibrate(network: nn.Module, calibration: Calibration | None) -> None:
    """Makes a router answer as it will when it is used; an expert has nothing to calibrate."""
    if isinstance(network, PlainRouter):
        network.calibrate(calibration)


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
    return stratified_batch(open_clips(job, spec), spec, job.slot, draws, spec.gate.clips)


def mean_loss(network: nn.Module, spec: RunSpec, slot: str, batch: Batch, t: Tensor, device: Device) -> float:
    """Returns the network's mean loss over the batch (`losses_by_part`)."""
    parts = losses_by_part(network, spec, slot, batch, t, device)
    return sum(float(losses.sum()) for losses in parts) / len(batch)


def zero_loss(spec: RunSpec, slot: str, batch: Batch) -> float:
    """Returns the loss of weights that know nothing, per element.

    It is E|eps - x0|^2, E|eps|^2 for a noise predictor, and log K for the router of K experts that have
    clips.
    """
    if slot == ROUTER:
        return math.log(spec.experts - len(silent_experts(spec)))
    target = batch.noise if spec.predicts_noise(slot) else velocity(batch.latent.float(), batch.noise)
    return float(target.square().double().mean())


def reference_of(job: GateJob, spec: RunSpec) -> Loads | None:
    """Returns what loads the best attested ancestor's averaged weights, of a file of its own or of a state
    that a crew merged; None where the job names neither.
    """
    parents = parents_from(spec, job.best_experts)
    if (path := job.best_weights_path) is not None:
        return lambda tensors: load_reference(path, tensors, parents)
    if (state_path := job.best_state_path) is None:
        return None

    def load(tensors: Tensors) -> None:
        layout = Layout.of(_shapes_before(tensors, parents))
        state = read_state(state_path, job.run, job.slot, layout.parameters, job.best_merged)
        _put_grown(as_published(layout, state.average), tensors, parents)

    return load


def reference_calibration(job: GateJob, calibration: Calibration | None) -> Calibration | None:
    """Returns the calibration that the best attested ancestor is measured with: its own, where the card has
    one.

    Trainers of earlier versions make cards without, and a calibrated ancestor would be too good for them.
    """
    if calibration is None or job.best_weights_path is None:
        return None
    try:
        return calibration_of(job.best_weights_path)
    except CheckpointError:
        return None  # attested by a version that does not read it


def as_published(layout: Layout, average: Vector) -> dict[str, Tensor]:
    """Returns a state's averaged weights by name as a full card's weights file has them, in bfloat16."""
    nearest = np.empty(average.size, np.uint16)
    for start in range(0, average.size, _AT_ONCE):
        part = average[start : start + _AT_ONCE].copy()
        round_to_24_bits(part)
        nearest[start : start + _AT_ONCE] = split_bf16(part)[0]
    whole = torch.from_numpy(nearest.view(np.int16)).view(torch.bfloat16)
    return {name: whole[start:end].view(shape) for name, shape, start, end in layout.spans()}


def load_reference(path: Path, tensors: Tensors, parents: Sequence[int]) -> None:
    """Copies attested weights into a network's tensors; a router that lacks its last outputs gets them first,
    one for each of `parents`. CheckpointError.
    """
    if not parents:
        load_weights_into(path, tensors)
        return
    smaller = {name: torch.empty(shape) for name, shape in _shapes_before(tensors, parents).items()}
    load_weights_into(path, smaller)
    _put_grown(smaller, tensors, parents)


def _shapes_before(tensors: Tensors, parents: Sequence[int]) -> dict[str, tuple[int, ...]]:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return dict(without_outputs(shapes, len(parents))) if parents else shapes


def _put_grown(smaller: Mapping[str, Tensor], tensors: Tensors, parents: Sequence[int]) -> None:
    grown = grow_outputs(smaller, parents) if parents else smaller
    with torch.no_grad():
        for name, value in grown.items():
            tensors[name].copy_(value)


def _verdict(job: GateJob, spec: RunSpec, gate_clips: int, losses: _Losses, *, first: bool) -> GateResult:
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
