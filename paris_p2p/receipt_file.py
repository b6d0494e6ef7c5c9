"""A file that proves who made what of a run, by signed records alone: `paris-run receipts --out`.

    16 bytes   "paris-receipts/1"
    the rest   a ReceiptFile as msgpack, compressed with zlib

It holds the signed RunSpec, the owner's notices, certificates, and each slot's tips and rounds as they were
signed, so that its reader needs neither the network nor anybody's word. Those of a private run are sealed.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from paris_p2p.disk import write_atomic
from paris_p2p.envelope import encode, parse
from paris_p2p.errors import RecordError, UsageError
from paris_p2p.history_records import MAX_TOLD_ROUND_BYTES, ToldTip
from paris_p2p.packed import Bounds, unpack
from paris_p2p.records import Record, Slot

_MAGIC = b"paris-receipts/1"
MAX_FILE_BYTES = 256 << 20
_MAX_PLAIN_BYTES = 1 << 30
_BOUNDS = Bounds(items=1 << 22)
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
    """Writes the file, whole or not at all."""
    write_atomic(path, _MAGIC + zlib.compress(encode(proof.model_dump()), 6))


def read_receipts(path: Path) -> ReceiptFile:
    """Returns what a file holds; UsageError for what is none of these files, or damaged."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UsageError(f"{path} has more than {MAX_FILE_BYTES >> 20} MiB, so it is no file of receipts")
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise UsageError(f"{path} is no file of `paris-run receipts --out`")
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(data[len(_MAGIC) :], _MAX_PLAIN_BYTES)
        if unpacking.unconsumed_tail or unpacking.unused_data or not unpacking.eof:
            raise RecordError("it is cut off, or larger than it may be")
        raw = unpack(plain, _BOUNDS)
        if not isinstance(raw, dict):
            raise RecordError("it holds no receipts")
        return parse(ReceiptFile, raw)
    except (zlib.error, RecordError) as error:
        raise UsageError(f"{path} is damaged: {error}; ask for another copy") from error
