"""Keeps beside a lead's own checkpoint up to where each peer's stream of clips was merged before it, so that
a crew that trains on from it counts none twice.

The resume state's metadata say it under `counted`: `<peer>:<next clip>`, separated by commas, by peer. A slot
that never had a crew says nothing. Nothing here needs torch: a node reads it too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from paris_p2p.bounded_json import parse_json
from paris_p2p.crew_records import MAX_COUNTED, STREAM_CLIPS_END
from paris_p2p.errors import CheckpointError, UsageError

COUNTED = "counted"  # the key in a resume state's metadata
_ENTRY = re.compile(r"(12D3Koo[1-9A-HJ-NP-Za-km-z]{45}):(\d{1,16})")
_LENGTH_BYTES = 8  # of the header's length, little-endian, before it
_MAX_HEADER_BYTES = 64 << 20


def counted_note(counts: Mapping[str, int]) -> dict[str, str]:
    """Returns what a resume state's metadata say; nothing where nothing was counted."""
    text = ",".join(f"{peer}:{count}" for peer, count in sorted(counts.items()))
    return {COUNTED: text} if text else {}


def parse_counted(text: str, name: str) -> dict[str, int]:
    """Returns a note's counts by peer, none of an empty one; CheckpointError, naming the file `name`."""
    if not text:
        return {}
    entries = text.split(",", MAX_COUNTED)
    matches = [_ENTRY.fullmatch(entry) for entry in entries]
    found = [(match[1], int(match[2])) for match in matches if match is not None]
    rising = all(first < second for (first, _), (second, _) in pairwise(found))
    small = all(count < STREAM_CLIPS_END for _, count in found)
    if len(entries) > MAX_COUNTED or len(found) != len(entries) or not (rising and small):
        raise CheckpointError(f"{name} counts peers' clips in no readable way: {text[:80]!r}")
    return dict(found)


def read_counted(path: Path) -> dict[str, int]:
    """Returns the counts that a resume state keeps, none where it keeps none; CheckpointError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = file.read(length) if length <= _MAX_HEADER_BYTES else b""
        found = parse_json(header, path.name, max_depth=4)
        metadata = found.get("__metadata__", {}) if isinstance(found, dict) else None
        text = metadata.get(COUNTED, "") if isinstance(metadata, dict) else None
    except (OSError, UsageError) as error:
        raise CheckpointError(f"{path.name} is not a resume state ({str(error)[:160]})") from error
    if not isinstance(text, str):
        raise CheckpointError(f"{path.name} is not a resume state: its metadata cannot be read")
    return parse_counted(text, path.name)
