"""Makes an update of what training changed: the largest entries of each chunk, and a memory of the rest.

With error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847) what is not sent is not
lost. Sign and one of two magnitudes a chunk, and the k largest of each chunk, as in SparseLoCo (Sarfi et al.
2025, arXiv 2508.15706), whose levels are other ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum, sqrt
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import DivergedError
from paris_p2p.updates.chunk_codes import LARGEST, SMALLEST, Bits, ChunkCodes, encode_chunks, pack_bits
from paris_p2p.updates.layout import CHUNK_ENTRIES, SLICE_CHUNKS, ChunkRows, Vector, keep_freed_memory
from paris_p2p.updates.update_header import UpdateHeader


@dataclass(frozen=True)
class Compressed:
    """Says how long the vector was that is now in the file, and what is left in the memory.

    Both as Euclidean norms; `left` over the chunks of this update alone.
    """

    norm: float
    left: float


def compress(
    error: Vector, base: Vector, weights: Vector, header: UpdateHeader, feedback: float, out: BinaryIO
) -> Compressed:
    """Writes the update from `base` to `weights` and keeps in `error`, in place, what it does not say.

    On the header's chunks e <- feedback e + (base - weights), Q = the largest of e, quantised, e <- e - Q;
    elsewhere e stays as it is. DivergedError where something is not finite: then `error` is of no more use.
    """
    for vector in (error, base, weights):
        if vector.shape != (header.parameters,) or vector.dtype != np.float32:
            raise ValueError(f"{vector.dtype} {vector.shape} is no vector of {header.parameters} float32")
    keep_freed_memory()
    out.write(header.to_bytes())
    sent, left = [], []
    for kept, before, after in zip(*(_present(each, header) for each in (error, base, weights)), strict=True):
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
            rows = np.subtract(before, after)
            np.add(rows, np.multiply(kept, np.float32(feedback)), out=rows)
            codes, remains = quantise(header, rows)
        kept[...] = remains
        out.write(encode_chunks(header, codes).data)
        sent += codes.squares().tolist()
        left.append(float(np.einsum("ij,ij->i", remains, remains).sum(dtype=np.float64)))
    return Compressed(sqrt(fsum(sent)), sqrt(fsum(left)))


def quantise(header: UpdateHeader, rows: ChunkRows) -> tuple[ChunkCodes, ChunkRows]:
    """Returns the codes of chunks [R, L] and what they leave of them, for which `rows` is used up."""
    length = rows.shape[1]
    absolute = np.abs(rows)
    if not np.isfinite(absolute.max()):
        raise DivergedError(
            "what an update should hold is not finite; training goes back to the last checkpoint; "
            "if this happens again, the run's learning rate is too high"
        )
    if header.dense:
        codes = _codes(length, header.magnitudes, None, rows, absolute)
        rows -= codes.values()
        return codes, rows
    flat = np.flatnonzero(_largest(absolute, kept := header.kept_of(length))).reshape(-1, kept)
    indices = flat - np.arange(len(rows))[:, None] * length
    values = rows.ravel()[flat]
    codes = _codes(length, header.magnitudes, indices, values, np.abs(values))
    rows.ravel()[flat] = values - codes.values()
    return codes, rows


def _present(vector: Vector, header: UpdateHeader) -> Iterator[ChunkRows]:
    """Yields the header's chunks as views [R, L], a slice at a time."""
    full = vector[: vector.size // CHUNK_ENTRIES * CHUNK_ENTRIES].reshape(-1, CHUNK_ENTRIES)
    chosen = full[header.part :: header.parts]
    for start in range(0, len(chosen), SLICE_CHUNKS):
        yield chosen[start : start + SLICE_CHUNKS]
    if header.last_length:
        yield vector[-header.last_length :].reshape(1, -1)


def _largest(absolute: ChunkRows, kept: int) -> Bits:
    """Returns where the `kept` largest of each row are; of equal ones those with the lower index."""
    place = absolute.shape[1] - kept
    least = np.partition(absolute, place, axis=1)[:, place, None]
    chosen = absolute >= least
    many = np.flatnonzero(np.count_nonzero(chosen, axis=1) != kept)
    if len(many):
        above, equal = absolute[many] > least[many], absolute[many] == least[many]
        room = kept - np.count_nonzero(above, axis=1)
        chosen[many] = above | (equal & (np.cumsum(equal, axis=1) <= room[:, None]))
    return chosen


def _codes(
    length: int, magnitudes: int, indices: NDArray[np.int64] | None, values: ChunkRows, absolute: ChunkRows
) -> ChunkCodes:
    """Returns canonical codes of these entries [R, k] by the mean magnitude of each level."""
    kept = values.shape[1]
    total, most = absolute.sum(axis=1), absolute.max(axis=1)
    mean, signs = np.minimum(total / kept, most)[:, None], pack_bits(values < 0)
    if magnitudes == 1:
        return ChunkCodes(length, kept, _halves(mean), indices, signs, None)
    large = absolute >= mean
    many = np.count_nonzero(large, axis=1)
    np.maximum(absolute, mean, out=absolute)  # whose sum is that of the large ones and of as many means
    above = absolute.sum(axis=1, dtype=np.float64) - mean[:, 0].astype(np.float64) * (kept - many)
    small = np.maximum(total - above, 0) / np.maximum(kept - many, 1)
    halves = _halves(np.stack([small, np.clip(above / many, mean[:, 0], most)], axis=1))
    np.copyto(halves, halves[:, 1:], where=(many == kept)[:, None])
    large |= halves[:, :1] == halves[:, 1:]
    return ChunkCodes(length, kept, halves, indices, signs, pack_bits(large))


def _halves(means: NDArray[np.floating]) -> NDArray[np.float16]:
    """Returns magnitudes [R, 1 or 2] as fp16: none infinite, and zero only for a chunk of zeros."""
    halves: NDArray[np.float16] = np.clip(means, SMALLEST, LARGEST).astype(np.float16)
    halves[means[:, -1] == 0] = 0
    return halves
