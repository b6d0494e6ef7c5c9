"""Decides which updates of a round count, as a lead does before it merges: the rules, in one process.

The order is the cheap first: form, age, copies, length, then what a short step along it does to the loss.
Legend: n parameters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from bench.crew.plans import Plan
from bench.crew.sending import Sent, dense
from paris_p2p.crew_records import MAX_LATE, SCALE_ONE
from paris_p2p.errors import UpdateFormatError
from paris_p2p.rules.rounds import too_long, update_scales, weight
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.outer_step import Contribution
from paris_p2p.updates.update_file import Update

TRIAL = 0.2  # of an update, on trial
WORSE_Z, LEARNED_Z, LEARNED_ROUNDS = 3.0, 3.0, 4
COPIED = 0.4  # agreement of signs beyond chance
Losses = Callable[[Vector, int], np.ndarray]  # (weights, round) -> the losses of clips


@dataclass(frozen=True)
class Counting:
    """Is one update that may count, opened."""

    sent: Sent
    q: Vector  # [n]
    update: Update | None
    norm: float


@dataclass
class Checks:
    """Remembers what checks over several rounds need."""

    losses: Losses | None = None  # None: no check looks at losses
    usual: float = 0.0  # median norm of the rounds before
    gains: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    agreements: list[float] = field(default_factory=list)  # of signs, between honest and honest
    refused: list[tuple[str, str]] = field(default_factory=list)

    def sift(self, plan: Plan, base: Vector, sent: list[Sent], number: int) -> list[Counting]:
        """Returns what counts, by signer, and tells in `refused` what does not."""
        opened = [one for each in sent if (one := self._open(each, len(base), number)) is not None]
        if plan.checked:
            opened = self._without_copies(opened)
        norms = [one.norm for one in opened]
        if plan.checked:
            long = set(too_long(norms, self.usual))
            for place in long:
                self._refuse(opened[place].sent.maker, "norm")
            opened = [one for place, one in enumerate(opened) if place not in long]
        if opened:
            self.usual = median(one.norm for one in opened)
        if plan.checked and self.losses is not None:
            opened = self._without_harm(base, opened, number)
        return sorted(opened, key=lambda one: one.sent.maker)

    def _refuse(self, maker: str, code: str) -> None:
        self.refused.append((maker, code))

    def _open(self, sent: Sent, parameters: int, number: int) -> Counting | None:
        if number - sent.number > MAX_LATE:
            self._refuse(sent.maker, "stale")
            return None
        if sent.exact is not None:
            return Counting(sent, sent.exact, None, float(np.linalg.norm(sent.exact.astype(np.float64))))
        try:
            update = Update.from_bytes(sent.data, parameters)
        except UpdateFormatError:
            self._refuse(sent.maker, "format")
            return None
        return Counting(sent, dense(sent.data, parameters), update, update.norm)

    def _without_copies(self, opened: list[Counting]) -> list[Counting]:
        left: list[Counting] = []
        for one in opened:
            found = [agreement(one.q, other.q) for other in left]
            self.agreements += found
            if any(share >= COPIED for share in found):
                self._refuse(one.sent.maker, "copy")
            else:
                left.append(one)
        return left

    def _without_harm(self, base: Vector, opened: list[Counting], number: int) -> list[Counting]:
        assert self.losses is not None
        before = self.losses(base, number)
        left = []
        for one in opened:
            change = self.losses(base - np.float32(TRIAL) * one.q, number) - before
            z = change.mean() / (change.std(ddof=1) / math.sqrt(len(change)) + 1e-30)
            if not z <= WORSE_Z:
                self._refuse(one.sent.maker, "loss")
            else:
                left.append(one)
        return left


def agreement(one: Vector, other: Vector) -> float:
    """Returns by how much two updates agree beyond chance: 1 for the same, 0 for unrelated ones.

    Of the entries that the one with fewer keeps: the share that the other keeps with the same sign, beyond
    what would be so by chance.
    """
    kept = min(np.count_nonzero(one), np.count_nonzero(other)) or 1
    most = max(np.count_nonzero(one), np.count_nonzero(other))
    same = np.count_nonzero((one > 0) & (other > 0)) + np.count_nonzero((one < 0) & (other < 0))
    chance = 0.5 * most / len(one)
    return float((same / kept - chance) / (1 - chance))


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
