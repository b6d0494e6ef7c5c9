"""The processor: cores that this process may use, the instructions that training wants, bfloat16."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paris_p2p.doctor.finding import Finding

WANTED = ("avx2", "fma")  # without them torch's kernels fall back to ones several times slower
_CPUINFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_LEAST_CORES = 2


@dataclass(frozen=True)
class ProcessorFacts:
    """What the kernel tells of the processor; `quota_cores` is a container's limit, None without one."""

    name: str
    cores: int
    flags: frozenset[str]
    quota_cores: float | None = None
    bf16: bool | None = None  # None: not asked, since that loads torch

    @property
    def usable_cores(self) -> float:
        return self.cores if self.quota_cores is None else min(float(self.cores), self.quota_cores)


def read_processor(
    has_bf16: Callable[[], bool] | None = None, cpuinfo: Path = _CPUINFO, quota: Path = _QUOTA
) -> ProcessorFacts:
    """Returns what the kernel tells; `has_bf16` says whether products in bfloat16 pay off."""
    name, flags = "", frozenset[str]()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not name:
            name = " ".join(value.split())
        elif key.strip() == "flags" and not flags:
            flags = frozenset(value.split())
    return ProcessorFacts(
        name=name or "a processor without a name",
        cores=len(os.sched_getaffinity(0)),
        flags=flags,
        quota_cores=_quota_cores(quota),
        bf16=has_bf16() if has_bf16 is not None else None,
    )


def judge_processor(facts: ProcessorFacts) -> Finding:
    """Returns whether the processor is fit for training; a GPU does the work where there is one."""
    missing = [flag for flag in WANTED if flag not in facts.flags]
    precision = {True: ", bfloat16", False: ", no bfloat16: float32", None: ""}[facts.bf16]
    quota = "" if facts.quota_cores is None else f" (this container may use {facts.quota_cores:g})"
    has = "AVX-512" if "avx512f" in facts.flags else "AVX2" if "avx2" in facts.flags else "no AVX2"
    weak = facts.usable_cores < _LEAST_CORES
    mend = []
    if missing:
        mend.append("use a machine with a processor of 2015 or later, or a virtual machine that passes on "
                    "its host's instructions (CPU type `host`)")  # fmt: skip
    if weak:
        mend.append("give this machine or container two cores")
    return Finding(
        check="processor",
        verdict="poor" if missing or weak else "good",
        found=f"{facts.name}, {facts.cores} core{'s' * (facts.cores != 1)}{quota}, {has}{precision}",
        wanted="two cores with AVX2 and FMA; bfloat16 helps where it is in hardware",
        mend="; ".join(mend),
        numbers={"cores": float(facts.cores), "usable_cores": facts.usable_cores},
    )


def _quota_cores(path: Path) -> float | None:
    try:
        quota, period, *_ = [*path.read_text(encoding="ascii").split(), "", ""]
    except (OSError, UnicodeDecodeError):
        return None
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None
