"""Reads the GPUs from their driver by NVML (NVIDIA Management Library): memory and who holds it, heat, power,
load and energy; and sets a limit of power, where this process may.

NVML numbers GPUs by their place on the bus and knows nothing of CUDA_VISIBLE_DEVICES: `visible` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import psutil
import pynvml

from paris_p2p.errors import DeviceError

MAX_HOLDERS = 32
_NO_DRIVER = "no NVIDIA driver is installed (its library libnvidia-ml.so.1 is not here)"


@dataclass(frozen=True)
class GpuHolder:
    """A process that holds memory of a GPU; `used_bytes` is None where the driver does not tell."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True)
class GpuReading:
    """One GPU now; a value is None where the card or its driver does not tell it."""

    index: int  # by place on the bus
    uuid: str
    name: str
    memory_bytes: int
    free_bytes: int
    holders: tuple[GpuHolder, ...] = ()
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    utilisation: float | None = None  # share of time with work, 0 to 1
    energy_j: float | None = None  # since the driver was loaded

    @property
    def used_bytes(self) -> int:
        return self.memory_bytes - self.free_bytes


@dataclass(frozen=True)
class GpuReport:
    """All GPUs of a machine by place on the bus; without any, `why_none` says why."""

    gpus: tuple[GpuReading, ...] = ()
    driver: str = ""  # its version
    why_none: str = ""


class GpuSensor(Protocol):
    """What a machine's GPUs are asked; `Nvml` is the real one, `fakes.FakeGpus` the one for tests."""

    def read(self) -> GpuReport:
        """Returns all GPUs now; never raises."""
        ...

    def limit_power(self, uuid: str, watts: float) -> float:
        """Limits a GPU's power and returns the limit before; DeviceError where that is not to be had."""
        ...


class Nvml:
    """The driver's own library; opened with the first question, and again after a driver that went away."""

    def __init__(self, library: Any = pynvml):
        self._nvml, self._is_open = library, False

    def read(self) -> GpuReport:
        """Returns all GPUs now; of a driver that is not there or broken, why there are none."""
        try:
            self._open()
            driver = _text(self._nvml.nvmlSystemGetDriverVersion())
            count = self._nvml.nvmlDeviceGetCount()
            gpus = tuple(self._reading(index) for index in range(count))
        except self._nvml.NVMLError as error:
            self.close()
            return GpuReport(why_none=self._why(error))
        if not gpus:
            return GpuReport(driver=driver, why_none=f"the NVIDIA driver {driver} runs and sees no GPU")
        return GpuReport(gpus, driver)

    def limit_power(self, uuid: str, watts: float) -> float:
        """Limits a GPU's power, within what its maker allows; returns the limit before, in watts."""
        nvml = self._nvml
        try:
            self._open()
            gpu = nvml.nvmlDeviceGetHandleByUUID(uuid)
            before = nvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000.0
            low, high = (each / 1000.0 for each in nvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu))
            if not low <= watts <= high:
                raise DeviceError(
                    f"GPU {uuid} takes a limit from {low:.0f} W to {high:.0f} W, not {watts:.0f}"
                )
            nvml.nvmlDeviceSetPowerManagementLimit(gpu, round(watts * 1000))
        except nvml.NVMLError as error:
            raise DeviceError(f"the limit of GPU {uuid} stays: {self._why(error)}") from error
        return float(before)

    def close(self) -> None:
        """Lets go of the driver's library; the next question opens it again."""
        if self._is_open:
            self._is_open = False
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _open(self) -> None:
        if not self._is_open:
            self._nvml.nvmlInit()
            self._is_open = True

    def _reading(self, index: int) -> GpuReading:
        nvml = self._nvml
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
        return GpuReading(
            index=index,
            uuid=_text(nvml.nvmlDeviceGetUUID(gpu)),
            name=_text(nvml.nvmlDeviceGetName(gpu)),
            memory_bytes=int(memory.total),
            free_bytes=int(memory.free),
            holders=self._holders(gpu),
            temperature_c=self._told(lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
            power_w=self._told(lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000.0),
            power_limit_w=self._told(lambda: nvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000.0),
            utilisation=self._told(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100.0),
            energy_j=self._told(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000.0),
        )

    def _told(self, ask: Callable[[], float]) -> float | None:
        """Returns an answer; None where this card does not tell it, as many older ones."""
        try:
            return float(ask())
        except self._nvml.NVMLError:
            return None

    def _holders(self, gpu: Any) -> tuple[GpuHolder, ...]:
        """Returns the processes that hold memory, most first; a driver may hide those of other users."""
        nvml = self._nvml
        found: dict[int, int | None] = {}
        for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
            with suppress(nvml.NVMLError):
                found |= {each.pid: each.usedGpuMemory for each in ask(gpu)}
        holders = [GpuHolder(pid, _process_name(pid), used) for pid, used in found.items()]
        return tuple(sorted(holders, key=lambda each: (-(each.used_bytes or 0), each.pid))[:MAX_HOLDERS])

    def _why(self, error: Exception) -> str:
        """Says why the driver does not answer, and what mends it."""
        code, nvml = getattr(error, "value", None), self._nvml
        known = {
            nvml.NVML_ERROR_LIBRARY_NOT_FOUND: _NO_DRIVER,
            nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed and not loaded; "
            "`nvidia-smi` says more, and a restart after an update loads it",
            nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated and the kernel still has "
            "the old one; restart this machine",
            nvml.NVML_ERROR_NO_PERMISSION: "this user may not; it takes root",
            nvml.NVML_ERROR_GPU_IS_LOST: "a GPU fell off the bus; restart this machine",
            nvml.NVML_ERROR_NOT_SUPPORTED: "this GPU or its driver does not have it",
        }
        return known.get(code, f"the NVIDIA driver answers {error}")


@contextmanager
def limited_power(sensor: GpuSensor, uuid: str, watts: float) -> Iterator[None]:
    """Limits a GPU's power while inside, and puts the limit back that was there before; DeviceError where
    this process may not.
    """
    before = sensor.limit_power(uuid, watts)
    try:
        yield
    finally:
        with suppress(DeviceError):  # the driver went away, and the limit with it
            sensor.limit_power(uuid, before)


def visible(uuids: Sequence[str], wanted: str | None) -> tuple[int, ...]:
    """Returns the places of the GPUs among `uuids` as CUDA numbers them: CUDA_VISIBLE_DEVICES (`wanted`)
    chooses and orders, and ends at the first name that is none.
    """
    if wanted is None:
        return tuple(range(len(uuids)))
    chosen: list[int] = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        meant = (
            place
            for place, uuid in enumerate(uuids)
            if name == str(place) or (len(name) > 4 and uuid.startswith(name))
        )
        place = next(meant, None)
        if place is None:
            break
        chosen.append(place)
    return tuple(chosen)


def gpu_of(report: GpuReport, device: str, wanted: str | None = None) -> GpuReading | None:
    """Returns the GPU that a device's name (auto, cpu, cuda, cuda:N) means, if it is here; `wanted` is
    CUDA_VISIBLE_DEVICES.
    """
    if device == "cpu":
        return None
    places = visible([gpu.uuid for gpu in report.gpus], wanted)
    number = int(device.partition(":")[2] or 0) if device != "auto" else 0
    return report.gpus[places[number]] if number < len(places) else None


def _text(told: str | bytes) -> str:
    """Returns a name; older releases of NVML's bindings answer in bytes."""
    return told.decode(errors="replace") if isinstance(told, bytes) else told


def _process_name(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "not seen from here"  # it ended, or lives outside this container
