"""Opens an update's file and reads its chunks; nothing in it is believed before it was checked.

After the header comes a table with the bytes of each block (u32, little-endian), then the blocks. A block
holds those of 64 full chunks in a row that are there, the last one those of a shorter last chunk.
"""

from __future__ import annotations

from math import fsum, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UpdateFormatError
from paris_p2p.updates.chunk_codes import ChunkCodes, PackedChunks, inflated
from paris_p2p.updates.layout import CHUNK_ENTRIES, SLICE_CHUNKS, chunk_slices
from paris_p2p.updates.update_header import HEADER_BYTES, UpdateHeader, largest_block_bytes

FileBytes = NDArray[np.uint8]


class Update:
    """Is a whole and well-formed update Q, of which chunks are decoded as they are asked for.

    `square_norm`: the sum of the squares of its entries, the same number on every machine.
    """

    def __init__(self, data: FileBytes, parameters: int):
        """Checks all of `data`, an update of a network of so many parameters; UpdateFormatError."""
        self.header = UpdateHeader.from_bytes(data[:HEADER_BYTES].tobytes())
        if self.header.parameters != parameters:
            raise UpdateFormatError(
                f"an update says {self.header.parameters:,} parameters, the slot's network has "
                f"{parameters:,}; refuse it"
            )
        self._data, self._ends = data, _block_ends(data, self.header)
        blocks = (self._block(first) for first, _ in chunk_slices(parameters))
        self.square_norm = fsum(square for block in blocks if block for square in block.squares().tolist())

    @classmethod
    def open(cls, path: Path, parameters: int) -> Update:
        """Maps a file, which must not change while this is used; UpdateFormatError."""
        size_bytes = path.stat().st_size
        if size_bytes < HEADER_BYTES:
            raise UpdateFormatError(f"{path.name} has {size_bytes} bytes, an update at least {HEADER_BYTES}")
        return cls(np.memmap(path, np.uint8, "r"), parameters)

    @classmethod
    def from_bytes(cls, data: bytes, parameters: int) -> Update:
        return cls(np.frombuffer(data, np.uint8), parameters)

    @property
    def norm(self) -> float:
        """Measures the vector Q, as its Euclidean length."""
        return sqrt(self.square_norm)

    def read(self, first: int, last: int) -> tuple[NDArray[np.int64], ChunkCodes]:
        """Returns (numbers of its chunks [R], their codes) from chunk `first` to before `last`.

        These must be equally long and of one block, as `chunk_slices` makes them.
        """
        start = first // SLICE_CHUNKS * SLICE_CHUNKS if self._is_full(first) else first
        chunks, length = self.header.block(start)
        if last > start + SLICE_CHUNKS or self._is_full(first) != self._is_full(last - 1):
            raise ValueError(f"chunks {first} to {last} are of more than one block")
        packed = self._block(start)
        if packed is None:
            return np.zeros(0, np.int64), ChunkCodes(np.zeros(0, np.float16), np.zeros((0, length), np.int8))
        numbers, codes = np.asarray(chunks), packed.unpack()
        if first == start and last > chunks[-1]:
            return numbers, codes
        chosen = (first <= numbers) & (numbers < last)
        return numbers[chosen], ChunkCodes(codes.steps[chosen], codes.levels[chosen])

    def _is_full(self, chunk: int) -> bool:
        return chunk < self.header.parameters // CHUNK_ENTRIES

    def _block(self, first: int) -> PackedChunks | None:
        """Returns the block of chunk `first`, with which one begins; None where no chunk of it is here."""
        chunks, length = self.header.block(first)
        place = -(-first // SLICE_CHUNKS)  # of the shorter last one, too
        start, end = self._ends[place : place + 2].tolist()
        return inflated(self._data[start:end], len(chunks), length) if len(chunks) else None


def parameters_of(path: Path) -> int:
    """Returns of how large a network an update's file says it is; UpdateFormatError."""
    with path.open("rb") as file:
        return UpdateHeader.from_bytes(file.read(HEADER_BYTES)).parameters


def _block_ends(data: FileBytes, header: UpdateHeader) -> NDArray[np.int64]:
    """Returns where the blocks begin and where the last one ends [blocks + 1]; UpdateFormatError."""
    if not header.table_end <= len(data) <= header.largest_bytes:
        raise UpdateFormatError(
            f"an update of {len(data):,} bytes should have {header.table_end:,} to {header.largest_bytes:,}; "
            "refuse it"
        )
    sizes = data[HEADER_BYTES : header.table_end].view("<u4").astype(np.int64)
    for place, (first, _) in enumerate(chunk_slices(header.parameters)):
        chunks, length = header.block(first)
        most, size = largest_block_bytes(len(chunks), length), int(sizes[place])
        if not bool(len(chunks)) <= size <= most:
            raise UpdateFormatError(
                f"an update's block {place} of {len(chunks)} chunks has {size:,} bytes, at most {most:,}; "
                "refuse it"
            )
    ends = np.concatenate([[header.table_end], header.table_end + np.cumsum(sizes)])
    if ends[-1] != len(data):
        raise UpdateFormatError(
            f"an update's blocks end at byte {int(ends[-1]):,} of {len(data):,}; refuse it"
        )
    return np.asarray(ends, np.int64)
