"""Takes a crew's state of a router over to one with more outputs, as a run that grew has it: before the first
round whose updates have so many numbers (docs/protocol.md, "Growth").

A state, a file and an update each say by their size how many outputs they have.
Legend: n parameters, K experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from paris_p2p.errors import CheckpointError
from paris_p2p.model.grown_router import grow_outputs, share_out, without_outputs
from paris_p2p.spec import ROUTER
from paris_p2p.training.round_merge import CrewSlot, tensors_of
from paris_p2p.updates.layout import Layout
from paris_p2p.updates.outer_step import OuterState


def earlier_slots(crew_slot: CrewSlot) -> Iterator[CrewSlot]:
    """Yields the slot as it is, then as it was before the run's experts were split, the newest first."""
    yield crew_slot
    if crew_slot.slot == ROUTER:
        shapes = dict(crew_slot.layout.shapes)
        for count in range(1, len(crew_slot.spec.parents) + 1):
            yield replace(crew_slot, layout=Layout.of(without_outputs(shapes, count)))


def slot_of_size(crew_slot: CrewSlot, parameters: int) -> CrewSlot:
    """Returns the slot as it was when its network had so many parameters; as it is where it never had."""
    found = (earlier for earlier in earlier_slots(crew_slot) if earlier.parameters == parameters)
    return next(found, crew_slot)


def slot_of_file(crew_slot: CrewSlot, path: Path) -> CrewSlot:
    """Returns the slot as it was when a full card's resume state was written; CheckpointError."""
    if crew_slot.slot != ROUTER or not crew_slot.spec.parents:
        return crew_slot
    try:
        with safe_open(path, framework="pt") as file:
            merged = "weights" in file.keys()  # noqa: SIM118
            found = file.get_slice("weights" if merged else "weights.out.bias").get_shape()[0]
    except (SafetensorError, OSError, IndexError) as error:
        raise CheckpointError(f"{path.name} is not a resume state ({str(error)[:160]})") from error
    if merged:
        return slot_of_size(crew_slot, found)
    missing = crew_slot.spec.experts - found
    return next((one for n, one in enumerate(earlier_slots(crew_slot)) if n == missing), crew_slot)


def grow_state(crew_slot: CrewSlot, state: OuterState) -> OuterState:
    """Returns the state with all outputs that the slot has; the state itself where it has them.

    Each of the two outputs of a split expert gets half the momentum. CheckpointError for another network's.
    """
    if state.weights.size == crew_slot.parameters:
        return state
    smaller = slot_of_size(crew_slot, state.weights.size)
    if smaller is crew_slot:
        raise CheckpointError(
            f"a state of {state.weights.size:,} numbers is none of {crew_slot.slot}, whose network has "
            f"{crew_slot.parameters:,}"
        )
    names = dict(smaller.layout.shapes)
    count = dict(crew_slot.layout.shapes)["out.bias"][0] - names["out.bias"][0]
    parents = crew_slot.spec.parents[-count:]
    grown = []
    for vector, grow in (
        (state.weights, grow_outputs),
        (state.momentum, lambda tensors, rows: share_out(tensors, rows, 1 / 2)),
        (state.average, grow_outputs),
    ):
        tensors = grow(tensors_of(smaller, vector), parents)
        arrays = {name: np.asarray(tensor.numpy(), np.float32) for name, tensor in tensors.items()}
        grown.append(crew_slot.layout.flatten(arrays))
    return OuterState(grown[0], grown[1], grown[2], state.steps, state.clips)
