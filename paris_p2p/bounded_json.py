"""Decodes JSON that somebody else wrote, once its size and depth are a harmless program's (RFC 8259).

Decoders recurse once a level: a file of brackets alone ends Python's with a RecursionError and others with a
crash.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from paris_p2p.errors import UsageError

MAX_DEPTH = 32
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_OPEN, _CLOSE = b"[{", b"]}"
_NOT_BRACKETS = bytes(set(range(256)) - set(_OPEN + _CLOSE))


def depth_of(data: bytes) -> int:
    """Counts how deep brackets nest outside strings, without recursion; in UTF-8, JSON or not."""
    depth = deepest = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        if bracket in _OPEN:
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def parse_json(data: bytes, what: str, max_depth: int = MAX_DEPTH) -> Any:
    """Decodes a value; UsageError, naming `what`, when it is no JSON in UTF-8 or nests deeper."""
    depth = depth_of(data)
    if depth > max_depth:
        raise UsageError(
            f"{what} nests {depth} deep, at most {max_depth} is read; do not trust where it came from"
        )
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} cannot be read as JSON ({str(error)[:120]}); fetch it again") from error


def read_json(path: Path, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """Decodes a file; UsageError when it is not there, larger, or no JSON so deep."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); fetch it again") from error
    if len(data) > max_bytes:
        raise UsageError(f"{path} has more than the {max_bytes} bytes such a file ever has; do not trust it")
    return parse_json(data, str(path), max_depth)
