"""The head of an update's file, from which the number of its blocks and their bounds follow.

48 bytes, little-endian: magic (16), n (u64), parts and part (u32 each), zeros (16). Format "paris-update/1".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from paris_p2p.errors import UpdateFormatError
from paris_p2p.updates.chunk_codes import STEP_BYTES
from paris_p2p.updates.layout import CHUNK_ENTRIES, SLICE_CHUNKS, chunk_count

_MAGIC = b"paris-update/1\0\0"
_HEAD = struct.Struct("<16sQII16s")
HEADER_BYTES = _HEAD.size  # 48
SIZE_BYTES = 4  # of each entry in the table of blocks
MAX_PARAMETERS = 1 << 40
MAX_PARTS = 64
MOST_BITS = 4  # of an entry in a file; an honest one has about one
_SPARE_BYTES = 64  # of a block: what deflate may add to a short one


@dataclass(frozen=True)
class UpdateHeader:
    """Says which chunks an update holds; UpdateFormatError where out of bounds.

    It holds every chunk whose number leaves `part` when divided by `parts`.
    """

    parameters: int
    parts: int = 1
    part: int = 0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("parameters", self.parameters, MAX_PARAMETERS),
            ("parts", self.parts, MAX_PARTS),
            ("part + 1", self.part + 1, self.parts),
        ):
            if not 1 <= value <= most:
                raise UpdateFormatError(
                    f"an update's header says {name} = {value}, allowed is 1 to {most}; refuse it"
                )

    @property
    def chunks(self) -> range:
        """Numbers the chunks that it holds."""
        return range(self.part, chunk_count(self.parameters), self.parts)

    @property
    def full_chunks(self) -> int:
        """Counts its chunks of 4,096 entries: all of them, or all but the last."""
        return len(range(self.part, self.parameters // CHUNK_ENTRIES, self.parts))

    @property
    def last_length(self) -> int:
        """Counts the entries of its last chunk where that is a shorter one, else 0."""
        short = self.parameters % CHUNK_ENTRIES
        return short if short and len(self.chunks) > self.full_chunks else 0

    @property
    def blocks(self) -> int:
        """Counts the blocks: one for every 64 full chunks of the network, and one for a shorter last one.

        A block may hold no chunk, and then has no bytes.
        """
        full, short = divmod(self.parameters, CHUNK_ENTRIES)
        return -(-full // SLICE_CHUNKS) + bool(short)

    @property
    def table_end(self) -> int:
        """Returns at which byte the first block begins."""
        return HEADER_BYTES + SIZE_BYTES * self.blocks

    def block(self, first: int) -> tuple[range, int]:
        """Returns (the numbers of its chunks, L) of the block of chunk `first`, a multiple of 64, or of the
        shorter last one.
        """
        full = self.parameters // CHUNK_ENTRIES
        start = first + (self.part - first) % self.parts
        if first < full:
            return range(start, min(first + SLICE_CHUNKS, full), self.parts), CHUNK_ENTRIES
        return range(start, first + 1, self.parts), self.parameters % CHUNK_ENTRIES

    @property
    def largest_bytes(self) -> int:
        """Returns how many bytes a whole file can have at most."""
        spare = self.blocks * _SPARE_BYTES + len(self.chunks) * STEP_BYTES
        entries = self.full_chunks * CHUNK_ENTRIES + self.last_length
        return self.table_end + spare + -(-entries * MOST_BITS // 8)

    def to_bytes(self) -> bytes:
        return _HEAD.pack(_MAGIC, self.parameters, self.parts, self.part, bytes(16))

    @classmethod
    def from_bytes(cls, data: bytes) -> UpdateHeader:
        """Parses the first 48 bytes of a file; UpdateFormatError."""
        if len(data) < HEADER_BYTES:
            raise UpdateFormatError(f"{len(data)} bytes are no update: its header alone has {HEADER_BYTES}")
        magic, parameters, parts, part, reserved = _HEAD.unpack_from(data)
        if magic != _MAGIC or any(reserved):
            raise UpdateFormatError(
                f"a file that begins with {magic!r} and has {reserved.hex()} reserved is no update; refuse it"
            )
        return cls(parameters, parts, part)


def assembled(header: UpdateHeader, blocks: Sequence[bytes]) -> bytes:
    """Returns the file of these blocks, of which those without a chunk are empty."""
    sizes = (len(block).to_bytes(SIZE_BYTES, "little") for block in blocks)
    return b"".join([header.to_bytes(), *sizes, *blocks])


def largest_block_bytes(chunks: int, length: int) -> int:
    """Returns how many bytes a block of so many chunks of `length` entries can have; 0 for no chunk."""
    return chunks * (STEP_BYTES + -(-length * MOST_BITS // 8)) + _SPARE_BYTES if chunks else 0
