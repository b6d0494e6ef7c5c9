"""This machine's key and data folder: whether a node runs on them, and whether another uses the key."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.doctor.finding import Finding

KEY_FILE, LOCK_FILE = "identity.key", "lock"


@dataclass(frozen=True)
class IdentityFacts:
    """The data folder's key; `runs` says that a node holds the folder's lock."""

    folder: Path
    has_key: bool
    key_mode: int = 0o600
    runs: bool = False


def read_identity(folder: Path) -> IdentityFacts:
    """Returns what is known of the key in a data folder, without making one."""
    key = folder / KEY_FILE
    has_key = key.is_file()
    mode = stat.S_IMODE(key.stat().st_mode) if has_key else 0o600
    return IdentityFacts(folder, has_key, mode, has_node(folder))


def has_node(folder: Path) -> bool:
    """Tells whether a node runs on a data folder."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def judge_identity(facts: IdentityFacts) -> Finding:
    """Returns whether the key is this user's alone; another that uses it is seen in a run's records."""
    if not facts.has_key:
        found, verdict, mend = "none yet; the first start makes one", "good", ""
    elif facts.key_mode & 0o077:
        found = f"{facts.folder / KEY_FILE} can be read by others (mode {facts.key_mode:o})"
        verdict, mend = "poor", f"chmod 600 {facts.folder / KEY_FILE}"
    else:
        running = "; a peer runs with it here" if facts.runs else ""
        found, verdict, mend = f"{facts.folder / KEY_FILE}{running}", "good", ""
    return Finding.model_validate(
        {
            "check": "identity",
            "verdict": verdict,
            "found": found,
            "wanted": "a key that this user alone reads, on one machine",
            "mend": mend,
        }
    )


def judge_twin(what: str, issued_s: float) -> Finding:
    """Returns what a record under this key means that was not signed here."""
    at = time.strftime("%H:%M:%S", time.localtime(issued_s))
    return Finding(
        check="twin",
        verdict="cannot",
        found=f"another node runs with this machine's identity.key: {what}, signed at {at}, is not ours",
        wanted="one node for one key: two train a slot twice under one name",
        mend="stop the other one; or move identity.key out of this data folder, and the next start makes a "
        "key of its own",
    )
