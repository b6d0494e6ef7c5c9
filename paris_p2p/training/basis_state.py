"""Reads the state of a card that a crew works on: of a full card's files, and of the rounds since, each of
which is done again and must come out as it did for others (docs/protocol.md, "Crews").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from paris_p2p.errors import CheckpointError, InexactError
from paris_p2p.model.checkpoint import Counters
from paris_p2p.model.merged_file import read_merged
from paris_p2p.model.resume_format import format_of_run
from paris_p2p.training.crew_messages import Basis, RoundFiles
from paris_p2p.training.grown_state import grow_state, slot_of_file, slot_of_size
from paris_p2p.training.round_merge import CrewSlot, redo_round, tensors_of
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.merged_state import kept_parameters, read_state
from paris_p2p.updates.outer_step import OuterState
from paris_p2p.updates.update_file import parameters_of


def load_basis(crew_slot: CrewSlot, basis: Basis) -> OuterState:
    """Returns the state of a card, in memory of its own; a router's with all outputs that it has by now.

    CheckpointError for files that are not what the card says, UpdateFormatError, InexactError where a round
    comes out otherwise than for others, DivergedError.
    """
    if basis.state_path is not None and basis.merged:
        kept = slot_of_size(crew_slot, kept_parameters(basis.state_path))
        state = read_state(basis.state_path, kept.run, kept.slot, kept.parameters, basis.merged)
        return grow_state(crew_slot, state)
    state = _full_state(slot_of_file(crew_slot, basis.resume_path), basis)
    return grow_state(crew_slot, replay(crew_slot, state, basis.rounds))


def replay(crew_slot: CrewSlot, state: OuterState, rounds: Sequence[RoundFiles]) -> OuterState:
    """Does rounds again and returns the state after them: in place, unless a router got outputs under way.

    InexactError where a round comes out otherwise than it did for others.
    """
    for made in rounds:
        then = slot_of_size(crew_slot, parameters_of(made.updates[0].path))
        state = grow_state(then, state)
        found = redo_round(then, state, made)
        if found != made.merged:
            raise InexactError(
                f"the round to step {made.steps} gives {found[:16]} on this machine, {made.merged[:16]} on "
                "others: it computes otherwise, or a file changed meanwhile, and cannot train with this "
                "crew; start it again, and say which CPU and numpy it has where this is developed"
            )
    return state


def _full_state(crew_slot: CrewSlot, basis: Basis) -> OuterState:
    """Returns the state that a full card's own files hold."""
    counters = Counters(crew_slot.run, crew_slot.slot, basis.start_steps, basis.start_clips)
    if basis.merged_start:
        shapes = dict(crew_slot.layout.shapes)
        merged = read_merged(basis.resume_path, basis.weights_path, counters, shapes)
        if (found := crew_slot.hash_of(merged)) != basis.merged_start:
            raise CheckpointError(
                f"{basis.resume_path.name} holds state {found[:16]}, not {basis.merged_start[:16]} as its "
                "card says; fetch it again"
            )
        return merged
    weights, momentum, average = (np.zeros(crew_slot.parameters, np.float32) for _ in range(3))
    state = OuterState(weights, momentum, average, basis.start_steps, basis.start_clips)
    read = format_of_run(crew_slot.spec.training).load_weights
    read(basis.resume_path, tensors_of(crew_slot, weights), counters, tensors_of(crew_slot, average))
    return state


def put_into(crew_slot: CrewSlot, tensors: Mapping[str, Tensor], vector: Vector) -> None:
    """Copies a vector into a network's parameters, or their average, on whatever device."""
    with torch.no_grad():
        for name, value in tensors_of(crew_slot, vector).items():
            tensors[name].copy_(value)
