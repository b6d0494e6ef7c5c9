"""The disk of a data folder: what is free, what kind it is, and how fast it writes so that it stays."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from paris_p2p.byte_size import in_units
from paris_p2p.disk import free_bytes
from paris_p2p.doctor.finding import Finding

WANTED_BYTES, LEAST_BYTES = 5_000_000_000, 100_000_000
WANTED_BYTES_PER_S = 20_000_000  # a checkpoint of half a gigabyte is on the disk within half a minute
TRIAL_BYTES, PIECE_BYTES, TRIAL_S = 64 << 20, 4 << 20, 3.0
# Locks and fsync on these depend on a server, and a blob comes over the network a second time.
NETWORK_KINDS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs"}
)
NETWORK_FUSE = (
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.gcsfuse",
    "davfs",
)
PASSING_KINDS = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True)
class DiskFacts:
    """What holds the data folder; `write_bytes_per_s` is None where nothing was, or could be, written."""

    folder: Path
    kind: str  # of the file system, as the kernel names it
    free_bytes: int
    write_bytes_per_s: float | None
    why_not: str = ""  # nothing could be written


def read_disk(folder: Path, *, trial: bool = True) -> DiskFacts:
    """Returns what holds the folder, which need not exist yet, and writes a trial file beside it."""
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    speed, why_not = None, ""
    if trial:
        try:
            speed = write_speed(there)
        except OSError as error:
            why_not = error.strerror or str(error)
    return DiskFacts(folder, file_system_of(there), free_bytes(there), speed, why_not)


def write_speed(folder: Path, limit_s: float = TRIAL_S) -> float:
    """Returns bytes a second of a nameless file that is synced after each piece; OSError."""
    piece = os.urandom(PIECE_BYTES)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        began_s, written = time.monotonic(), 0
        while written < TRIAL_BYTES and (not written or time.monotonic() - began_s < limit_s):
            file.write(piece)
            os.fsync(file.fileno())
            written += len(piece)
        return written / max(1e-6, time.monotonic() - began_s)


def file_system_of(folder: Path) -> str:
    """Returns the kind of the file system that a folder lies on; "" where the kernel does not tell."""
    real = folder.resolve()
    mounts = {Path(part.mountpoint): str(part.fstype) for part in psutil.disk_partitions(all=True)}
    return next((mounts[place] for place in (real, *real.parents) if place in mounts), "")


def judge_disk(facts: DiskFacts) -> list[Finding]:
    """Returns whether the disk has room, is fast enough, and is a disk of this machine."""
    speed = [_judge_speed(facts)] if facts.write_bytes_per_s is not None or facts.why_not else []
    return [_judge_room(facts), *speed, _judge_kind(facts)]


def _judge_room(facts: DiskFacts) -> Finding:
    free = facts.free_bytes
    verdict = "cannot" if free < LEAST_BYTES else "poor" if free < WANTED_BYTES else "good"
    return Finding(
        check="disk",
        verdict=verdict,
        found=f"{in_units(free)} free for {facts.folder}",
        wanted=f"{in_units(WANTED_BYTES)}; an invite says what a run needs",
        mend="" if verdict == "good" else "free some, or name a folder on another disk: --data-dir FOLDER",
        numbers={"free_bytes": float(free)},
    )


def _judge_speed(facts: DiskFacts) -> Finding:
    speed, wanted = (
        facts.write_bytes_per_s,
        f"{in_units(WANTED_BYTES_PER_S)}/s, each piece on the disk (fsync)",
    )
    if speed is None:
        mend = f"mend the permissions of {facts.folder}, or name another folder: --data-dir FOLDER"
        found = f"nothing can be written there: {facts.why_not}"
        return Finding(check="disk-speed", verdict="cannot", found=found, wanted=wanted, mend=mend)
    slow = speed < WANTED_BYTES_PER_S
    return Finding(
        check="disk-speed",
        verdict="poor" if slow else "good",
        found=f"writes {in_units(speed)}/s",
        wanted=wanted,
        mend="name a folder on a faster disk: --data-dir FOLDER" if slow else "",
        numbers={"write_bytes_per_s": speed},
    )


def _judge_kind(facts: DiskFacts) -> Finding:
    wanted = "a disk of this machine: locks and fsync of others depend on a server"
    if facts.kind in NETWORK_KINDS or facts.kind.startswith(NETWORK_FUSE):
        found = f"{facts.folder} lies on a network file system ({facts.kind})"
        mend = "name a folder on a disk of this machine: --data-dir FOLDER"
        return Finding(check="file-system", verdict="poor", found=found, wanted=wanted, mend=mend)
    if facts.kind in PASSING_KINDS:
        found = f"{facts.folder} lies in memory ({facts.kind}) and is gone after a restart"
        mend = "name a folder on a disk: --data-dir FOLDER"
        return Finding(check="file-system", verdict="poor", found=found, wanted=wanted, mend=mend)
    if facts.kind == "overlay":
        found = f"{facts.folder} lies in a container's own layer, and goes when the container does"
        mend = "mount a volume there, so that this peer's key and blobs outlive it"
        return Finding(check="file-system", verdict="note", found=found, wanted=wanted, mend=mend)
    return Finding(check="file-system", verdict="good", found=facts.kind or "not told", wanted=wanted)
