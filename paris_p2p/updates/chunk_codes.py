"""How the chunks of an update become bytes and come back: magnitudes, Elias-Fano indices, signs, levels.

Legend: R chunks of L entries each, k entries kept of each. One content has one byte string:
a chunk's magnitudes are 0 < small <= large, with an entry of each level where they differ and only large ones
where they do not; a chunk of zeros has all its bits zero. Whatever else is read is an UpdateFormatError.
Elias-Fano (Elias 1974, Fano 1971): low bits as they are, high parts as a bitmap with a one for each entry at
its high part plus its rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UpdateFormatError
from paris_p2p.updates.layout import CHUNK_ENTRIES
from paris_p2p.updates.update_header import MAGNITUDE_BYTES, UpdateHeader

Bits = NDArray[np.bool_]
CodeBytes = NDArray[np.uint8]
LARGEST, SMALLEST = float(np.finfo(np.float16).max), 2.0**-24  # fp16; the second is subnormal
_INFINITE = 0x7C00  # the first fp16, as a number, that is not finite
# For every byte its 8 bits, lowest first, as masks of the sign and of all bits of a float32.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.uint32)
_SIGN_MASKS, _FULL_MASKS = _BITS << np.uint32(31), _BITS * np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class ChunkCodes:
    """Holds the kept entries of R equally long chunks; those of a chunk of zeros say nothing.

    `length` is L, `kept` k, `magnitudes` fp16 [R, 1 or 2] small before large, `indices` int64 [R, k] rising,
    None where all entries are kept; `signs` and `levels` are packed bits [R, k / 8]: 1 = negative, 1 = large;
    no levels where there is one magnitude.
    """

    length: int
    kept: int
    magnitudes: NDArray[np.float16]
    indices: NDArray[np.int64] | None
    signs: CodeBytes
    levels: CodeBytes | None

    @property
    def negative(self) -> Bits:
        """Unpacks the signs [R, k]."""
        return _bits(self.signs, self.kept)

    @property
    def large(self) -> Bits | None:
        """Unpacks the levels [R, k]."""
        return None if self.levels is None else _bits(self.levels, self.kept)

    def values(self, factors: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Returns the kept entries' values [R, k], each times its chunk's factor [R] where there are some."""
        scaled = self.magnitudes.astype(np.float32)  # [R, 1 or 2]
        if factors is not None:
            np.multiply(scaled, factors[:, None], out=scaled)
        bits = scaled.view(np.uint32)
        found = _masks(_SIGN_MASKS, self.signs)
        if self.levels is not None:
            # A choice between two numbers, bit by bit, which is faster than any other.
            other = _masks(_FULL_MASKS, self.levels)
            np.bitwise_and(other, bits[:, :1] ^ bits[:, 1:], out=other)
            np.bitwise_xor(found, other, out=found)
        np.bitwise_xor(found, bits[:, :1], out=found)
        return found.view(np.float32)[:, : self.kept]

    def squares(self) -> NDArray[np.float64]:
        """Returns each chunk's sum of squares [R], from its counts: the same on every machine."""
        each = np.square(self.magnitudes.astype(np.float64))  # exact: 22 bits
        if self.levels is None:
            return np.asarray(self.kept * each[:, 0], np.float64)
        many = _ones(self.levels)
        return np.asarray((self.kept - many) * each[:, 0] + many * each[:, 1], np.float64)


def encode_chunks(header: UpdateHeader, codes: ChunkCodes) -> CodeBytes:
    """Returns the bytes [R, chunk_bytes] of canonical codes."""
    sections: list[CodeBytes] = [np.ascontiguousarray(codes.magnitudes, "<f2").view(np.uint8)]
    if codes.indices is not None:
        sections += [pack_bits(bits) for bits in _elias_fano(codes.indices, header.low_bits)]
    sections.append(codes.signs)
    if codes.levels is not None:
        sections.append(codes.levels)
    encoded = np.concatenate(sections, axis=1)
    encoded[codes.magnitudes[:, -1] == 0, :] = 0
    return encoded


def decode_chunks(header: UpdateHeader, data: CodeBytes, length: int) -> ChunkCodes:
    """Returns the codes of chunks' bytes [R, chunk_bytes]; UpdateFormatError unless they are canonical."""
    split = MAGNITUDE_BYTES * header.magnitudes
    magnitudes = np.ascontiguousarray(data[:, :split]).view("<f2").astype(np.float16, copy=False)
    zero = magnitudes[:, -1] == 0
    _refuse_magnitudes(magnitudes)
    if data[zero].any():
        raise UpdateFormatError("an update's chunk of zeros has codes that are not zero; refuse it")
    sections, kept = [], header.kept_of(length)
    for bits in header.sections(length):
        end = split + -(-bits // 8)
        section, split = data[:, split:end], end
        if bits % 8 and (section[:, -1] >> (bits % 8)).any():
            raise UpdateFormatError("an update's padding is not zero; refuse it")
        sections.append(section)
    levels = sections.pop() if header.magnitudes == 2 else None
    signs = sections.pop()
    if levels is not None:
        _refuse_levels(magnitudes, _ones(levels), kept, zero)
    indices = None
    if not header.dense:
        low, high = (_bits(each, n) for each, n in zip(sections, header.sections(length), strict=False))
        indices = _indices(low.reshape(len(data), kept, header.low_bits), high, zero)
        _refuse_indices(indices[~zero], length)
    return ChunkCodes(length, kept, magnitudes, indices, signs, levels)


def pack_bits(bits: Bits) -> CodeBytes:
    """Returns the rows of bits [R, k] as bytes, each row from a new byte on, lowest bits first."""
    return np.packbits(bits, axis=1, bitorder="little")


def _elias_fano(indices: NDArray[np.int64], low_bits: int) -> tuple[Bits, Bits]:
    """Returns the low bits [R, k low_bits] and the bitmap of high parts [R, k + (4096 >> low_bits)]."""
    rows, kept = indices.shape
    low = (indices[:, :, None] >> np.arange(low_bits)) & 1
    high = np.zeros((rows, kept + (CHUNK_ENTRIES >> low_bits)), np.bool_)
    places = (indices >> low_bits) + np.arange(kept)
    np.put_along_axis(high, places, True, axis=1)
    return low.astype(np.bool_).reshape(rows, kept * low_bits), high


def _indices(low: Bits, high: Bits, zero: Bits) -> NDArray[np.int64]:
    """Returns what `_elias_fano` was given [R, k]; zeros for chunks of zeros."""
    rows, kept, low_bits = low.shape
    if (np.count_nonzero(high, axis=1) != np.where(zero, 0, kept)).any():
        raise UpdateFormatError(f"an update's chunk has not the {kept} indices that its header says")
    places = np.flatnonzero(high).reshape(-1, kept) % high.shape[1]  # [those not zero, k]
    found = ((places - np.arange(kept)) << low_bits).astype(np.uint16)
    for bit in range(low_bits):
        found |= low[~zero, :, bit].astype(np.uint16) << np.uint16(bit)
    indices = np.zeros((rows, kept), np.int64)
    indices[~zero] = found
    return indices


def _refuse_magnitudes(magnitudes: NDArray[np.float16]) -> None:
    numbers = magnitudes.view(np.uint16)  # finite positive halves are in the order of these
    first, last = numbers[:, 0], numbers[:, -1]
    wrong = (last >= _INFINITE) | (first > last) | ((first == 0) != (last == 0))
    if wrong.any():
        found = magnitudes[np.argmax(wrong)].tolist()
        raise UpdateFormatError(f"an update's magnitudes {found} are not 0 < small <= large; refuse it")


def _refuse_levels(magnitudes: NDArray[np.float16], many: NDArray[np.int64], kept: int, zero: Bits) -> None:
    same = magnitudes[:, 0] == magnitudes[:, 1]
    wrong = ~zero & np.where(same, many != kept, (many == 0) | (many == kept))
    if wrong.any():
        raise UpdateFormatError("an update's chunk has a magnitude that none of its entries has; refuse it")


def _refuse_indices(indices: NDArray[np.int64], length: int) -> None:
    if (indices[:, -1] >= length).any() or (indices[:, 1:] <= indices[:, :-1]).any():
        raise UpdateFormatError(f"an update's indices do not rise below {length} in a chunk; refuse it")


def _bits(packed: CodeBytes, count: int) -> Bits:
    """Returns the first `count` bits of each row [R, count]."""
    return np.unpackbits(packed, axis=1, count=count, bitorder="little").view(np.bool_)


def _masks(table: NDArray[np.uint32], packed: CodeBytes) -> NDArray[np.uint32]:
    """Returns a mask for each bit [R, 8 bytes]."""
    return table.take(packed, axis=0).reshape(len(packed), 8 * packed.shape[1])


def _ones(packed: CodeBytes) -> NDArray[np.int64]:
    """Returns how many bits of each row are set [R]."""
    counts: NDArray[np.int64] = np.bitwise_count(packed).sum(axis=1, dtype=np.int64)
    return counts
