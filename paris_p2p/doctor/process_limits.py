"""What the system lets a process of this user do: open files, /tmp, and services that outlive a log-out."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.byte_size import in_units
from paris_p2p.doctor.finding import Finding

WANTED_FILES, LEAST_FILES = 4096, 512
WANTED_TMP_BYTES = 200_000_000
_TMP = Path("/tmp")
_SYSTEMD, _LINGER = Path("/run/systemd/system"), Path("/var/lib/systemd/linger")


@dataclass(frozen=True)
class LimitFacts:
    """The limit of open files now and at most, and /tmp; a `linger` of None: there is no systemd here."""

    files: int
    most_files: int
    tmp_free_bytes: int
    tmp_writable: bool
    tmp_noexec: bool
    user: str = ""
    linger: bool | None = None


def read_limits(tmp: Path = _TMP, systemd: Path = _SYSTEMD, lingering: Path = _LINGER) -> LimitFacts:
    """Returns what the system allows this process."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    user = _user_name()
    return LimitFacts(
        files=_count(files),
        most_files=_count(most),
        tmp_free_bytes=shutil.disk_usage(tmp).free,
        tmp_writable=_is_writable(tmp),
        tmp_noexec=bool(os.statvfs(tmp).f_flag & os.ST_NOEXEC),
        user=user,
        linger=(lingering / user).exists() or os.geteuid() == 0 if systemd.is_dir() else None,
    )


def judge_limits(facts: LimitFacts) -> list[Finding]:
    """Returns whether open files and /tmp suffice, and whether a user's services outlive a log-out."""
    return [_judge_files(facts), _judge_tmp(facts), _judge_linger(facts)]


def _judge_files(facts: LimitFacts) -> Finding:
    verdict = "poor" if facts.files < LEAST_FILES else "note" if facts.files < WANTED_FILES else "good"
    mend = f"ulimit -n {min(65536, facts.most_files)}, or LimitNOFILE=65536 in a service's unit"
    return Finding(
        check="open-files",
        verdict=verdict,
        found=f"{facts.files:,} at once, {facts.most_files:,} at most",
        wanted=f"{WANTED_FILES:,}: each connection and each open blob is one",
        mend="" if verdict == "good" else mend,
        numbers={"files": float(facts.files), "most_files": float(facts.most_files)},
    )


def _judge_tmp(facts: LimitFacts) -> Finding:
    full = facts.tmp_free_bytes < WANTED_TMP_BYTES
    noexec = "is mounted noexec, so that compiled blocks cannot be loaded from it"
    cache = "TORCHINDUCTOR_CACHE_DIR=~/.cache/torchinductor in the environment, or --no-compile"
    known = (
        (not facts.tmp_writable, "cannot be written", "chmod 1777 /tmp, as root"),
        (full, "is nearly full", "free some of /tmp"),
        (facts.tmp_noexec, noexec, cache),
    )
    trouble = [words for is_so, words, _ in known if is_so]
    mend = [words for is_so, _, words in known if is_so]
    poor = full or not facts.tmp_writable
    return Finding(
        check="tmp",
        verdict="poor" if poor else "note" if trouble else "good",
        found=f"/tmp {' and '.join(trouble)}" if trouble else f"{in_units(facts.tmp_free_bytes)} free",
        wanted=f"writable, {in_units(WANTED_TMP_BYTES)} free: p2pd's sockets and compiled blocks lie there",
        mend="; ".join(mend),
        numbers={"free_bytes": float(facts.tmp_free_bytes)},
    )


def _judge_linger(facts: LimitFacts) -> Finding:
    wanted = "on, where this peer is to run as a user's service while nobody is logged in"
    if facts.linger is None:
        return Finding(
            check="linger", verdict="note", found="no systemd here: no service of it", wanted=wanted
        )
    return Finding(
        check="linger",
        verdict="good" if facts.linger else "note",
        found=f"services of {facts.user} {'outlive' if facts.linger else 'end with'} the log-out",
        wanted=wanted,
        mend="" if facts.linger else f"loginctl enable-linger {facts.user}",
    )


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError:
        return False
    return True


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # of a container's number without a name
        return str(os.geteuid())


def _count(limit: int) -> int:
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit
