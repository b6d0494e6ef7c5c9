"""Draws the randomness of a lineage as a function of (run, slot, clip counter).

It is raw Philox4x64-10 output (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), turned
into normals and orders here, so that no library's sampling algorithm is part of a lineage. The key is
BLAKE3(run, slot); the counter's words are (block, clip counter, purpose, 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

NOISE, SCALARS, ORDER = 0, 1, 2  # purposes: the third counter word
UNIFORMS = 4  # per clip; the training loop says what each is for


@dataclass(frozen=True)
class Draws:
    """Generates the randomness of one (run, slot)."""

    key: int  # 128 bits

    @classmethod
    def of(cls, run: str, slot: str) -> Draws:
        """Derives the key from (run, slot)."""
        digest = blake3(f"paris-p2p/1 draws\0{run}\0{slot}".encode()).digest()
        return cls(int.from_bytes(digest[:16], "little"))

    def noise(self, clip: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Returns standard normal noise for one clip, by the method of Box and Muller (1958)."""
        count = int(np.prod(shape))
        raw = self._raw(NOISE, clip, (count + 1) // 2).view(np.uint32)
        half = (count + 1) // 2
        radius = np.sqrt(np.float32(-2) * np.log(_unit32(raw[:half])))
        angle = np.float32(2 * np.pi) * _unit32(raw[half:])
        pairs = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return np.asarray(pairs[:count].reshape(shape), dtype=np.float32)

    def scalars(self, clip: int) -> tuple[float, NDArray[np.float64]]:
        """Returns (a standard normal for the time, UNIFORMS numbers in (0, 1) for dropout) for one clip."""
        unit = _unit64(self._raw(SCALARS, clip, 2 + UNIFORMS))
        return float(np.sqrt(-2 * np.log(unit[0])) * np.cos(2 * np.pi * unit[1])), unit[2:]

    def order(self, number: int, clips: int) -> NDArray[np.int64]:
        """Returns the order of pass `number` through `clips` clips: a permutation."""
        return np.argsort(self._raw(ORDER, number, clips), kind="stable")

    def _raw(self, purpose: int, counter: int, count: int) -> NDArray[np.uint64]:
        philox = np.random.Philox(key=self.key, counter=(purpose << 128) | (counter << 64))
        return np.asarray(philox.random_raw(count), dtype=np.uint64)


def _unit32(raw: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Maps 23 bits exactly into (0, 1): never to 0, whose logarithm is infinite, and never to 1."""
    return ((raw >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def _unit64(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    return np.asarray(((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52, dtype=np.float64)
