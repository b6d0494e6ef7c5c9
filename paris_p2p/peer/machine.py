"""Reads what this machine has (GPUs, memory and cores as this process may use them), and derives the profile
`auto` from it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil
from pydantic import ByteSize

from paris_p2p.peer.profiles import Profile, known_profiles, load_profile
from paris_p2p.sensors.gpu import visible

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits")
SMI_LIMIT_S = 20.0
ALMOST = 0.95  # of a profile's memory: a card or machine sold with so many GB shows a little less
MANY_CORES, CPU_MEMORY_BYTES = 8, 16_000_000_000  # of the profile `cpu`
SHARE_OF_MEMORY = 0.5  # the other half stays its owner's
SHARE_OF_DISK = 0.5  # of what is free or holds our blobs, as of any node without --max-disk
CGROUP_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; `index` is what `cuda:N` means here."""

    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """What a process may use of a machine; memory in bytes."""

    cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()

    def __str__(self) -> str:
        gpus = (
            ", ".join(f"{gpu.name} with {gpu.memory_bytes / 1e9:.0f} GB" for gpu in self.gpus)
            or "no CUDA GPU"
        )
        return f"{self.cores} cores, {self.memory_bytes / 1e9:.1f} GB of memory, {gpus}"

    def gpu(self, device: str) -> Gpu | None:
        """Returns the GPU that a --device means, if it is here."""
        if device == "cpu" or not self.gpus:
            return None
        place = int(device.partition(":")[2] or 0) if device != "auto" else 0
        return self.gpus[place] if place < len(self.gpus) else None


def read_machine(
    ask: Callable[[], str | None] | None = None, cgroup: tuple[Path, ...] = CGROUP_FILES
) -> Machine:
    """Returns what this machine has, without touching a GPU: its driver's own program is asked. A container's
    limits count as those of the machine.
    """
    memory = min([int(psutil.virtual_memory().total), *_limits(cgroup)])
    listed = (ask or _ask_driver)()
    return Machine(
        len(os.sched_getaffinity(0)),
        memory,
        _visible(_gpus(listed or ""), os.environ.get("CUDA_VISIBLE_DEVICES")),
    )


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """Returns what `read_machine` found, which is asked once in a process."""
    return read_machine()


def auto_profile(machine: Machine, *, device: str = "auto", free_disk_bytes: int) -> Profile:
    """Returns the profile of `--profile auto`: device, threads, memory and disk as this machine can spare
    them, and rates without limit.

    `device` is a wish by hand: with `cpu` the GPUs are left alone.
    """
    gpu = machine.gpu(device)
    name = _nearest(machine, gpu)
    base = load_profile(name)
    chosen_gpu = base.device == "cuda"
    main = machine.memory_bytes * SHARE_OF_MEMORY
    return base.model_copy(
        update={
            "description": f"this machine ({machine})",
            "device": base.device if chosen_gpu else "cpu",
            "threads": base.threads if chosen_gpu else max(1, machine.cores - 1),
            "max_memory": ByteSize(max(main, min(3e9, 0.75 * machine.memory_bytes))),
            "max_vram": ByteSize(0.9 * gpu.memory_bytes if chosen_gpu and gpu else 0),
            "max_disk": ByteSize(max(1, SHARE_OF_DISK * free_disk_bytes)),
            "upload_limit": ByteSize(0),
            "download_limit": ByteSize(0),
        }
    )


def _nearest(machine: Machine, gpu: Gpu | None) -> str:
    if gpu is not None:
        sizes = {name: load_profile(name).memory_gb for name in known_profiles() if name.startswith("gpu-")}
        fitting = [name for name, memory_gb in sizes.items() if gpu.memory_bytes >= ALMOST * memory_gb * 1e9]
        if fitting:
            return max(fitting, key=sizes.__getitem__)
    return (
        "cpu"
        if machine.cores >= MANY_CORES and machine.memory_bytes >= ALMOST * CPU_MEMORY_BYTES
        else "cpu-2core"
    )


def _gpus(listed: str) -> tuple[tuple[str, Gpu], ...]:
    """Returns (UUID, GPU) of each line of the driver's list that can be read."""
    found = []
    for line in listed.splitlines():
        parts = [part.strip() for part in line.split(",", 3)]
        if len(parts) == 4 and parts[0].isdigit() and parts[2].isdigit():
            found.append((parts[1], Gpu(int(parts[0]), parts[3], int(parts[2]) << 20)))
    return tuple(found)


def _visible(gpus: tuple[tuple[str, Gpu], ...], wanted: str | None) -> tuple[Gpu, ...]:
    """Returns the GPUs as CUDA numbers them (sensors/gpu.py)."""
    places = visible([uuid for uuid, _ in gpus], wanted)
    chosen = (gpus[place][1] for place in places)
    return tuple(Gpu(number, gpu.name, gpu.memory_bytes) for number, gpu in enumerate(chosen))


def _ask_driver() -> str | None:
    try:
        done = subprocess.run(
            NVIDIA_SMI, capture_output=True, text=True, timeout=SMI_LIMIT_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):  # no driver, or one that hangs: as good as no GPU
        return None
    return done.stdout if done.returncode == 0 else None


def _limits(files: tuple[Path, ...]) -> list[int]:
    found = []
    for file in files:
        try:
            text = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text.isdigit():
            found.append(int(text))
    return found
