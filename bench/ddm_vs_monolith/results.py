"""Keeps what a job leaves behind: a small JSON file, and beside it fp16 arrays where it has some."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from paris_p2p.disk import replacing, write_atomic
from paris_p2p.errors import UsageError

HERE = Path(__file__).parent
PROTOCOL, RECORDED = HERE / "PROTOCOL.md", HERE / "PROTOCOL.sha256"


class Result(BaseModel):
    """Holds one job's outcome and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    job: str
    values: dict[str, Any]
    protocol_sha256: str
    commit: str
    machine: str
    date: str
    wall_s: float
    cpu_s: float


class Results:
    """Keeps the results of one scale in a folder; a job is done when its JSON file is there."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, job: str, suffix: str) -> Path:
        return self.folder / f"{job.replace('/', '.')}.{suffix}"

    def has(self, job: str) -> bool:
        return self.path(job, "json").exists()

    def read(self, job: str) -> Result:
        try:
            return Result.model_validate_json(self.path(job, "json").read_bytes())
        except OSError as error:
            raise UsageError(
                f"the result of {job} cannot be read ({error.strerror}); run it first"
            ) from error

    def values(self, job: str) -> dict[str, Any]:
        return self.read(job).values

    def arrays(self, job: str) -> dict[str, NDArray[Any]]:
        """Returns a job's arrays; UsageError where they are not here, as in a fresh clone."""
        path = self.path(job, "npz")
        if not path.exists():
            raise UsageError(
                f"{path} is not here; arrays are not kept in git. Download those of our results with "
                f"`python -m bench.ddm_vs_monolith fetch {self.folder.name}`, or make your own with "
                f"`python -m bench.ddm_vs_monolith run {self.folder.name} --results bench-out/results`"
            )
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    def write(
        self, job: str, values: dict[str, Any], clock: Clock, arrays: dict[str, NDArray[Any]] | None = None
    ) -> Result:
        """Writes a result, the JSON file last, so that a job that was broken off is not taken for done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if arrays:
            with replacing(self.path(job, "npz")) as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        result = Result(
            job=job,
            values=rounded(values),
            protocol_sha256=protocol_sha256(),
            commit=commit(),
            machine=f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
            date=time.strftime("%Y-%m-%d"),
            wall_s=round(clock.wall_s, 1),
            cpu_s=round(clock.cpu_s, 1),
        )
        write_atomic(self.path(job, "json"), result.model_dump_json(indent=1) + "\n")
        return result


class Clock:
    """Measures wall and processor time of a job: of this process, and of those it waited for."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.monotonic(), self._cpu()

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._wall_s

    @property
    def cpu_s(self) -> float:
        return self._cpu() - self._cpu_s

    @staticmethod
    def _cpu() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system


def protocol_sha256() -> str:
    return hashlib.sha256(PROTOCOL.read_bytes()).hexdigest()


def require_protocol() -> None:
    """Raises UsageError unless the protocol is the one that was recorded, and so committed, before."""
    recorded = RECORDED.read_text().strip() if RECORDED.exists() else ""
    if recorded != protocol_sha256():
        raise UsageError(
            f"{PROTOCOL.name} hashes to {protocol_sha256()[:16]}…, "
            f"{recorded[:16] or 'nothing'} is recorded in {RECORDED.name}; the test "
            "split stays closed. Write the protocol, record it with `python -m bench.ddm_vs_monolith "
            "protocol`, and commit both"
        )


def record_protocol() -> str:
    RECORDED.write_text(protocol_sha256() + "\n")
    return protocol_sha256()


def commit() -> str:
    """Returns the commit that is checked out, with + when files differ from it."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.run(
        [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (head or "unknown") + ("+" if changed else "")


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def rounded(values: Any) -> Any:
    """Rounds to six significant digits, which are more than any of it is worth."""
    if isinstance(values, float):
        return float(f"{values:.6g}")
    if isinstance(values, dict):
        return {str(key): rounded(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [rounded(value) for value in values]
    if isinstance(values, np.generic | np.ndarray):
        return rounded(values.tolist())
    return values


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1) + "\n")
