"""Makes what peers send in an experiment, honest or not, with the product's own compression.

Legend: n parameters.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from bench.crew.plans import Plan
from paris_p2p.updates.chunk_codes import ChunkCodes, PackedChunks
from paris_p2p.updates.compression import Precision, compress
from paris_p2p.updates.layout import Vector, chunk_slices
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader, assembled


@dataclass(frozen=True)
class Sent:
    """Is one update as it reaches the lead; an exact one is the difference itself, in float32."""

    maker: str
    data: bytes  # paris-update/1; of an exact one nothing
    exact: Vector | None  # [n]
    steps: int
    number: int  # of the round whose base it started from
    at_step: int  # of its maker's own stream, where its steps began

    @property
    def size_bytes(self) -> int:
        return len(self.data) if self.exact is None else self.exact.nbytes


def update_bytes(plan: Plan, error: Vector, base: Vector, weights: Vector, number: int, step: float) -> bytes:
    """Returns the file of an update from `base` to `weights`, whose rest stays in `error`."""
    parts = plan.parts
    header = UpdateHeader(len(base), parts, number % parts)
    out = io.BytesIO()
    compress(error, base, weights, header, Precision(step, plan.feedback), out)
    return out.getvalue()


def told_weights(plan: Plan, base: Vector, weights: Vector, rng: np.random.Generator) -> Vector:
    """Returns the weights that a cheating peer says it came to, where an honest one says `weights`."""
    if plan.attack == "flip":
        return base + base - weights
    if plan.attack == "hundredfold":
        return base - np.float32(100) * (base - weights)
    if plan.attack == "noise":
        noise = rng.standard_normal(len(base), dtype=np.float32)
        noise *= np.float32(np.linalg.norm(base - weights) / np.linalg.norm(noise))
        return base + noise
    return weights


def forged(plan: Plan, honest: bytes, others: list[Sent]) -> bytes:
    """Returns the bytes that a cheating peer sends instead of its own file."""
    if plan.attack == "nan":
        return _without_a_number(honest)
    if plan.attack == "copy" and others:
        return others[0].data
    return honest


def _without_a_number(honest: bytes) -> bytes:
    """Returns a file whose every chunk's step is no number."""
    header, blocks = UpdateHeader.from_bytes(honest), []
    update = Update.from_bytes(honest, header.parameters)
    for first, last in chunk_slices(header.parameters):
        codes = update.read(first, last)[1]
        bad = ChunkCodes(np.full_like(codes.steps, np.nan), codes.levels)
        blocks.append(PackedChunks.of(bad).deflated() if len(codes.steps) else b"")
    return assembled(header, blocks)


def dense(data: bytes, parameters: int) -> Vector:
    """Returns the vector that a file says."""
    from paris_p2p.updates.outer_step import add_scaled

    vector = np.zeros(parameters, np.float32)
    add_scaled(vector, Update.from_bytes(data, parameters), 1.0)
    return vector
