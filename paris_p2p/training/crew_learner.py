"""Trains a slot's network as a member of its crew: its own optimizer, and what it is ahead of the base.

    weights, average = the base's; moments = 0, or those of a lead that trained alone
    a step: as a lead alone makes it (learner.py), at the rate of the base's steps and its own since; the rate
            rises over a new member's first steps, while its moments are young
Legend: n parameters of the slot's network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from paris_p2p.data.batches import Batch
from paris_p2p.errors import TrainError
from paris_p2p.training.basis_state import load_basis, put_into, replay
from paris_p2p.training.crew_messages import Adopt, CrewJob
from paris_p2p.training.crew_progress import CrewProgress, Sent, Work
from paris_p2p.training.learner import Learner
from paris_p2p.training.round_merge import CrewSlot, tensors_of
from paris_p2p.updates.compression import Precision
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.outer_step import OuterState
from paris_p2p.updates.update_header import UpdateHeader

WARMUP_STEPS = 20  # of a member whose moments are new


class CrewLearner:
    """Holds a learner, the base that it stands on (`card` names it), and how far it is ahead of that."""

    def __init__(self, learner: Learner, crew_slot: CrewSlot, job: CrewJob):
        self.learner, self.crew_slot, self.card = learner, crew_slot, job.basis.card
        self.progress = CrewProgress(load_basis(crew_slot, job.basis), job.peer)
        self._young_steps = 0
        if job.own_resume_path is None:
            self.put(self.progress.base.weights)
            self._put_average()
        else:
            self._go_on_from(job.own_resume_path, job)
        self.count()

    @property
    def base(self) -> OuterState:
        return self.progress.base

    def step(self, batch: Batch) -> float:
        """Takes one optimizer step and returns the mean loss; DivergedError before anything not finite is
        kept.
        """
        self._young_steps += 1
        self.learner.rate_share = min(1.0, self._young_steps / WARMUP_STEPS)
        loss = self.learner.step(batch)
        self.progress.note(Work(batch.first_clip, 1, len(batch), loss, 1))
        return loss

    def publish(self, step: float, part: int, folder: Path) -> Sent | None:
        """Writes an update of what was learned; None where nothing was.

        TrainError for a part that the run does not have, DivergedError, DiskFullError, ReadOnlyError.
        """
        crew = self.crew_slot.crew
        if part >= crew.parts or step < crew.step:
            raise TrainError(
                f"the trainer was asked for part {part} and a step of {step}, the run has {crew.parts} parts "
                f"and steps from {crew.step} on; this is a bug in the node"
            )
        if not self.progress.unsent.steps:
            return None
        header = UpdateHeader(self.crew_slot.parameters, crew.parts, part)
        weights = self.weights()
        if self.progress.settle(weights):
            self.put(weights)
        if self.progress.is_unchanged(weights):
            return None
        path = folder / f"update-{self.progress.unsent.span[1]:012}.paris"
        return self.progress.publish(weights, header, Precision(step, crew.feedback), path)

    def adopt(self, command: Adopt, merged: OuterState | None) -> None:
        """Goes on from another card's state: from `merged` where that was computed here already.

        CheckpointError, UpdateFormatError, InexactError.
        """
        if merged is not None:
            base, rounds = merged, command.rounds
        elif command.from_card == self.card and (command.rounds or command.card == self.card):
            rounds = command.rounds
            base = replay(self.crew_slot, self.base, rounds)
        elif command.basis is not None:
            base, rounds = load_basis(self.crew_slot, command.basis), ()
        else:
            raise TrainError(
                f"the trainer has the state of card {self.card[:16]}, and was told to go on from "
                f"{command.card[:16]} without what lies between; this is a bug in the node"
            )
        self.card = command.card
        weights = self.weights()
        if self.progress.adopt(weights, base, rounds, command.own):
            self.put(weights)
            self._put_average()
        self.count()

    def restart(self) -> None:
        """Goes back to the base, with new moments; what was ahead of it is lost."""
        weights = self.weights()
        self.progress.restart(weights)
        self.put(weights)
        self._put_average()
        self.learner.optimizer.restart()
        self._young_steps = 0
        self.count()

    def write_alone(self, folder: Path, notes: dict[str, str]) -> tuple[Path, Path]:
        """Writes the checkpoint of one lead alone; returns the paths of (weights, resume).

        A successor takes the moments for those of all steps of the lineage, so they are scaled to it: what
        AdamW divides by is for them the same. DivergedError, DiskFullError, ReadOnlyError.
        """
        learner = self.learner
        learner.optimizer.scale_to(learner.steps)
        learner.notes = notes
        return learner.write_checkpoint(folder)

    def _go_on_from(self, path: Path, job: CrewJob) -> None:
        """Begins with the weights and moments of a lead that trained alone since the base."""
        steps, clips = job.own_resume_steps - self.base.steps, job.own_resume_clips - self.base.clips
        if steps < 0 or clips < 0:
            raise TrainError(
                f"the lead's own checkpoint stands at step {job.own_resume_steps}, "
                f"the card that it goes on from at {self.base.steps}; this is a bug in the node"
            )
        self.learner.restore(path, job.own_resume_steps, job.own_resume_clips)
        self.progress.note(Work(job.first_clip, steps, clips))
        self._young_steps = WARMUP_STEPS

    def count(self) -> None:
        """Sets the learner's counters: the base's, and what this machine is ahead."""
        ahead = self.progress.ahead
        self.learner.steps, self.learner.clips = self.base.steps + ahead.steps, self.base.clips + ahead.clips

    def weights(self) -> Vector:
        """Returns a copy [n] of the network's weights, in main memory."""
        out = np.empty(self.crew_slot.parameters, np.float32)
        with torch.no_grad():
            for name, tensor in tensors_of(self.crew_slot, out).items():
                tensor.copy_(self.learner.weights[name])
        return out

    def put(self, vector: Vector) -> None:
        """Copies a vector [n] into the network."""
        put_into(self.crew_slot, self.learner.weights, vector)

    def _put_average(self) -> None:
        put_into(self.crew_slot, self.learner.ema, self.base.average)
