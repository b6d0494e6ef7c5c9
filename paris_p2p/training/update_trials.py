"""Tries updates on clips: a fifth of each, from the base, with the lead's own network.

    loss    on clips that the parent card's id picks, the gate's where this machine may read them: no update
            makes them worse, and over rounds a maker's gain a tenth of what others do for each clip
    data    on what two of the makers say that they were trained on: each should gain more on its own
Legend: B clips, n parameters, Q an update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from torch import Tensor

from paris_p2p.data.batches import Batch
from paris_p2p.data.clips import ClipSet
from paris_p2p.data.draws import Draws
from paris_p2p.training.crew_learner import CrewLearner
from paris_p2p.training.crew_messages import LeftOut
from paris_p2p.training.probing import (
    STEP_SHARE,
    Losses,
    evaluating,
    losses_of_clips,
    paired_z,
    probe_batch,
    stream_batch,
)
from paris_p2p.training.update_checks import WORSE_Z, Judged, MakerRecord, OpenedUpdate, leave_out
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.outer_step import add_scaled

MOST_CLIPS, LEAST_CLIPS = 64, 16  # that updates are tried on
STREAM_CLIPS = 16  # of a maker's own
HELPFUL_Z = 2.0  # standard errors by which an update helps that nothing is said against
NOTED_LOSS = 1.0  # of a clip, beyond which a difference counts no more; knowing nothing loses about 2
LEAST_SHARE = 0.1  # of what others gain for each clip
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
    makers: dict[str, MakerRecord] = field(default_factory=dict)
    helpful: set[str] = field(default_factory=set)  # updates of this round that attestors, too, find good

    def begin_round(self) -> None:
        """Counts a round, and forgets makers that were not heard of for long."""
        self.round += 1
        long_ago = self.round - FORGOTTEN_ROUNDS
        self.makers = {peer: record for peer, record in self.makers.items() if record.heard >= long_ago}

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
        """Leaves out, of others' updates, those with which clips' losses are worse beyond noise, than before
        and than with this machine's own, and those that help nobody of makers whose updates did harm, or next
        to nothing, over rounds.

        Of a part of the network alone an honest update may make losses worse, but then the lead's does too.
        """
        batch, t = self.probe(count)
        before = self.losses(self.crew.base.weights, batch, t)
        worse = {one.file.update: self._after(one, scratch, batch, t) - before for one in candidates}
        rates = [-float(worse[one.file.update].mean()) / one.file.clips for one in candidates]
        usual = median(rates) if np.isfinite(rates).all() else 0.0
        mine = next((worse[one.file.update] for one in candidates if one.file.signer == own), None)
        left_out = []
        self.helpful = set()
        for one in candidates:
            if one.file.signer == own:
                continue
            found = worse[one.file.update]
            self._note(one, found - mine if mine is not None and mine.mean() > 0 else found, max(0.0, usual))
            beyond_own = paired_z(found - mine) if mine is not None else math.inf
            if (z := paired_z(found)) > WORSE_Z and beyond_own > WORSE_Z:
                measured = f"losses of {len(batch)} clips are worse by {z:.1f} standard errors"
                left_out.append(leave_out(one, "loss", measured))
            elif z < -HELPFUL_Z:
                self.helpful.add(one.file.update)
            elif (told := self._over_rounds(one)) is not None:
                left_out.append(told)
        return _without(candidates, left_out)

    def judge_data(self, candidates: Sequence[OpenedUpdate], own: str, scratch: Vector) -> Judged:
        """Measures two makers against each other, and leaves out updates that help nobody of makers that
        gained least where they should most.

        It is the two that were measured in the fewest rounds; `own` is measured too, and believed.
        """
        known = [one for one in candidates if one.file.notices == self.notices]
        if len(known) >= 2:
            self._measure_pair(sorted(known, key=self._measured_last)[:2], scratch)
        left_out = []
        for one in candidates:
            drift = self._record_of(one).own
            doubted = one.file.signer != own and one.file.update not in self.helpful
            if doubted and drift.z < -WORSE_Z:
                measured = f"own clips gained less by {-drift.z:.1f} standard errors in {drift.rounds} rounds"
                left_out.append(leave_out(one, "data", measured))
        return _without(candidates, left_out)

    def _note(self, one: OpenedUpdate, worse: Losses, usual: float) -> None:
        """Adds a round's measurement to what is known of an update's maker; `usual`: gain for each clip."""
        if not np.isfinite(worse).all():
            return
        record = self._record_of(one)
        # One update that does harm without bounds would make all that is measured later noise beside it.
        worse = np.clip(worse, -NOTED_LOSS, NOTED_LOSS)
        variance = float(worse.var(ddof=1) / len(worse))
        record.worse.add(float(worse.mean()), variance)
        record.gain.add(-float(worse.mean()) - LEAST_SHARE * one.file.clips * usual, variance)

    def _over_rounds(self, one: OpenedUpdate) -> LeftOut | None:
        """Returns what the rounds before say against an update's maker, if anything."""
        record = self._record_of(one)
        if (z := record.worse.z) > WORSE_Z:
            measured = f"losses were worse by {z:.1f} standard errors in {record.worse.rounds} rounds"
            return leave_out(one, "loss", measured)
        if (z := record.gain.z) < -WORSE_Z:
            measured = f"gains are below a tenth of others' by {-z:.1f} standard errors"
            return leave_out(one, "data", f"{measured} in {record.gain.rounds} rounds")
        return None

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

    def _record_of(self, one: OpenedUpdate) -> MakerRecord:
        record = self.makers.setdefault(one.file.signer, MakerRecord())
        record.heard = self.round
        return record

    def _measured_last(self, one: OpenedUpdate) -> tuple[int, str]:
        return self._record_of(one).own.rounds, one.file.signer

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
            if min(len(mine), len(others)) >= 2 and np.isfinite([*mine, *others]).all():
                variance = float(mine.var(ddof=1) / len(mine) + others.var(ddof=1) / len(others))
                self._record_of(one).own.add(float(mine.mean() - others.mean()), variance)

    def _stream(self, one: OpenedUpdate) -> tuple[Batch, Tensor]:
        """Returns (batch, t [B]) of clips that an update's maker says it was trained on."""
        slot, file = self.crew.crew_slot, one.file
        count = min(STREAM_CLIPS, file.clips)
        _, uniforms = Draws.of(slot.run, f"stream/{self.crew.card}/{file.update}").scalars(0)
        first = file.first_clip + int(uniforms[0] * (file.clips - count + 1))
        return stream_batch(self.clips, slot.spec, slot.run, slot.slot, file.signer, first, count)


def _without(candidates: Sequence[OpenedUpdate], left_out: Sequence[LeftOut]) -> Judged:
    gone = {one.update for one in left_out}
    return Judged(tuple(one for one in candidates if one.file.update not in gone), tuple(left_out))
