"""What a driver tells of its GPUs is read whole, and a driver that is absent or broken is said to be so."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from paris_p2p.errors import DeviceError
from paris_p2p.sensors.fakes import FakeGpus, fake_gpu
from paris_p2p.sensors.gpu import GpuHolder, GpuReport, Nvml, gpu_of, limited_power


class Library:
    """Answers as NVML does for one GPU; what stands in `refused` raises that code instead."""

    def __init__(self, **refused: int):
        self.refused, self.limit_mw, self.calls = refused, 450_000, []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return getattr(pynvml, name)

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.refused:
                raise pynvml.NVMLError(self.refused[name])
            if name == "nvmlDeviceSetPowerManagementLimit":
                self.limit_mw = arguments[1]
            return self.answers().get(name)

        return call

    def answers(self) -> dict[str, Any]:
        me = SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 << 30)
        gone = SimpleNamespace(pid=2**30, usedGpuMemory=None)
        return {
            "nvmlSystemGetDriverVersion": b"550.54",
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetUUID": "GPU-aa11",
            "nvmlDeviceGetName": "Card 24",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 << 30, free=20 << 30, used=4 << 30),
            "nvmlDeviceGetComputeRunningProcesses": [gone, me],
            "nvmlDeviceGetGraphicsRunningProcesses": [],
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetPowerUsage": 221_500,
            "nvmlDeviceGetPowerManagementLimit": self.limit_mw,
            "nvmlDeviceGetPowerManagementLimitConstraints": [100_000, 500_000],
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=12),
            "nvmlDeviceGetTotalEnergyConsumption": 1_234_567,
        }


def test_a_gpu_is_read_with_its_memory_its_heat_its_power_and_who_holds_it() -> None:
    report = Nvml(Library()).read()
    (gpu,) = report.gpus
    assert (report.driver, report.why_none) == ("550.54", "")
    assert (gpu.name, gpu.memory_bytes, gpu.used_bytes) == ("Card 24", 24 << 30, 4 << 30)
    assert (gpu.temperature_c, gpu.power_w, gpu.power_limit_w) == (61, 221.5, 450)
    assert (gpu.utilisation, gpu.energy_j) == (0.37, 1234.567)
    mine, gone = gpu.holders
    assert (mine.pid, mine.used_bytes) == (os.getpid(), 3 << 30)
    assert mine.name
    assert gone == GpuHolder(2**30, "not seen from here", None)


def test_what_a_card_does_not_tell_is_none_and_the_rest_is_told() -> None:
    refused = pynvml.NVML_ERROR_NOT_SUPPORTED
    library = Library(nvmlDeviceGetTotalEnergyConsumption=refused, nvmlDeviceGetPowerUsage=refused)
    (gpu,) = Nvml(library).read().gpus
    assert (gpu.energy_j, gpu.power_w, gpu.temperature_c) == (None, None, 61)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver is installed"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "restart this machine"),
        (pynvml.NVML_ERROR_UNKNOWN, "the NVIDIA driver answers Unknown Error"),
    ],
)
def test_a_driver_that_is_absent_or_broken_says_why_there_is_no_gpu(code: int, words: str) -> None:
    report = Nvml(Library(nvmlInit=code)).read()
    assert report.gpus == ()
    assert words in report.why_none


def test_a_driver_that_breaks_is_opened_again_when_it_is_asked_again() -> None:
    library = Library()
    sensor = Nvml(library)
    assert sensor.read().gpus
    library.refused["nvmlDeviceGetCount"] = pynvml.NVML_ERROR_GPU_IS_LOST
    assert "fell off the bus" in sensor.read().why_none
    library.refused.clear()
    assert sensor.read().gpus
    assert library.calls.count("nvmlInit") == 2


def test_a_limit_of_power_is_put_back_at_the_end_also_after_an_error() -> None:
    library, within = Library(), []

    def work() -> None:
        with limited_power(Nvml(library), "GPU-aa11", 200):
            within.append(library.limit_mw)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert (within, library.limit_mw) == ([200_000], 450_000)


def test_a_limit_that_is_refused_or_out_of_bounds_is_said_and_nothing_is_set() -> None:
    library = Library(nvmlDeviceSetPowerManagementLimit=pynvml.NVML_ERROR_NO_PERMISSION)
    with pytest.raises(DeviceError, match="takes root"):
        Nvml(library).limit_power("GPU-aa11", 200)
    with pytest.raises(DeviceError, match="from 100 W to 500 W, not 40"):
        Nvml(Library()).limit_power("GPU-aa11", 40)


def test_the_fake_keeps_limits_as_the_driver_does() -> None:
    gpus = FakeGpus(is_root=True)
    with limited_power(gpus, "GPU-fake", 200):
        assert gpus.limits_w == {"GPU-fake": 200}
    assert gpus.limits_w == {"GPU-fake": 450}
    with pytest.raises(DeviceError, match="takes root"):
        FakeGpus().limit_power("GPU-fake", 200)


@pytest.mark.parametrize(
    ("device", "shown", "found"),
    [("auto", None, True), ("cpu", None, False), ("cuda:1", None, False), ("cuda:0", "", False)],
)
def test_the_gpu_that_a_device_means_is_found(device: str, shown: str | None, found: bool) -> None:
    report = GpuReport((fake_gpu(),))
    assert (gpu_of(report, device, shown) is not None) == found
