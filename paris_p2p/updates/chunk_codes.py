"""How chunks of an update become bytes and come back: a step each, 2 bits an entry, and the larger levels.

Legend: R chunks of L entries each, W = L / 4 bytes of codes a chunk, rounded up. An entry is its level q, a
whole number of -127 to 127, times its chunk's step. Its code is 0 for q = 0, 1 for 1, 3 for -1, and 2 for any
other, of which a byte beside says which. These bytes are deflated (RFC 1951) as a block: by Huffman codes
that comes within a hundredth of the levels' entropy. The bytes before have one form for one content; how
deflate says them may differ between versions of zlib, so nothing may depend on that.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UpdateFormatError

STEP_BYTES = 2  # fp16
MOST_LEVEL = 127
LARGEST, SMALLEST = float(np.finfo(np.float16).max), 2.0**-24  # fp16; the second is subnormal
_INFINITE = 0x7C00  # the first fp16, as a number, that is not finite
_LOW_BITS = 0x55  # the lower bit of each of a byte's four codes
_MOST_OTHER = 2 * (MOST_LEVEL - 2) + 1
_RAW, _MEMORY = -15, 9  # deflate without a header, and as few Huffman tables as it can
_MANY_ZEROS = 0.6  # of the bytes of codes, from which on runs of them are worth saying
# For every byte of codes its four levels, as they lie in memory; 2 stands for another level, filled in after.
_FOURS = np.array([[(0, 1, 2, -1)[byte >> 2 * at & 3] for at in range(4)] for byte in range(256)], np.int8)
_FOURS_AT_ONCE = _FOURS.view(np.uint32)[:, 0].copy()
# For every byte beside the codes its level.
_OTHERS = np.array([(2 + (byte >> 1)) * (1 - 2 * (byte & 1)) for byte in range(_MOST_OTHER + 1)], np.int8)


@dataclass(frozen=True)
class ChunkCodes:
    """Holds R equally long chunks as steps [R] and levels [R, L]; a chunk of zeros has the step zero."""

    steps: NDArray[np.float16]
    levels: NDArray[np.int8]

    def values(self, factors: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Returns the entries [R, L], each times its chunk's factor [R] where there are some.

        A step times a factor is rounded once, and that times a level again; without factors all is exact.
        """
        scaled = self.steps.astype(np.float32)
        if factors is not None:
            np.multiply(scaled, factors, out=scaled)
        found = self.levels.astype(np.float32)
        return np.multiply(found, scaled[:, None], out=found)


@dataclass(frozen=True)
class PackedChunks:
    """Holds R equally long chunks as a file says them: steps [R], codes [R, W], a byte for each code 2."""

    length: int
    steps: NDArray[np.float16]
    codes: NDArray[np.uint8]
    others: NDArray[np.uint8]

    @classmethod
    def of(cls, chunks: ChunkCodes) -> PackedChunks:
        """Packs chunks whose levels are all zero where their step is, and only there."""
        rows, length = chunks.levels.shape
        levels = np.pad(chunks.levels, ((0, 0), (0, -length % 4))) if length % 4 else chunks.levels
        other = np.flatnonzero((levels + np.int8(1)).view(np.uint8) > 2)  # neither -1, 0 nor 1
        large = levels.ravel()[other]
        codes = levels.view(np.uint8) & np.uint8(3)
        codes.ravel()[other] = 2
        fours = codes.view("<u4")
        fours = fours | fours >> np.uint32(6) | fours >> np.uint32(12) | fours >> np.uint32(18)
        others = (np.abs(large) - 2).view(np.uint8) << np.uint8(1) | (large < 0)
        return cls(length, chunks.steps, fours.astype(np.uint8).reshape(rows, -1), others.astype(np.uint8))

    def unpack(self) -> ChunkCodes:
        """Returns what was packed."""
        levels = _FOURS_AT_ONCE.take(self.codes).view(np.int8)
        if len(self.others):
            levels.ravel()[np.flatnonzero(levels == 2)] = _OTHERS.take(self.others)
        return ChunkCodes(self.steps, levels[:, : self.length])

    def squares(self) -> NDArray[np.float64]:
        """Returns each chunk's sum of squares [R]: of whole numbers times a square of 22 bits, so exact."""
        ends, each = np.cumsum(_others_of(self.codes)), np.square(_OTHERS.take(self.others), dtype=np.int64)
        large = np.diff(np.concatenate([[0], np.cumsum(each)])[np.concatenate([[0], ends])])
        whole = np.bitwise_count(self.codes & np.uint8(_LOW_BITS)).sum(axis=1, dtype=np.int64) + large
        return np.asarray(whole * np.square(self.steps.astype(np.float64)), np.float64)

    def deflated(self) -> bytes:
        """Returns the block's bytes."""
        runs = np.count_nonzero(self.codes) < (1 - _MANY_ZEROS) * self.codes.size
        strategy = zlib.Z_RLE if runs else zlib.Z_HUFFMAN_ONLY
        packer = zlib.compressobj(6, zlib.DEFLATED, _RAW, _MEMORY, strategy)
        parts = [packer.compress(self.steps.astype("<f2").tobytes() + self.codes.tobytes())]
        if len(self.others):
            parts.append(packer.flush(zlib.Z_SYNC_FLUSH))  # so that the others get codes of their own
            parts.append(packer.compress(self.others.tobytes()))
        return b"".join([*parts, packer.flush()])


def inflated(data: NDArray[np.uint8], rows: int, length: int) -> PackedChunks:
    """Returns the R = `rows` chunks that a block's bytes say; UpdateFormatError for all that no peer writes.

    However much the bytes would say, no more is ever made of them than R chunks can need.
    """
    width = -(-length // 4)
    least, most = rows * (STEP_BYTES + width), rows * (STEP_BYTES + width + length)
    unpacker = zlib.decompressobj(_RAW)
    try:
        content = unpacker.decompress(data.data, most + 1)
    except zlib.error as error:
        raise UpdateFormatError(f"an update's block cannot be inflated ({error}); refuse it") from error
    if not (unpacker.eof and least <= len(content) <= most) or unpacker.unused_data:
        raise UpdateFormatError(
            f"an update's block of {len(data):,} bytes says {len(content):,} and "
            f"{'ends' if unpacker.eof else 'does not end'} there, with {len(unpacker.unused_data):,} after "
            f"its end; {rows} chunks of {length:,} take {least:,} to {most:,} and nothing after; refuse it"
        )
    steps = np.frombuffer(content, "<f2", rows).astype(np.float16, copy=False)
    codes = np.frombuffer(content, np.uint8, rows * width, rows * STEP_BYTES).reshape(rows, width)
    packed = PackedChunks(length, steps, codes, np.frombuffer(content, np.uint8, offset=least))
    _refuse(packed)
    return packed


def _refuse(packed: PackedChunks) -> None:
    """Raises UpdateFormatError unless this is what packing gives."""
    steps, codes, others = packed.steps.view(np.uint16), packed.codes, packed.others
    if (wrong := steps >= _INFINITE).any():
        step = float(packed.steps[np.argmax(wrong)])
        raise UpdateFormatError(f"an update's step {step} is not a finite number from 0 on; refuse it")
    if ((steps != 0) != codes.any(axis=1)).any():
        raise UpdateFormatError("an update's chunk has a step and says nothing, or none and does; refuse it")
    if packed.length % 4 and (codes[:, -1] >> 2 * (packed.length % 4)).any():
        raise UpdateFormatError("an update's padding is not zero; refuse it")
    if (found := int(_others_of(codes).sum())) != len(others):
        raise UpdateFormatError(
            f"an update has {len(others)} levels beside {found} codes for them; refuse it"
        )
    if len(others) and (most := int(others.max())) > _MOST_OTHER:
        raise UpdateFormatError(f"an update's level {2 + (most >> 1)} is over {MOST_LEVEL}; refuse it")


def _others_of(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns how many codes of each chunk [R] are 2."""
    twos = codes >> np.uint8(1) & ~codes & np.uint8(_LOW_BITS)
    return np.asarray(np.bitwise_count(twos).sum(axis=1, dtype=np.int64), np.int64)
