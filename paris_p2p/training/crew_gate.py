"""Checks a crew's card at the gate: its rounds are merged anew and the hashes compared, and only then is
anything measured (docs/protocol.md, "Crews").

What the card says wrongly is a result with a code: `merge` where the numbers come out otherwise, `round`
where norms or scales break a rule, `dropped` where an update was left out that should have counted. What is
wrong with the state before it, which was attested, is wrong on this side, and raises.
Legend: n parameters of the slot's network, θ weights, ē averaged weights, Q an update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from paris_p2p.device import Device, pick_device, set_threads
from paris_p2p.errors import CheckpointError, DivergedError, UpdateFormatError
from paris_p2p.model.calibration import Calibration, calibration_of
from paris_p2p.model.checkpoint import Counters, load_weights_into
from paris_p2p.model.merged_file import read_merged
from paris_p2p.rules.refusals import REASONS
from paris_p2p.rules.rounds import MAX_NORM, too_long, update_scales
from paris_p2p.spec import ROUTER, RunSpec
from paris_p2p.training.basis_state import load_basis, put_into
from paris_p2p.training.crew_messages import CrewGateJob, RoundFiles, UpdateFile
from paris_p2p.training.gate_losses import (
    Loads,
    Measured,
    Tensors,
    as_published,
    gate_batch,
    measure_card,
    reference_calibration,
    reference_of,
)
from paris_p2p.training.messages import GateResult
from paris_p2p.training.objective import batch_clips, empty_network, read_spec
from paris_p2p.training.probing import STEP_SHARE, Losses, losses_of_clips, paired_z
from paris_p2p.training.round_merge import CrewSlot, merge_round, open_update, update_lengths
from paris_p2p.training.update_checks import COPY_AGREEMENT, WORSE_Z, sign_agreement
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.merged_state import write_state
from paris_p2p.updates.outer_step import OuterState, add_scaled
from paris_p2p.updates.update_file import Update

ORDINARY_NORM = 1.5  # medians of the merged ones; of a shorter one it is untrue that it is too long


def check_crew_card(job: CrewGateJob) -> GateResult:
    """Returns the verdict on a crew's card; ParisError for what is wrong on this side."""
    set_threads(job.threads)
    spec, device = read_spec(job), pick_device(job.device)
    if job.steps == 0 or job.clips != job.steps * batch_clips(spec, job.slot):
        return _refused("malformed", f"{job.steps} steps do not take {job.clips} clips")
    crew_slot = CrewSlot.of(job.run, job.slot, spec, job.crew)
    state = load_basis(crew_slot, job.basis)
    reference = reference_of(job, spec) or _as_published(crew_slot, state.average)
    calibration = None
    try:
        last = _merge_anew(crew_slot, state, job)
        if not job.light and job.rounds:
            calibration = _compare_files(crew_slot, job)
        if job.disputed and last is not None:
            _look_into_disputes(_Trial(job, crew_slot, spec, device, last))
    except _RefusedError as refused:
        return _refused(refused.code, refused.words)
    if not all(np.isfinite(vector).all() for vector in (state.weights, state.momentum, state.average)):
        return _refused("finite", "a number of its merged state is not finite")
    numbers = Measured(
        reference=reference,
        average=_average(crew_slot, state, job),
        raw=lambda tensors: put_into(crew_slot, tensors, state.weights),
        calibration=calibration,
        reference_calibration=reference_calibration(job, calibration),
    )
    result = measure_card(job, spec, device, numbers)
    if result.ok:
        write_state(job.state_out, job.run, job.slot, state)
    return result


class _RefusedError(Exception):
    def __init__(self, code: str, words: str):
        super().__init__(words)
        self.code, self.words = code, words


@dataclass(frozen=True)
class _LastRound:
    """The newest round, as it was merged here: θ before it, and its updates."""

    before: Vector  # empty where no update is disputed
    updates: tuple[Update, ...]


def _merge_anew(crew_slot: CrewSlot, state: OuterState, job: CrewGateJob) -> _LastRound | None:
    """Merges the card's new rounds into `state`, in place."""
    last = None
    for number, made in enumerate(job.rounds, 1):
        where = f"round {number} of {len(job.rounds)}"
        is_needed = bool(job.disputed) and number == len(job.rounds)
        before = state.weights.copy() if is_needed else np.empty(0, np.float32)
        updates = _opened(crew_slot, made, where)
        try:
            merge_round(crew_slot, state, made.updates, updates, full=made.full)
        except DivergedError as error:
            raise _RefusedError("merge", f"{where}: {error}") from error
        if (found := crew_slot.hash_of(state)) != made.merged:
            raise _RefusedError("merge", f"{where} gives {found[:16]}, it says {made.merged[:16]}")
        last = _LastRound(before, updates)
    if (found := crew_slot.hash_of(state)) != job.merged:
        raise _RefusedError("merge", f"its state is {found[:16]}, it says {job.merged[:16]}")
    return last


def _opened(crew_slot: CrewSlot, made: RoundFiles, where: str) -> tuple[Update, ...]:
    """Returns a round's updates, well-formed, none too long, with the scales that follow from their norms."""
    updates = []
    for file in made.updates:
        try:
            updates.append(open_update(crew_slot, file))
        except UpdateFormatError as error:
            raise _RefusedError("round", f"{where} merges that of {file.signer[-8:]}: {error}") from error
    norms = update_lengths(made.updates, updates)
    if places := too_long(norms):
        long = norms[places[0]]
        raise _RefusedError(
            "round", f"{where} merges one of length {long:.4g} for its steps, of {median(norms):.4g}"
        )
    expected, said = update_scales(norms), tuple(file.scale for file in made.updates)
    if said != expected:
        raise _RefusedError("round", f"{where} says scales {said[:8]}, they are {expected[:8]}")
    return tuple(updates)


def _compare_files(crew_slot: CrewSlot, job: CrewGateJob) -> Calibration | None:
    """Raises unless a full card's own files hold the state that its rounds lead to; returns the calibration
    that a router's weights are sent with, which is no part of the state.
    """
    counters = Counters(job.run, job.slot, job.steps, job.clips)
    try:
        found = read_merged(job.resume_path, job.weights_path, counters, dict(crew_slot.layout.shapes))
        calibration = calibration_of(job.weights_path) if job.slot == ROUTER else None
    except CheckpointError as error:
        raise _RefusedError("malformed", str(error)) from error
    if (hashed := crew_slot.hash_of(found)) != job.merged:
        raise _RefusedError("merge", f"its files hold state {hashed[:16]}, it says {job.merged[:16]}")
    return calibration


def _average(crew_slot: CrewSlot, state: OuterState, job: CrewGateJob) -> Loads:
    if job.light or not job.rounds:
        return _as_published(crew_slot, state.average)
    return lambda tensors: load_weights_into(job.weights_path, tensors)


def _as_published(crew_slot: CrewSlot, average: Vector) -> Loads:
    """Returns what puts ē into a network as a weights file would have it; it keeps a copy."""
    kept = as_published(crew_slot.layout, average)

    def load(tensors: Tensors) -> None:
        with torch.no_grad():
            for name, value in kept.items():
                tensors[name].copy_(value)

    return load


@dataclass
class _Trial:
    """Tries disputed updates on the gate's clips, from θ before the last round."""

    job: CrewGateJob
    crew_slot: CrewSlot
    spec: RunSpec
    device: Device
    last: _LastRound

    def __post_init__(self) -> None:
        job, spec = self.job, self.spec
        self.batch, self.t = gate_batch(job, spec)
        self.network = empty_network(spec, job.slot, self.device.torch)
        self.before: Losses | None = None

    def losses(self, weights: Vector) -> Losses:
        """Returns each gate clip's loss with these weights [n]."""
        put_into(self.crew_slot, dict(self.network.named_parameters()), weights)
        args = self.spec, self.job.slot, self.batch, self.t, self.device
        return losses_of_clips(self.network, *args)

    def helps(self, update: Update) -> bool:
        """Tells whether a fifth of it makes the clips' losses better, beyond noise."""
        if self.before is None:
            self.before = self.losses(self.last.before)
        weights = self.last.before.copy()
        add_scaled(weights, update, -STEP_SHARE)
        return paired_z(self.before - self.losses(weights)) > WORSE_Z


def _look_into_disputes(trial: _Trial) -> None:
    """Raises for an update that was left out for no reason, or for one that is untrue."""
    holds: dict[str, Callable[[Update, float], bool]] = {
        "loss": lambda update, _: not trial.helps(update),
        "data": lambda update, _: not trial.helps(update),
        "norm": lambda _, medians: medians > ORDINARY_NORM,
    }
    for file, reason in trial.job.disputed:
        try:
            update = open_update(trial.crew_slot, file)
        except UpdateFormatError:
            continue
        medians = _in_medians(trial, file, update)
        if not medians <= MAX_NORM or _is_like_another(trial, update):
            continue
        if reason not in holds or not holds[reason](update, medians):
            said = f"refused for {reason!r}" if reason else "neither merged nor refused"
            raise _RefusedError("dropped", f"that of {file.signer[-8:]}, {file.steps} steps, is {said}")


def _in_medians(trial: _Trial, file: UpdateFile, update: Update) -> float:
    """Returns an update's length in medians of the merged ones."""
    files, updates = trial.job.rounds[-1].updates, trial.last.updates
    middle = median(update_lengths(files, updates))
    mine = update_lengths((*files, file), (*updates, update))[-1]
    return mine / middle if middle > 0 else float("inf")


def _is_like_another(trial: _Trial, update: Update) -> bool:
    run, parent = trial.job.run, trial.job.basis.card
    others = trial.last.updates
    return any(sign_agreement(update, other, run, parent) >= COPY_AGREEMENT for other in others)


def _refused(code: str, words: str) -> GateResult:
    return GateResult(
        ok=False, code=code, reason=words if code == "malformed" else f"{REASONS[code]}: {words}"
    )
