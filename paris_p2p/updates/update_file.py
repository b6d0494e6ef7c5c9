"""Opens an update's file, "paris-update/1", without believing it: its size, then every chunk."""

from __future__ import annotations

from collections.abc import Iterator
from math import fsum, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paris_p2p.errors import UpdateFormatError
from paris_p2p.updates.chunk_codes import ChunkCodes, CodeBytes, decode_chunks
from paris_p2p.updates.layout import CHUNK_ENTRIES, SLICE_CHUNKS
from paris_p2p.updates.update_header import HEADER_BYTES, UpdateHeader


class Update:
    """Is a whole and canonical update Q, of which chunks are decoded as they are asked for.

    `square_norm`: the sum of the squares of its entries, the same number on every machine.
    """

    def __init__(self, data: CodeBytes, parameters: int):
        """Checks all of `data`, an update of a network of so many parameters; UpdateFormatError."""
        self.header = UpdateHeader.from_bytes(data[:HEADER_BYTES].tobytes())
        if self.header.parameters != parameters:
            raise UpdateFormatError(
                f"an update says {self.header.parameters:,} parameters, the slot's network has "
                f"{parameters:,}; refuse it"
            )
        if len(data) != self.header.size_bytes:
            raise UpdateFormatError(
                f"an update of {len(data):,} bytes should have {self.header.size_bytes:,}; refuse it"
            )
        codes, full = data[HEADER_BYTES:], self.header.full_chunks
        row_bytes = self.header.chunk_bytes(CHUNK_ENTRIES)
        end = full * row_bytes
        self._full = codes[:end].reshape(full, row_bytes)
        self._last = codes[end:].reshape(1, -1)  # of no bytes where no short chunk is in it
        self.square_norm = fsum(square for part in self._all() for square in part.squares().tolist())

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

        These must be equally long, as `chunk_slices` makes them.
        """
        header = self.header
        start, stop = (max(0, -(-(chunk - header.part) // header.parts)) for chunk in (first, last))
        numbers = np.arange(start, stop) * header.parts + header.part
        if stop <= header.full_chunks:
            return numbers, decode_chunks(header, self._full[start:stop], CHUNK_ENTRIES)
        return numbers, decode_chunks(header, self._last, header.last_length)

    def _all(self) -> Iterator[ChunkCodes]:
        header = self.header
        for start in range(0, header.full_chunks, SLICE_CHUNKS):
            yield decode_chunks(header, self._full[start : start + SLICE_CHUNKS], CHUNK_ENTRIES)
        if header.last_length:
            yield decode_chunks(header, self._last, header.last_length)


def parameters_of(path: Path) -> int:
    """Returns of how large a network an update's file says it is; UpdateFormatError."""
    with path.open("rb") as file:
        return UpdateHeader.from_bytes(file.read(HEADER_BYTES)).parameters
