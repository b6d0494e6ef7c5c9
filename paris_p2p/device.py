"""Which device to compute on, in which precision, with how many threads, and what memory that takes."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import psutil
import torch
import torch.utils.deterministic
from torch import nn

from paris_p2p.errors import DeviceError

# environment: anything but nothing or 0 refuses bfloat16, as on a machine without it
NO_BFLOAT16 = "PARIS_NO_BFLOAT16"


@dataclass(frozen=True)
class Device:
    """A device that is there, and whether it multiplies bfloat16 in hardware."""

    torch: torch.device
    bf16: bool

    def __str__(self) -> str:
        return str(self.torch)

    @property
    def cuda(self) -> bool:
        return self.torch.type == "cuda"

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    @property
    def compiles(self) -> bool:
        """Whether compiling blocks pays: with Triton on a GPU it does; a CPU gains a fifth, after minutes
        of the C++ compiler.
        """
        return self.cuda and find_spec("triton") is not None

    def autocast(self) -> AbstractContextManager[None]:
        """Computes matrix products in bfloat16 where that is faster; weights, sums and losses stay
        float32.
        """
        return torch.autocast(self.torch.type, dtype=torch.bfloat16, enabled=self.bf16)

    def memory_bytes(self) -> int:
        """This process's resident memory, plus the peak it reserved on the GPU."""
        return resident_bytes() + (torch.cuda.max_memory_reserved(self.torch) if self.cuda else 0)


def pick_device(name: str = "auto") -> Device:
    """Returns `auto` (a GPU when there is one), `cpu`, `cuda` or `cuda:<n>`; DeviceError when that is not
    there.

    The environment variable PARIS_NO_BFLOAT16=1 makes float32 of bfloat16 on every one of them.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return Device(torch.device("cpu"), bfloat16_allowed() and _cpu_has_bf16())
    kind, _, index = name.partition(":")
    if kind != "cuda" or (":" in name and not (index.isascii() and index.isdigit() and len(index) < 4)):
        raise DeviceError(f"{name[:40]!r} is not a device; say auto, cpu, cuda or cuda:<n>")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        build = "" if torch.version.cuda else f"; this torch ({torch.__version__}) was built without CUDA"
        raise DeviceError(
            f"the device {name} was asked for, {count} are here{build}; use --device auto, "
            "or check the driver"
        )
    device = torch.device("cuda", int(index or 0))
    with torch.cuda.device(device):
        return Device(device, bfloat16_allowed() and torch.cuda.is_bf16_supported(including_emulation=False))


def bfloat16_allowed() -> bool:
    """Returns False where the environment refuses it: another machine's speed and rounding can be tried on
    this one.
    """
    return os.environ.get(NO_BFLOAT16, "") in ("", "0")


def set_threads(threads: int) -> None:
    """Allows torch `threads` CPU threads at most; 0 leaves its own choice."""
    if threads:
        torch.set_num_threads(threads)


def compute_repeatably(device: Device) -> None:
    """Chooses GPU kernels whose sums always have the same order, where there are such; call before the
    first computation.

    Attention's backward pass is not among them: torch has an ordered one only where it may also refuse
    operators that have none (docs/benchmarks.md, "On a GPU", for what was seen).
    """
    if device.cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # new memory is not filled first, which would cost a kernel for each tensor
        deterministic: Any = torch.utils.deterministic  # a module whose setting is a property
        deterministic.fill_uninitialized_memory = False


def compile_blocks(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Lets torch.compile fuse each kind of block, once for all of its kind; parameters keep their names.

    It happens at the first step, and where it fails (no C compiler, an odd driver) the block runs as it is,
    with a warning.
    """
    torch._dynamo.config.suppress_errors = True
    kinds = getattr(network, "_repeated_blocks", ())  # what diffusers calls them
    for module in network.modules():
        if type(module).__name__ in kinds:
            module.compile(backend=backend)


def limit_cuda_memory(device: Device, max_bytes: int) -> None:
    """Lets torch reserve at most `max_bytes` on the GPU; more raises torch.OutOfMemoryError. 0: no limit."""
    if device.cuda and max_bytes:
        total = torch.cuda.get_device_properties(device.torch).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, max_bytes / total), device.torch)


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def return_memory(device: Device) -> None:
    """Gives what was freed back to the system, which allocators put off."""
    gc.collect()
    if device.cuda:
        torch.cuda.empty_cache()
    with suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def available_bytes() -> int:
    """Returns the bytes of memory this machine could still give without swapping."""
    return int(psutil.virtual_memory().available)


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; where it only emulates that, float32 is faster."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
