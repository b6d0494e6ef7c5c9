"""The flattened vector of a slot's network: all parameters in the order of their names, cut into chunks.

Legend: n entries in all, chunks of 4,096 entries of which the last may be shorter (L entries).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import CheckpointError

CHUNK_ENTRIES = 4096  # numbers that share a step
SLICE_CHUNKS = 64  # worked on at once: 1 MiB of fp32
_KEPT_BYTES = 24 << 20

Vector = NDArray[np.float32]  # [n]
ChunkRows = NDArray[np.float32]  # [R, L], R equally long chunks


@dataclass(frozen=True)
class Layout:
    """Says which entries of the vector are which parameter's: C-contiguous, by rising name."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        return cls(tuple((name, tuple(shapes[name])) for name in sorted(shapes)))

    @property
    def parameters(self) -> int:
        """Counts the vector's entries, n."""
        return sum(prod(shape) for _, shape in self.shapes)

    def spans(self) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
        """Yields (name, shape, first entry, the entry after the last) of every parameter."""
        start = 0
        for name, shape in self.shapes:
            end = start + prod(shape)
            yield name, shape, start, end
            start = end

    def flatten(self, arrays: Mapping[str, NDArray[np.float32]], out: Vector | None = None) -> Vector:
        """Returns the vector of these arrays, in `out` where given; CheckpointError where one differs."""
        if out is None:
            out = np.empty(self.parameters, np.float32)
        self._check(set(arrays))
        for name, shape, start, end in self.spans():
            array = arrays[name]
            if array.shape != shape or array.dtype != np.float32:
                raise CheckpointError(
                    f"{name[:80]} is {array.dtype} {array.shape}, the network needs float32 {shape}"
                )
            out[start:end].reshape(shape)[...] = array
        return out

    def views(self, vector: Vector) -> dict[str, NDArray[np.float32]]:
        """Returns the parameters as they lie in `vector`: no copies, so that writing to one changes it."""
        if vector.shape != (self.parameters,):
            raise CheckpointError(f"a vector of {vector.shape} is no network of {self.parameters:,} numbers")
        return {name: vector[start:end].reshape(shape) for name, shape, start, end in self.spans()}

    def _check(self, names: set[str]) -> None:
        if names != (known := {name for name, _ in self.shapes}):
            odd = [name[:80] for name in sorted(names ^ known)[:3]]
            raise CheckpointError(
                f"{len(names)} arrays are given, the network has {len(known)}; they differ in {odd}"
            )


def chunk_count(parameters: int) -> int:
    """Returns how many chunks a vector of so many entries has, a short last one among them."""
    return -(-parameters // CHUNK_ENTRIES)


def chunk_slices(parameters: int, size: int = SLICE_CHUNKS) -> Iterator[tuple[int, int]]:
    """Yields (first chunk, the chunk after the last) of pieces whose chunks are all equally long."""
    full = parameters // CHUNK_ENTRIES
    for first in range(0, full, size):
        yield first, min(first + size, full)
    if parameters % CHUNK_ENTRIES:
        yield full, full + 1


def keep_freed_memory() -> None:
    """Makes slices take the memory of those before them, which is three times as fast.

    glibc gives freed memory back to the kernel, and has it cleared again, until it saw something larger come
    and go (M_TRIM_THRESHOLD in its manual); of this nothing is ever touched.
    """
    np.empty(_KEPT_BYTES, np.uint8)


def as_rows(vector: Vector, first: int, last: int) -> ChunkRows:
    """Returns the chunks from `first` to before `last`, equally long, as rows: a view [chunks, L]."""
    part = vector[first * CHUNK_ENTRIES : last * CHUNK_ENTRIES]
    return part.reshape(last - first, -1)
