"""Decides which updates of a round count, as a lead does before it merges.

The measures and limits are the product's (`paris_p2p/training/update_checks.py`, `update_trials.py`); here
they look at vectors in one process. The order is the cheap first: form, age, length, copies, then what a
short step along an update does to losses.
Legend: n parameters, M rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from bench.crew.clips_seen import Tried
from bench.crew.plans import TRAINING, Plan
from bench.crew.sending import Sent, dense
from paris_p2p.crew_records import MAX_LATE, SCALE_ONE
from paris_p2p.errors import UpdateFormatError
from paris_p2p.rules.rounds import too_long, update_scales, weight
from paris_p2p.training.probing import STEP_SHARE, paired_z
from paris_p2p.training.update_checks import COPY_AGREEMENT, WORSE_Z, OwnGain, sign_agreement
from paris_p2p.training.update_trials import LEAST_ROUNDS, STREAM_CLIPS
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.outer_step import Contribution
from paris_p2p.updates.update_file import Update


@dataclass(frozen=True)
class Counting:
    """Is one update that may count, opened."""

    sent: Sent
    q: Vector  # [n]
    update: Update | None
    norm: float


@dataclass
class Checks:
    """Remembers what checks over several rounds need; without `tried` none looks at losses."""

    tried: Tried | None = None
    lead: str = "peer-000"  # who believes itself
    usual: float = 0.0  # median norm of the round before
    gains: dict[str, OwnGain] = field(default_factory=dict)
    agreements: list[float] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def sift(self, plan: Plan, base: Vector, sent: Sequence[Sent], number: int) -> list[Counting]:
        """Returns what counts, by signer, and tells in `refused` what does not."""
        opened = [one for each in sent if (one := self._open(each, len(base), number)) is not None]
        if plan.checked:
            opened = self._without(opened, set(too_long([one.norm for one in opened], self.usual)), "norm")
            opened = self._without_copies(plan, opened, number)
        if opened:
            self.usual = median(one.norm for one in opened)
        if plan.checked and self.tried is not None and opened:
            opened = self._without_harm(self.tried, base, opened, number)
            opened = self._without_strangers(self.tried, base, opened, number)
        return sorted(opened, key=lambda one: one.sent.maker)

    def _without(self, opened: list[Counting], places: set[int], code: str) -> list[Counting]:
        self.refused += [(opened[place].sent.maker, code) for place in sorted(places)]
        return [one for place, one in enumerate(opened) if place not in places]

    def _open(self, sent: Sent, parameters: int, number: int) -> Counting | None:
        if number - sent.number > MAX_LATE:
            self.refused.append((sent.maker, "stale"))
            return None
        if sent.exact is not None:
            return Counting(sent, sent.exact, None, float(np.linalg.norm(sent.exact.astype(np.float64))))
        try:
            update = Update.from_bytes(sent.data, parameters)
        except UpdateFormatError:
            self.refused.append((sent.maker, "format"))
            return None
        return Counting(sent, dense(sent.data, parameters), update, update.norm)

    def _without_copies(self, plan: Plan, opened: list[Counting], number: int) -> list[Counting]:
        left: list[Counting] = []
        for one in opened:
            pairs = [(one.update, other.update) for other in left]
            found = [
                sign_agreement(a, b, plan.run, str(number))
                for a, b in pairs
                if a is not None and b is not None
            ]
            if any(share >= COPY_AGREEMENT for share in found):
                self.refused.append((one.sent.maker, "copy"))
            else:
                self.agreements += found
                left.append(one)
        return left

    def _without_harm(
        self, tried: Tried, base: Vector, opened: list[Counting], number: int
    ) -> list[Counting]:
        losses = tried.on_probe([base, *(_tried(base, one) for one in opened)], number)  # M B
        worse = {
            place
            for place, one in enumerate(opened)
            if one.sent.maker != self.lead and paired_z(losses[place + 1] - losses[0]) > WORSE_Z
        }
        return self._without(opened, worse, "loss")

    def _without_strangers(
        self, tried: Tried, base: Vector, opened: list[Counting], number: int
    ) -> list[Counting]:
        pair = sorted(opened, key=lambda one: (self._heard(one), one.sent.maker))[:2]
        if len(pair) == 2:
            self._measure(tried, base, pair, number)
        strange = set()
        for place, one in enumerate(opened):
            gain = self.gains.get(one.sent.maker, OwnGain())
            if one.sent.maker != self.lead and gain.rounds >= LEAST_ROUNDS and gain.z < -WORSE_Z:
                strange.add(place)
        return self._without(opened, strange, "data")

    def _heard(self, one: Counting) -> int:
        gain = self.gains.get(one.sent.maker)
        return -1 if gain is None else gain.heard

    def _measure(self, tried: Tried, base: Vector, pair: Sequence[Counting], number: int) -> None:
        """Adds what each of two makers gained on its own clips more than on the other's."""
        rows = [base, *(_tried(base, one) for one in pair)]
        streams = []
        for one in pair:
            clips = one.sent.steps * TRAINING.batch_clips
            first = one.sent.at_step * TRAINING.batch_clips + number % max(1, clips - STREAM_CLIPS + 1)
            streams.append(tried.on_stream(rows, one.sent.maker, first))
        for place, one in enumerate(pair):
            mine, others = (losses[0] - losses[place + 1] for losses in (streams[place], streams[1 - place]))
            gain = self.gains.setdefault(one.sent.maker, OwnGain())
            gain.heard, gain.rounds = number, gain.rounds + 1
            gain.difference += float(mine.mean() - others.mean())
            gain.variance += float(mine.var(ddof=1) / len(mine) + others.var(ddof=1) / len(others))


def _tried(base: Vector, one: Counting) -> Vector:
    return np.asarray(base - np.float32(STEP_SHARE) * one.q, np.float32)


def weighed(counting: list[Counting], number: int, batch_clips: int) -> list[tuple[Counting, float, float]]:
    """Returns each update with its weight and scale, by the rules of a round."""
    scales = update_scales([one.norm for one in counting])
    return [
        (one, weight(one.sent.steps * batch_clips, number - one.sent.number), scale / SCALE_ONE)
        for one, scale in zip(counting, scales, strict=True)
    ]


def contribution(one: Counting, share: float, scale: float, batch_clips: int) -> Contribution:
    """Returns an update as the product's outer step takes it."""
    assert one.update is not None
    steps = one.sent.steps
    return Contribution(one.sent.maker, one.update, share, scale, steps, steps * batch_clips)
