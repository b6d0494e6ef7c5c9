"""A file that proves who made what of a run, by signed records alone: `paris-run receipts --out`.

    16 bytes   "paris-receipts/1"
    the rest   a ReceiptFile as msgpack, compressed with zlib

It holds the signed RunSpec, the owner's notices, certificates, and each slot's tips and rounds as they were
signed, so that its reader needs neither the network nor anybody's word. Those of a private run are sealed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field

from paris_p2p.disk import write_atomic
from paris_p2p.envelope import encode, parse
from paris_p2p.errors import RecordError, UsageError
from paris_p2p.history_records import MAX_TOLD_ROUND_BYTES, ToldTip
from paris_p2p.packed import Bounds, unpack
from paris_p2p.records import Record, Slot

_MAGIC = b"paris-receipts/1"
MAX_FILE_BYTES = 256 << 20
_MAX_PLAIN_BYTES = 256 << 20  # more than all tips and rounds that a node keeps
# Signatures, keys and hashes do not compress: of signed records, zlib leaves a quarter. A RunSpec's words do.
_MOST_COMPRESSED = 8
_SPEC_BYTES = 8 << 20
_LEAST_ITEM_BYTES = 32  # on average: the smallest signed record has four times as many
_PIECE_BYTES = 1 << 20
_Signed = Annotated[bytes, Field(min_length=1, max_length=2048)]


class ProvenSlot(Record):
    """Is a slot's part of the file."""

    slot: Slot
    tips: tuple[ToldTip, ...]
    rounds: tuple[Annotated[bytes, Field(max_length=MAX_TOLD_ROUND_BYTES)], ...] = ()


class ReceiptFile(Record):
    """Is what the file holds; nothing in it is verified yet."""

    run: Annotated[bytes, Field(max_length=5 << 20)]  # the signed RunSpec
    # of a private run: RunSpec and certificates are sealed as well, under the run's newest key
    sealed: bool = False
    notices: tuple[_Signed, ...] = ()
    certificates: tuple[_Signed, ...] = ()
    slots: Annotated[tuple[ProvenSlot, ...], Field(max_length=1024)] = ()


def write_receipts(path: Path, proof: ReceiptFile) -> None:
    """Writes the file, whole or not at all; UsageError where there is more than a reader takes."""
    plain = encode(proof.model_dump())
    packed = zlib.compress(plain, 6)
    if len(plain) > _most_plain_bytes(len(packed)):
        packed = zlib.compress(plain, 0)
    if max(len(plain), len(packed)) > min(_MAX_PLAIN_BYTES, MAX_FILE_BYTES - len(_MAGIC)):
        raise UsageError(
            f"the receipts have {len(plain) >> 20} MiB, and no file of them may have more than "
            f"{_MAX_PLAIN_BYTES >> 20} MiB; read them without --out"
        )
    write_atomic(path, _MAGIC + packed)


def read_receipts(path: Path) -> ReceiptFile:
    """Returns what a file holds; UsageError for what is none of these files, or damaged.

    Its size is looked at first, then whether all of it is there, with its checksum, piece by piece; only then
    it is unpacked. So a file makes at most _MOST_COMPRESSED times its own size of memory, and some.
    """
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > MAX_FILE_BYTES:
            raise UsageError(f"{path} has more than {MAX_FILE_BYTES >> 20} MiB, so it is no file of receipts")
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UsageError(f"{path} is no file of `paris-run receipts --out`")
        try:
            most_bytes = _most_plain_bytes(size_bytes)
            plain_bytes = sum(len(piece) for piece in _pieces(file, most_bytes))
            file.seek(len(_MAGIC))
            plain = b"".join(_pieces(file, most_bytes))
            raw = unpack(plain, Bounds(items=(1 << 14) + plain_bytes // _LEAST_ITEM_BYTES))
            if not isinstance(raw, dict):
                raise RecordError("it holds no receipts")
            return parse(ReceiptFile, raw)
        except (zlib.error, RecordError) as error:
            raise UsageError(f"{path} is damaged: {error}; ask for another copy") from error


def _most_plain_bytes(file_bytes: int) -> int:
    """Returns how much a file of so many bytes may hold unpacked."""
    return min(_MAX_PLAIN_BYTES, _SPEC_BYTES + _MOST_COMPRESSED * file_bytes)


def _pieces(file: BinaryIO, most_bytes: int) -> Iterator[bytes]:
    """Yields what a file holds unpacked, in pieces; RecordError for more than `most_bytes`, or a cut file."""
    unpacking, came_bytes = zlib.decompressobj(), 0
    while not unpacking.eof:
        data = unpacking.unconsumed_tail or file.read(_PIECE_BYTES)
        if not data:
            raise RecordError("it is cut off")
        piece = unpacking.decompress(data, _PIECE_BYTES)
        came_bytes += len(piece)
        if came_bytes > most_bytes:
            raise RecordError(f"it would be more than {most_bytes >> 20} MiB unpacked, which no receipts are")
        yield piece
    if unpacking.unused_data or file.read(1):
        raise RecordError("something follows its end")
