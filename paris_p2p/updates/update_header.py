"""The head of an update's file, from which its exact size follows: format "paris-update/1".

48 bytes, little-endian: magic (16), n (u64), kept, magnitudes, parts and part (u32 each), zero (u64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from paris_p2p.errors import UpdateFormatError
from paris_p2p.updates.layout import CHUNK_ENTRIES, chunk_count

_MAGIC = b"paris-update/1\0\0"
_HEAD = struct.Struct("<16sQIIIIQ")
HEADER_BYTES = _HEAD.size  # 48
MAX_PARAMETERS = 1 << 40
MAX_PARTS = 64
MAGNITUDE_BYTES = 2  # fp16


@dataclass(frozen=True)
class UpdateHeader:
    """Says which entries of which chunks an update holds, and how; UpdateFormatError where out of bounds.

    `kept`: entries of a full chunk, 4,096 for all of them. `magnitudes`: 1 or 2 of a chunk.
    It holds every chunk whose number leaves `part` when divided by `parts`.
    """

    parameters: int
    kept: int
    magnitudes: int = 2
    parts: int = 1
    part: int = 0

    def __post_init__(self) -> None:
        for name, value, most in (
            ("parameters", self.parameters, MAX_PARAMETERS),
            ("kept", self.kept, CHUNK_ENTRIES),
            ("magnitudes", self.magnitudes, 2),
            ("parts", self.parts, MAX_PARTS),
            ("part + 1", self.part + 1, self.parts),
        ):
            if not 1 <= value <= most:
                raise UpdateFormatError(
                    f"an update's header says {name} = {value}, allowed is 1 to {most}; refuse it"
                )

    @property
    def dense(self) -> bool:
        """Whether all entries are kept, so that no indices are written."""
        return self.kept == CHUNK_ENTRIES

    @property
    def low_bits(self) -> int:
        """Counts the bits of an index that Elias-Fano writes as they are: floor(log2(4096 / kept))."""
        return (CHUNK_ENTRIES // self.kept).bit_length() - 1

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

    def kept_of(self, length: int) -> int:
        """Returns how many entries of a chunk of `length` entries are kept."""
        return -(-self.kept * length // CHUNK_ENTRIES)

    def sections(self, length: int) -> tuple[int, ...]:
        """Returns the bits of each section of a chunk's codes, of which each begins with a new byte.

        Low bits and high bits of the indices (none where dense), signs, levels (where 2 magnitudes).
        """
        kept = self.kept_of(length)
        indices = () if self.dense else (kept * self.low_bits, kept + (CHUNK_ENTRIES >> self.low_bits))
        return (*indices, kept, *(() if self.magnitudes == 1 else (kept,)))

    def chunk_bytes(self, length: int) -> int:
        """Returns the bytes of a chunk of `length` entries: its magnitudes and its codes."""
        return MAGNITUDE_BYTES * self.magnitudes + sum(-(-bits // 8) for bits in self.sections(length))

    @property
    def size_bytes(self) -> int:
        """Counts the bytes of the whole file, exactly."""
        last = self.chunk_bytes(self.last_length) if self.last_length else 0
        return HEADER_BYTES + self.full_chunks * self.chunk_bytes(CHUNK_ENTRIES) + last

    def to_bytes(self) -> bytes:
        return _HEAD.pack(_MAGIC, self.parameters, self.kept, self.magnitudes, self.parts, self.part, 0)

    @classmethod
    def from_bytes(cls, data: bytes) -> UpdateHeader:
        """Parses the first 48 bytes of a file; UpdateFormatError."""
        if len(data) < HEADER_BYTES:
            raise UpdateFormatError(f"{len(data)} bytes are no update: its header alone has {HEADER_BYTES}")
        magic, parameters, kept, magnitudes, parts, part, reserved = _HEAD.unpack_from(data)
        if magic != _MAGIC or reserved:
            raise UpdateFormatError(
                f"a file that begins with {magic!r} and has {reserved:#x} reserved is no update; refuse it"
            )
        return cls(parameters, kept, magnitudes, parts, part)
