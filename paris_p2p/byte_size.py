"""Sizes in bytes as people write and read them: pydantic's ByteSize, made strict about the whole text."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import ByteSize, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

MAX_BYTES = 10**18  # a larger number is a slip of the keyboard
_TEXT = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?\s*[a-zA-Z]*")


def _whole(value: Any, read: ValidatorFunctionWrapHandler) -> ByteSize:
    """Refuses what ByteSize would read in part: to it `1,5GB` is one byte and `20MB a day` is 20 MB."""
    text = value.strip().removesuffix("/s").rstrip() if isinstance(value, str) else value
    if isinstance(text, float) and text.is_integer():
        text = int(text)
    if (
        isinstance(text, bool)
        or not isinstance(text, int | str)
        or (isinstance(text, str) and _TEXT.fullmatch(text) is None)
    ):
        raise ValueError(_WRONG)
    try:
        size: ByteSize = read(text)
    except ValidationError as error:
        raise ValueError(_WRONG) from error
    if not 0 <= size <= MAX_BYTES:
        raise ValueError(f"is out of range: a size is from 0 to {in_units(MAX_BYTES)}")
    return size


_WRONG = "is not a size; write it like 500MB, 1.5GiB or, for a rate, 20MB/s or 50Mbit/s"

# As a field's type: `20MB`, `1.5 GiB`, `50Mbit/s` or a plain number of bytes; a rate may end in `/s`.
Bytes = Annotated[ByteSize, WrapValidator(_whole)]


def in_units(count: float) -> str:
    """Returns a count of bytes with one decimal in units of a thousand: `1.5 GB`."""
    return ByteSize(count).human_readable(decimal=True, separator=" ")


def exact_size(count: int) -> str:
    """Returns a count of bytes as it may be written, without losing any: `1.25GB`, `0`, `1234567`."""
    for unit, unit_bytes in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= unit_bytes and count % (unit_bytes // 1000) == 0:
            return f"{count / unit_bytes:.3f}".rstrip("0").rstrip(".") + unit
    return str(int(count))
