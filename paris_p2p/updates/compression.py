"""Makes an update of what training changed, in whole steps of each chunk's own, and a memory of the rest.

With error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847) what is not sent is not
lost. A uniform quantiser with a dead zone around zero, entropy-coded, is within a small part of a bit of what
any scalar quantiser can do at a low rate (Sullivan 1996, IEEE Transactions on Information Theory 42(5)).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, sqrt
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import DivergedError
from paris_p2p.updates.chunk_codes import LARGEST, MOST_LEVEL, SMALLEST, ChunkCodes, PackedChunks
from paris_p2p.updates.layout import ChunkRows, Vector, as_rows, chunk_slices, keep_freed_memory
from paris_p2p.updates.update_header import UpdateHeader, largest_block_bytes

_ROUND_UP = np.float32(0.4)  # so what is under 0.6 of a step is zero


@dataclass(frozen=True)
class Precision:
    """Says how much an update says: `step` in root mean squares of a chunk, and how much of what it leaves
    the next one takes up (`feedback`, 0 to 1).
    """

    step: float
    feedback: float


@dataclass(frozen=True)
class Compressed:
    """Says how long the vector was that is now in the file, and what is left in the memory.

    Both as Euclidean norms; `left` over the chunks of this update alone.
    """

    norm: float
    left: float


def compress(
    error: Vector, base: Vector, weights: Vector, header: UpdateHeader, precision: Precision, out: BinaryIO
) -> Compressed:
    """Writes the update from `base` to `weights` and keeps in `error`, in place, what it does not say.

    On the header's chunks e <- feedback e + (base - weights), Q = e quantised, e <- e - Q; elsewhere e stays
    as it is. `out` must be able to seek. DivergedError where something is not finite: then `error` is of no
    more use.
    """
    for vector in (error, base, weights):
        if vector.shape != (header.parameters,) or vector.dtype != np.float32:
            raise ValueError(f"{vector.dtype} {vector.shape} is no vector of {header.parameters} float32")
    keep_freed_memory()
    beginning = out.tell()
    out.write(header.to_bytes() + bytes(header.table_end - len(header.to_bytes())))
    sizes, sent, left = [], [], []
    for first, last in chunk_slices(header.parameters):
        chosen = slice((header.part - first) % header.parts, None, header.parts)
        kept, before, after = (as_rows(each, first, last)[chosen] for each in (error, base, weights))
        block = b""
        if len(kept):
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by name
                rows = np.subtract(before, after)
                np.add(rows, np.multiply(kept, np.float32(precision.feedback)), out=rows)
            codes, block, squares = _block_of(rows, precision.step)
            kept[...] = np.subtract(rows, codes.values(), out=rows)
            sent += squares.tolist()
            left.append(float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64)))
        out.write(block)
        sizes.append(len(block))
    end = out.tell()
    out.seek(beginning + len(header.to_bytes()))
    out.write(np.array(sizes, "<u4").tobytes())
    out.seek(end)
    return Compressed(sqrt(fsum(sent)), sqrt(fsum(left)))


def steps_of(rows: ChunkRows, step: float) -> NDArray[np.float16]:
    """Returns the steps [R] of chunks [R, L]: so many root mean squares, as fp16, above zero and finite.

    None is longer than its chunk's longest entry, so that one whose entries are all alike, as after Adam's
    first steps, says them, too: all others round to zero where a step is two root mean squares.
    """
    with np.errstate(over="ignore"):  # squares that no float32 holds are of chunks whose step is the largest
        squares = np.einsum("ij,ij->i", rows, rows)
    wanted = step * np.sqrt(squares.astype(np.float64) / rows.shape[1])
    np.minimum(wanted, np.maximum(rows.max(axis=1), -rows.min(axis=1)), out=wanted)
    return np.asarray(np.clip(wanted, SMALLEST, LARGEST), np.float16)


def quantise(rows: ChunkRows, steps: NDArray[np.float16]) -> ChunkCodes:
    """Returns chunks [R, L] in whole steps [R]: q = sign(e) min(127, floor(|e| / step + 0.4)).

    A step that is infinite, or that no entry reaches, makes a chunk of zeros. DivergedError.
    """
    found = np.abs(rows)
    if not np.isfinite(found.max()):
        raise DivergedError(
            "what an update should hold is not finite; training goes back to the last checkpoint; "
            "if this happens again, the run's learning rate is too high"
        )
    np.divide(found, steps.astype(np.float32)[:, None], out=found)
    np.add(found, _ROUND_UP, out=found)
    np.minimum(found, np.float32(MOST_LEVEL), out=found)
    levels = found.astype(np.int8)  # towards zero, which for these is the floor
    negative = np.negative((rows < 0).view(np.int8))  # -1 where it is, of which two's complement makes
    np.subtract(np.bitwise_xor(levels, negative, out=levels), negative, out=levels)  # the number's negative
    return ChunkCodes(np.where(levels.any(axis=1), steps, np.float16(0)), levels)


def _block_of(rows: ChunkRows, step: float) -> tuple[ChunkCodes, bytes, NDArray[np.float64]]:
    """Returns (the codes of a block's chunks [R, L], its bytes, each chunk's sum of squares).

    Steps are doubled until the block is no larger than any may be, which none but made-up numbers need.
    """
    steps, most = steps_of(rows, step), largest_block_bytes(*rows.shape)
    while True:
        codes = quantise(rows, steps)
        packed = PackedChunks.of(codes)
        if len(block := packed.deflated()) <= most:
            return codes, block, packed.squares()
        with np.errstate(over="ignore"):  # an infinite step says nothing of its chunk
            steps = steps * np.float16(2)
