"""Decides which updates a lead's round leaves out, beside what records tell: form, length, copies, worth.

An update is left out when
    format  its file is not a canonical one of this network, or rate: it counts other clips than its steps use
    norm    it is longer than three medians of the others, or is not finite
    copy    it agrees with an update that was heard of before, far beyond chance
    loss    a fifth of it, taken from the base, makes clips' losses worse, by three standard errors, than
            before and than the lead's own does; or its maker's updates made them worse over rounds
    data    over rounds its maker's gain less on own clips than on others', or less than a tenth of what
            others' gain for each clip, by three standard errors
Each check sees what those before it left. What a lead leaves out is told with the code and what was measured.
Legend: n parameters, Q an update, L entries of a chunk, of which k are not zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray

from paris_p2p.data.draws import Draws
from paris_p2p.errors import UpdateFormatError
from paris_p2p.rules.rounds import MAX_NORM, UpdateReason, length_for_steps, too_long
from paris_p2p.training.crew_messages import LeftOut, UpdateFile
from paris_p2p.training.round_merge import CrewSlot, open_update, update_lengths
from paris_p2p.updates.update_file import Update

Signs = NDArray[np.int8]  # [L]
WORSE_Z = 3.0  # standard errors beyond which a difference is not noise
LEAST_ROUNDS = 4  # before what was measured over rounds says anything
FORGETTING = 0.9
SAMPLED_CHUNKS = 64  # looked at for copies
# From this agreement beyond chance on, one may be a copy. Honest updates agree too: in steps of two root mean
# squares up to 0.47 in a slot's first round, where all go the same way, and 0.10 to 0.18 after it. Where the
# outer momentum overshot and all go back, it may be far more: so a copy also agrees more than the round's
# others do, by COPY_SHARE of what they lack.
COPY_AGREEMENT, COPY_SHARE = 0.6, 0.6


@dataclass(frozen=True)
class OpenedUpdate:
    """Is an update that may be merged, opened and well-formed."""

    file: UpdateFile
    update: Update

    @property
    def length(self) -> float:
        """Returns by which length it is compared with others."""
        return length_for_steps(self.update.norm, self.file.steps)


@dataclass(frozen=True)
class Judged:
    """Says which candidates are left, in their order, and which a check left out."""

    kept: tuple[OpenedUpdate, ...]
    left_out: tuple[LeftOut, ...] = ()

    def then(self, check: Callable[[Sequence[OpenedUpdate]], Judged]) -> Judged:
        """Returns what another check makes of those that are left."""
        after = check(self.kept)
        return Judged(after.kept, self.left_out + after.left_out)


def leave_out(candidate: OpenedUpdate | UpdateFile, reason: UpdateReason, measured: str) -> LeftOut:
    """Returns the word that an update was left out."""
    file = candidate.file if isinstance(candidate, OpenedUpdate) else candidate
    return LeftOut(update=file.update, signer=file.signer, reason=reason, measured=measured)


def judge_form(crew_slot: CrewSlot, files: Sequence[UpdateFile]) -> Judged:
    """Opens candidates' files and leaves out what is not well-formed or counts other clips than steps."""
    kept, left_out = [], []
    for file in files:
        if file.steps == 0 or file.clips != file.steps * crew_slot.batch_clips:
            left_out.append(leave_out(file, "rate", f"{file.clips} clips in {file.steps} steps"))
            continue
        try:
            kept.append(OpenedUpdate(file, open_update(crew_slot, file)))
        except UpdateFormatError as error:
            left_out.append(leave_out(file, "format", str(error)))
    return Judged(tuple(kept), tuple(left_out))


def lengths_of(opened: Sequence[OpenedUpdate]) -> list[float]:
    """Returns by which lengths updates of one round are compared."""
    return update_lengths([one.file for one in opened], [one.update for one in opened])


def judge_norms(candidates: Sequence[OpenedUpdate], usual_norm: float) -> Judged:
    """Leaves out what is over MAX_NORM medians of those that stay, or of `usual_norm` where these are few."""
    kept, left_out = list(candidates), []
    while places := too_long(lengths := lengths_of(kept), usual_norm):
        middle = median(lengths) if len(kept) >= 3 else usual_norm
        for place in places:
            measured = f"length {lengths[place]:.4g} for its steps, at most {MAX_NORM:g} times {middle:.4g}"
            left_out.append(leave_out(kept[place], "norm", measured))
        kept = [one for place, one in enumerate(kept) if place not in places]
    return Judged(tuple(kept), tuple(left_out))


def judge_copies(crew_slot: CrewSlot, candidates: Sequence[OpenedUpdate], parent: str) -> Judged:
    """Leaves out what agrees too well with one before it: candidates come as they were heard of."""
    samples = [_Sample.of(one.update, crew_slot.run, parent) for one in candidates]
    pairs = {(i, j): _agreement(samples[i], samples[j]) for i, j in combinations(range(len(samples)), 2)}
    usual = median(pairs.values()) if pairs else 0.0
    limit = max(COPY_AGREEMENT, usual + COPY_SHARE * (1 - usual))
    copied: dict[int, int] = {}  # place -> of which it is a copy
    for (i, j), agrees in pairs.items():
        if agrees >= limit and i not in copied:
            copied.setdefault(j, i)
    left_out = [
        leave_out(
            candidates[j],
            "copy",
            f"it agrees to {pairs[i, j]:.2f} beyond chance with that of {candidates[i].file.signer[-8:]}, "
            f"as the others do to {usual:.2f}",
        )
        for j, i in sorted(copied.items())
    ]
    return Judged(tuple(one for j, one in enumerate(candidates) if j not in copied), tuple(left_out))


def sign_agreement(one: Update, other: Update, run: str, parent: str) -> float:
    """Returns how far two updates agree beyond chance: 0 as two unrelated ones do, 1 when one repeats what
    the other says.

    It counts entries that both say with the same sign, on chunks that the parent card's id picks: where they
    say k_1 and k_2 entries of L there would be k_1 k_2 / 2 L by chance. It is 0 where they hold other parts.
    """
    return _agreement(_Sample.of(one, run, parent), _Sample.of(other, run, parent))


@dataclass(frozen=True)
class _Sample:
    """Holds the signs (-1, 0 where nothing is said, 1) of an update on some of its chunks."""

    chunks: range  # that the update holds
    signs: tuple[Signs, ...]

    @classmethod
    def of(cls, update: Update, run: str, parent: str) -> _Sample:
        chunks = update.header.chunks
        chosen = Draws.of(run, f"copy/{parent}").order(0, len(chunks))[:SAMPLED_CHUNKS]
        read = (update.read(chunks[int(place)], chunks[int(place)] + 1) for place in chosen)
        return cls(chunks, tuple(np.sign(codes.levels[0]) for _, codes in read))


def _agreement(one: _Sample, other: _Sample) -> float:
    if one.chunks != other.chunks:
        return 0.0
    same, chance, most = 0.0, 0.0, 0.0
    for first, second in zip(one.signs, other.signs, strict=True):
        said = [np.count_nonzero(signs) for signs in (first, second)]
        same += float(np.count_nonzero((first == second) & (first != 0)))
        chance += said[0] * said[1] / (2 * len(first))
        most += min(said)
    return float((same - chance) / (most - chance)) if most > chance else 0.0


@dataclass
class Drift:
    """Keeps the mean of a difference that is measured round after round, and how sure it is.

    Older rounds count less, by FORGETTING a round, so that nobody lives on old merits.
    """

    total: float = 0.0
    variance: float = 0.0
    rounds: int = 0

    def add(self, mean: float, variance: float) -> None:
        """Adds a round's mean difference, and the variance of that mean."""
        self.total = FORGETTING * self.total + mean
        self.variance = FORGETTING**2 * self.variance + variance
        self.rounds += 1

    @property
    def z(self) -> float:
        """Returns by how many standard errors the mean is above zero; 0 before LEAST_ROUNDS."""
        if self.rounds < LEAST_ROUNDS or self.variance == 0:
            return 0.0
        return self.total / math.sqrt(self.variance)


@dataclass
class MakerRecord:
    """Keeps what a lead measured of one maker's updates."""

    worse: Drift = field(default_factory=Drift)  # by how much clips' losses are worse after them
    gain: Drift = field(default_factory=Drift)  # by how much they gain more than a tenth of what others do
    own: Drift = field(default_factory=Drift)  # by how much more they gain on own clips than on another's
    heard: int = 0  # the round in which it was measured last
