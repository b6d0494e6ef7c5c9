"""Made-up vectors and updates for the tests of merging."""

from __future__ import annotations

import io

import numpy as np

from paris_p2p.updates.compression import compress
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.outer_step import Contribution, OuterState
from paris_p2p.updates.update_file import Update
from paris_p2p.updates.update_header import UpdateHeader

RUN = "ab" * 32


def made_vector(seed: int, parameters: int, scale: float = 1.0) -> Vector:
    return np.random.default_rng(seed).standard_normal(parameters, np.float32) * np.float32(scale)


def update_bytes(header: UpdateHeader, difference: Vector) -> bytes:
    """Returns the file of what is left of `difference` when it is compressed once."""
    nothing, out = np.zeros_like(difference), io.BytesIO()
    compress(np.zeros_like(difference), difference, nothing, header, 1.0, out)
    return out.getvalue()


def made_update(header: UpdateHeader, seed: int, scale: float = 1e-3) -> Update:
    n = header.parameters
    return Update.from_bytes(update_bytes(header, made_vector(seed, n, scale)), n)


def contribution(header: UpdateHeader, seed: int, weight: float = 240.0, scale: float = 1.0) -> Contribution:
    return Contribution(f"peer-{seed}", made_update(header, seed), weight, scale, steps=30, clips=240)


def made_state(parameters: int, seed: int = 100) -> OuterState:
    weights, momentum, average = (
        made_vector(seed + at, parameters, scale) for at, scale in enumerate((1.0, 1e-3, 1.0))
    )
    return OuterState(weights, momentum, average, steps=1000, clips=8000)


def dense_of(update: Update, parameters: int) -> Vector:
    """Returns Q as a plain vector, chunk by chunk, by another way than merging goes."""
    header, found = update.header, np.zeros(parameters, np.float32)
    for chunk in header.chunks:
        _, codes = update.read(chunk, chunk + 1)
        start = chunk * 4096
        kept = range(codes.length) if codes.indices is None else codes.indices[0].tolist()
        for place, value in zip(kept, codes.values()[0].tolist(), strict=True):
            if value:
                found[start + place] = value
    return found
