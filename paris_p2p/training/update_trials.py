"""Tries updates on clips: a fifth of each, from the base, with the lead's own network.

    loss    on clips that the parent card's id picks, the gate's where this machine may read them
    data    on what two of the makers say that they were trained on: each should gain more on its own
Legend: B clips, n parameters, Q an update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from paris_p2p.data.batches import Batch
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.draws import Draws
from paris_p2p.training.crew_learner import CrewLearner
from paris_p2p.training.probing import (
    STEP_SHARE,
    Losses,
    evaluating,
    losses_of_clips,
    paired_z,
    probe_batch,
    stream_batch,
)
from paris_p2p.training.update_checks import WORSE_Z, Judged, OpenedUpdate, OwnGain, leave_out
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.outer_step import add_scaled

MOST_CLIPS, LEAST_CLIPS = 64, 16  # that updates are tried on
STREAM_CLIPS = 16  # of a maker's own
LEAST_ROUNDS = 4  # before a maker's gain says anything
FORGOTTEN_ROUNDS = 50  # after which a maker that was not heard of is forgotten


@dataclass
class Trials:
    """Measures candidates with a learner's network, which is as before when `lent` ends.

    Where a `scratch` vector [n] is taken, it is overwritten. `probes` are the clips that losses are measured
    on, `clips` those that members train on at notice `notices`.
    """

    crew: CrewLearner
    clips: ClipSet
    probes: ClipSet
    notices: int
    round: int = 0
    gains: dict[str, OwnGain] = field(default_factory=dict)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Lends the network to trials."""
        weights = self.crew.weights()
        try:
            with evaluating(self.crew.learner.network):
                yield
        finally:
            self.crew.put(weights)

    def judge_losses(
        self, candidates: Sequence[OpenedUpdate], own: str, scratch: Vector, count: int
    ) -> Judged:
        """Leaves out, of others' updates, those with which clips' losses are worse beyond noise."""
        others = [one for one in candidates if one.file.signer != own]
        if not others:
            return Judged(tuple(candidates))
        batch, t = self.probe(count)
        before = self.losses(self.crew.base.weights, batch, t)
        left_out = []
        for one in others:
            z = paired_z(self._after(one, scratch, batch, t) - before)
            if z > WORSE_Z:
                measured = f"losses of {len(batch)} clips are worse by {z:.1f} standard errors"
                left_out.append(leave_out(one, "loss", measured))
        gone = {one.update for one in left_out}
        return Judged(tuple(one for one in candidates if one.file.update not in gone), tuple(left_out))

    def judge_data(self, candidates: Sequence[OpenedUpdate], own: str, scratch: Vector) -> Judged:
        """Measures two makers against each other and leaves out those that gain least where they should most.

        It is the two that were not measured for longest; `own` is measured too, and believed.
        """
        self.round += 1
        self.gains = {
            peer: gain for peer, gain in self.gains.items() if self.round - gain.heard <= FORGOTTEN_ROUNDS
        }
        known = [one for one in candidates if one.file.notices == self.notices]
        if len(known) >= 2:
            self._measure_pair(sorted(known, key=self._measured_last)[:2], scratch)
        left_out = []
        for one in candidates:
            gain = self.gains.get(one.file.signer, OwnGain())
            if one.file.signer != own and gain.rounds >= LEAST_ROUNDS and gain.z < -WORSE_Z:
                measured = f"own clips gained less by {-gain.z:.1f} standard errors in {gain.rounds} rounds"
                left_out.append(leave_out(one, "data", measured))
        gone = {one.update for one in left_out}
        return Judged(tuple(one for one in candidates if one.file.update not in gone), tuple(left_out))

    def probe(self, count: int) -> tuple[Batch, Tensor]:
        """Returns (batch, t [B]) of the clips that the base's card picks."""
        slot = self.crew.crew_slot
        return probe_batch(self.probes, slot.spec, slot.run, slot.slot, self.crew.card, count)

    def losses(self, vector: Vector, batch: Batch, t: Tensor) -> Losses:
        """Returns the clips' losses [B] with these weights [n]."""
        learner, slot = self.crew.learner, self.crew.crew_slot
        self.crew.put(vector)
        return losses_of_clips(learner.network, slot.spec, slot.slot, batch, t, learner.device)

    def _after(self, one: OpenedUpdate, scratch: Vector, batch: Batch, t: Tensor) -> Losses:
        scratch[...] = self.crew.base.weights
        add_scaled(scratch, one.update, -STEP_SHARE)
        return self.losses(scratch, batch, t)

    def _measured_last(self, one: OpenedUpdate) -> tuple[int, str]:
        gain = self.gains.get(one.file.signer)
        return (gain.heard if gain else -1), one.file.signer

    def _measure_pair(self, pair: Sequence[OpenedUpdate], scratch: Vector) -> None:
        """Adds what each of two makers gained on its own clips more than on the other's."""
        streams = [self._stream(one) for one in pair]
        before = [self.losses(self.crew.base.weights, *stream) for stream in streams]
        for place, one in enumerate(pair):
            gains = [
                start - self._after(one, scratch, *stream)
                for start, stream in zip(before, streams, strict=True)
            ]
            mine, others = gains[place], gains[1 - place]
            gain = self.gains.setdefault(one.file.signer, OwnGain())
            gain.heard = self.round
            if min(len(mine), len(others)) < 2 or not np.isfinite([*mine, *others]).all():
                continue
            gain.difference += float(mine.mean() - others.mean())
            gain.variance += float(mine.var(ddof=1) / len(mine) + others.var(ddof=1) / len(others))
            gain.rounds += 1

    def _stream(self, one: OpenedUpdate) -> tuple[Batch, Tensor]:
        """Returns (batch, t [B]) of clips that an update's maker says it was trained on."""
        slot, file = self.crew.crew_slot, one.file
        count = min(STREAM_CLIPS, file.clips)
        _, uniforms = Draws.of(slot.run, f"stream/{self.crew.card}/{file.update}").scalars(0)
        first = file.first_clip + int(uniforms[0] * (file.clips - count + 1))
        return stream_batch(self.clips, slot.spec, slot.run, slot.slot, file.signer, first, count)
