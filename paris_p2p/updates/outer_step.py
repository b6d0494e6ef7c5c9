"""Merges a round's updates into the weights, so that everybody who does it gets the same bytes.

Nesterov's momentum over averaged differences, as in DiLoCo (Douillard et al. 2023, arXiv 2311.08105). Every
operation is one fp32 ufunc over equally ordered operands, which IEEE 754 determines to the last bit: no fused
multiply-add, no BLAS, no sums over an axis. Slices are independent, so their size does not matter either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from paris_p2p.updates.exactness import check_arithmetic
from paris_p2p.updates.layout import ChunkRows, Vector, as_rows, chunk_slices, keep_freed_memory
from paris_p2p.updates.power import power
from paris_p2p.updates.update_file import Update


@dataclass
class OuterState:
    """Holds what a slot's crew has merged: weights θ, outer momentum m, averaged weights ē, each fp32 [n].

    `steps` and `clips` are those of the lineage. The arrays may be maps of files.
    """

    weights: Vector
    momentum: Vector
    average: Vector
    steps: int
    clips: int

    def empty_like(self) -> OuterState:
        """Returns a state with room for another of this size, whose numbers mean nothing yet."""
        weights, momentum, average = (np.empty(self.weights.size, np.float32) for _ in range(3))
        return OuterState(weights, momentum, average, steps=0, clips=0)


@dataclass(frozen=True)
class Contribution:
    """Is one update with what the round gives it: weight w > 0, scale c in (0, 1], its steps and clips."""

    signer: str
    update: Update
    weight: float
    scale: float
    steps: int
    clips: int


@dataclass(frozen=True)
class OuterRates:
    """Names the outer rate α, the momentum μ, and the average's decay d for one step of this round."""

    rate: float
    momentum: float
    decay: float


def outer_step(
    base: OuterState, contributions: Sequence[Contribution], rates: OuterRates, out: OuterState | None = None
) -> OuterState:
    """Returns the state after a round, in `out` where given, else in the arrays of `base` itself.

    The contributions count in ascending order of signer, whatever order they are given in. One alone is
    taken as it is: θ <- θ - Q, and m <- 0 where it has chunks. ValueError for none, or two of one signer;
    InexactError on a machine that computes otherwise than others.
    """
    check_arithmetic()
    keep_freed_memory()
    ordered = sorted(contributions, key=lambda each: each.signer)
    _refuse(base, ordered)
    steps = sum(each.steps for each in ordered)
    toward = np.float32(1 - power(rates.decay, steps))
    out = base if out is None else out
    for first, last in chunk_slices(base.weights.size):
        theta, m, average = (as_rows(each, first, last) for each in (out.weights, out.momentum, out.average))
        if out is not base:
            theta[...], m[...] = as_rows(base.weights, first, last), as_rows(base.momentum, first, last)
            average[...] = as_rows(base.average, first, last)
        if len(ordered) == 1:
            _take(theta, m, ordered[0].update, first)
        else:
            _merge(theta, m, ordered, rates, first)
        difference = np.subtract(theta, average)
        np.multiply(difference, toward, out=difference)
        np.add(average, difference, out=average)
    out.steps, out.clips = base.steps + steps, base.clips + sum(each.clips for each in ordered)
    return out


def add_scaled(vector: Vector, update: Update, factor: float) -> None:
    """Adds `factor` times the update to `vector`, in place: of a network on trial, -0.2 takes 0.2 Q."""
    for first, last in chunk_slices(vector.size):
        rows = as_rows(vector, first, last)
        _add(rows, update, first, np.full(last - first, factor, np.float32))


def _refuse(base: OuterState, ordered: Sequence[Contribution]) -> None:
    n = base.weights.size
    if not ordered or any(one.signer == other.signer for one, other in pairwise(ordered)):
        raise ValueError(f"a round of {len(ordered)} updates, or two of one signer")
    for each in ordered:
        if each.update.header.parameters != n:
            raise ValueError(f"an update of {each.update.header.parameters} parameters, a state of {n}")
        if not (0 < each.weight < inf and 0 < each.scale <= 1):
            raise ValueError(f"an update of weight {each.weight} and scale {each.scale}")


def _take(theta: ChunkRows, m: ChunkRows, update: Update, first: int) -> None:
    """Applies a plain round to a slice."""
    places = _add(theta, update, first, np.full(len(theta), -1, np.float32))
    m[places] = 0


def _merge(
    theta: ChunkRows, m: ChunkRows, ordered: Sequence[Contribution], rates: OuterRates, first: int
) -> None:
    """Applies a round of several updates to a slice: g = Σ a Q, m <- μ m + g, θ <- θ - α (g + μ m)."""
    rows, numbers = len(theta), np.arange(first, first + len(theta))
    headers = [each.update.header for each in ordered]
    has = [numbers % header.parts == header.part for header in headers]
    total = np.zeros(rows)
    for each, there in zip(ordered, has, strict=True):
        total += np.where(there, each.weight, 0.0)
    touched = np.flatnonzero(total)
    gradient = np.zeros_like(theta)
    for each, there in zip(ordered, has, strict=True):
        share = np.zeros(rows, np.float32)
        share[there] = each.weight * each.scale / total[there]
        _add(gradient, each.update, first, share)
    if len(touched) == rows:
        _nesterov(theta, m, gradient, rates)
    elif len(touched):
        some_theta, some_m = theta[touched], m[touched]
        _nesterov(some_theta, some_m, gradient[touched], rates)
        theta[touched], m[touched] = some_theta, some_m


def _nesterov(theta: ChunkRows, m: ChunkRows, gradient: ChunkRows, rates: OuterRates) -> None:
    rate, momentum = np.float32(rates.rate), np.float32(rates.momentum)
    np.multiply(m, momentum, out=m)
    np.add(m, gradient, out=m)
    ahead = np.multiply(m, momentum)
    np.add(gradient, ahead, out=ahead)
    np.multiply(ahead, rate, out=ahead)
    np.subtract(theta, ahead, out=theta)


def _add(rows: ChunkRows, update: Update, first: int, factors: ChunkRows) -> NDArray[np.int64]:
    """Adds each chunk's factor [R] times the update to a slice [R, L] that begins at chunk `first`.

    It returns the rows where the update has chunks.
    """
    numbers, codes = update.read(first, first + len(rows))
    places = numbers - first
    if not len(places):
        return places
    values = codes.values(factors[places])
    if len(places) == len(rows):
        np.add(rows, values, out=rows)
    else:
        rows[places] += values
    return places
