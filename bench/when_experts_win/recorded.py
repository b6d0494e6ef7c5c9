"""Holds the protocol to its word: nothing is played under another text than the one that was recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from paris_p2p.errors import UsageError

HERE = Path(__file__).parent
PROTOCOL, RECORDED = HERE / "PROTOCOL.md", HERE / "PROTOCOL.sha256"


def require_protocol() -> str:
    """Returns the protocol's SHA-256; UsageError when it is not the recorded one."""
    found = hashlib.sha256(PROTOCOL.read_bytes()).hexdigest()
    recorded = RECORDED.read_text().strip()
    if found != recorded:
        raise UsageError(
            f"{PROTOCOL.name} hashes to {found[:16]}… and {recorded[:16]}… is recorded in {RECORDED.name}; "
            "a change that is meant is recorded with `python -m bench.when_experts_win protocol`"
        )
    return found


def record_protocol() -> str:
    """Records the protocol as it is now, and returns its SHA-256."""
    found = hashlib.sha256(PROTOCOL.read_bytes()).hexdigest()
    RECORDED.write_text(found + "\n")
    return found
