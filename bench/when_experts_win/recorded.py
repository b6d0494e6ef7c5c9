"""Holds the protocol to its word: nothing is played under another text than the one that was recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from paris_p2p.errors import UsageError

HERE = Path(__file__).parent
PROTOCOL = HERE / "PROTOCOL.md"  # of the stage digits
PROTOCOLS = (
    PROTOCOL,
    HERE / "PROTOCOL-product.md",
    HERE / "PROTOCOL-clips.md",
    HERE / "PROTOCOL-images.md",
)  # the others' stages name them


def require_protocol(protocol: Path | None = None) -> str:
    """Returns a protocol's SHA-256; UsageError when it is not the recorded one. None: that of digits."""
    path = protocol or PROTOCOL
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    recorded = _record_of(path).read_text().strip()
    if found != recorded:
        raise UsageError(
            f"{path.name} hashes to {found[:16]}… and {recorded[:16]}… is recorded in "
            f"{_record_of(path).name}; "
            "a change that is meant is recorded with `python -m bench.when_experts_win protocol`"
        )
    return found


def record_protocol(protocol: Path | None = None) -> str:
    """Records a protocol as it is now, and returns its SHA-256."""
    path = protocol or PROTOCOL
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    _record_of(path).write_text(found + "\n")
    return found


def _record_of(protocol: Path) -> Path:
    return protocol.with_suffix(".sha256")
