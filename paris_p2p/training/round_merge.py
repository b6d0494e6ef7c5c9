"""Merges a round's updates into a crew's state: the same bytes on every machine (docs/protocol.md, "Crews").

Legend: n parameters of the slot's network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paris_p2p.crew_records import SCALE_ONE, CrewSpec
from paris_p2p.errors import CheckpointError, UpdateFormatError
from paris_p2p.rules.rounds import lengths_for_steps, update_scales, weighed_clips, weight
from paris_p2p.spec import RunSpec
from paris_p2p.training.crew_messages import RoundFiles, UpdateFile
from paris_p2p.training.objective import batch_clips, network_shapes
from paris_p2p.training.schedule import ema_decay
from paris_p2p.updates.full_round import round_state
from paris_p2p.updates.layout import Layout, Vector
from paris_p2p.updates.merged_state import state_hash
from paris_p2p.updates.outer_step import Contribution, OuterRates, OuterState, outer_step
from paris_p2p.updates.update_file import Update


@dataclass(frozen=True)
class CrewSlot:
    """Names what a slot's merged states follow from, beside the files: the run, its numbers, the network."""

    run: str
    slot: str
    spec: RunSpec
    crew: CrewSpec
    layout: Layout

    @classmethod
    def of(cls, run: str, slot: str, spec: RunSpec, crew: CrewSpec) -> CrewSlot:
        return cls(run, slot, spec, crew, Layout.of(network_shapes(spec, slot)))

    @property
    def parameters(self) -> int:
        return self.layout.parameters

    @property
    def batch_clips(self) -> int:
        return batch_clips(self.spec, self.slot)

    def rates(self, steps: int) -> OuterRates:
        """Returns the outer step's numbers for a round that is merged into a state of so many steps."""
        decay = ema_decay(self.spec.training.ema_limit(self.slot), steps)
        return OuterRates(self.crew.outer_rate, self.crew.momentum, decay)

    def hash_of(self, state: OuterState) -> str:
        """Returns the hash that cards and rounds name a state by."""
        return state_hash(self.run, self.slot, state)


def open_update(crew_slot: CrewSlot, file: UpdateFile) -> Update:
    """Opens an update's file once all of it is checked.

    UpdateFormatError where it is not well-formed, of another network, of other parts than the run's, or
    holds nothing but zeros, which would take weight from others and bring nothing.
    """
    update = Update.open(file.path, crew_slot.parameters)
    header, crew = update.header, crew_slot.crew
    if header.parts != crew.parts:
        raise UpdateFormatError(
            f"an update is one part of {header.parts}, the run has {crew.parts}; refuse it"
        )
    if update.square_norm == 0:
        raise UpdateFormatError("an update holds nothing but zeros; refuse it")
    return update


def update_lengths(files: Sequence[UpdateFile], updates: Sequence[Update]) -> list[float]:
    """Returns by which lengths updates are compared; `files` and `updates` go together."""
    return list(lengths_for_steps([update.norm for update in updates], [file.steps for file in files]))


def scaled(files: Sequence[UpdateFile], updates: Sequence[Update]) -> tuple[UpdateFile, ...]:
    """Returns a round's updates with their scales, ascending by signer; `files` and `updates` go together."""
    scales = update_scales(update_lengths(files, updates))
    found = (file.model_copy(update={"scale": c}) for file, c in zip(files, scales, strict=True))
    return tuple(sorted(found, key=lambda file: file.signer))


def merge_round(
    crew_slot: CrewSlot,
    state: OuterState,
    files: Sequence[UpdateFile],
    updates: Sequence[Update],
    *,
    full: bool,
    out: OuterState | None = None,
) -> OuterState:
    """Returns the state after a round, in `out` where given, else in the arrays of `state` itself.

    Weights and scales are as the files say; a full round's state is rounded to what is published.
    InexactError, DivergedError.
    """
    weights = [
        weight(clips, file.late)
        for clips, file in zip(weighed_clips([file.clips for file in files]), files, strict=True)
    ]
    parts = [
        Contribution(file.signer, update, w, file.scale / SCALE_ONE, file.steps, file.clips)
        for file, update, w in zip(files, updates, weights, strict=True)
    ]
    merged = outer_step(state, parts, crew_slot.rates(state.steps), out)
    if full:
        round_state(merged)
    return merged


def redo_round(crew_slot: CrewSlot, state: OuterState, made: RoundFiles) -> str:
    """Merges a round into a state, in place, as it was merged before; returns the hash of what came out.

    CheckpointError where the round is of another state or tells other counts than its updates,
    UpdateFormatError, InexactError, DivergedError.
    """
    steps, clips = sum(one.steps for one in made.updates), sum(one.clips for one in made.updates)
    said = made.steps_before, made.clips_before, made.steps, made.clips
    found = state.steps, state.clips, state.steps + steps, state.clips + clips
    if said != found:
        raise CheckpointError(
            f"a round says that it goes from {said[0]} steps and {said[1]} clips to {said[2]} and {said[3]}; "
            f"with its updates it would go from {found[0]} and {found[1]} to {found[2]} and {found[3]}"
        )
    updates = [open_update(crew_slot, file) for file in made.updates]
    merge_round(crew_slot, state, made.updates, updates, full=made.full)
    return crew_slot.hash_of(state)


def tensors_of(crew_slot: CrewSlot, vector: Vector) -> dict[str, Tensor]:
    """Returns the network's parameters as they lie in a vector: writing to one changes it."""
    return {name: torch.from_numpy(view) for name, view in crew_slot.layout.views(vector).items()}
