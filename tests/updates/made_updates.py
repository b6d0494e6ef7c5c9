"""Made-up vectors and updates for the tests of merging."""

from __future__ import annotations

import io

import numpy as np

from paris_p2p.updates.chunk_codes import PackedChunks
from paris_p2p.updates.compression import Precision, compress
from paris_p2p.updates.layout import Vector, chunk_slices
from paris_p2p.updates.outer_step import Contribution, OuterState
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader

RUN = "ab" * 32


def made_vector(seed: int, parameters: int, scale: float = 1.0) -> Vector:
    return np.random.default_rng(seed).standard_normal(parameters, np.float32) * np.float32(scale)


def update_bytes(header: UpdateHeader, difference: Vector, step: float = 2.0) -> bytes:
    """Returns the file of what is left of `difference` when it is compressed once."""
    nothing, out = np.zeros_like(difference), io.BytesIO()
    compress(np.zeros_like(difference), difference, nothing, header, Precision(step, 1.0), out)
    return out.getvalue()


def made_update(header: UpdateHeader, seed: int, step: float = 2.0) -> Update:
    n = header.parameters
    return Update.from_bytes(update_bytes(header, made_vector(seed, n, 1e-3), step), n)


def contribution(
    header: UpdateHeader, seed: int, weight: float = 240.0, scale: float = 1.0, step: float = 2.0
) -> Contribution:
    return Contribution(f"peer-{seed}", made_update(header, seed, step), weight, scale, steps=30, clips=240)


def made_state(parameters: int, seed: int = 100) -> OuterState:
    weights, momentum, average = (
        made_vector(seed + at, parameters, scale) for at, scale in enumerate((1.0, 1e-3, 1.0))
    )
    return OuterState(weights, momentum, average, steps=1000, clips=8000)


def levels_of(update: Update, parameters: int) -> tuple[Vector, Vector]:
    """Returns each entry's step and level, chunk by chunk, by another way than merging goes."""
    steps, levels = np.zeros(parameters, np.float32), np.zeros(parameters, np.float32)
    for chunk in update.header.chunks:
        _, codes = update.read(chunk, chunk + 1)
        place = slice(4096 * chunk, 4096 * chunk + codes.levels.shape[1])
        steps[place], levels[place] = codes.steps[0], codes.levels[0]
    return steps, levels


def dense_of(update: Update, parameters: int) -> Vector:
    """Returns Q as a plain vector."""
    steps, levels = levels_of(update, parameters)
    return steps * levels


def blocks_of(update: Update) -> list[PackedChunks | None]:
    """Returns the contents of an update's blocks; None for one without chunks."""
    read = (update.read(first, last)[1] for first, last in chunk_slices(update.header.parameters))
    return [PackedChunks.of(codes) if len(codes.steps) else None for codes in read]


def content_of(update: Update) -> bytes:
    """Returns all that an update's file says, whatever deflate made of it."""
    said = [update.header.to_bytes()]
    for block in blocks_of(update):
        if block is not None:
            said += [block.steps.astype("<f2").tobytes(), block.codes.tobytes(), block.others.tobytes()]
    return b"".join(said)
