"""Stands in for a machine's sensors in tests: what they tell is set by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from paris_p2p.errors import DeviceError
from paris_p2p.sensors.gpu import GpuReading, GpuReport


@dataclass
class FakeGpus:
    """GPUs whose readings are set by hand, and whose limits are kept; without `is_root` none can be set."""

    report: GpuReport = field(default_factory=lambda: GpuReport(why_none="a fake without GPUs"))
    is_root: bool = False
    limits_w: dict[str, float] = field(default_factory=dict)

    def read(self) -> GpuReport:
        """Returns what was set."""
        return self.report

    def limit_power(self, uuid: str, watts: float) -> float:
        """Keeps a limit and returns the one before."""
        if not self.is_root:
            raise DeviceError(f"the limit of GPU {uuid} stays: this user may not; it takes root")
        before = self.limits_w.get(uuid, 450.0)
        self.limits_w[uuid] = watts
        return before

    def heat(self, temperature_c: float) -> None:
        """Sets what the first GPU tells of its heat, making one where there is none."""
        self.report = GpuReport((fake_gpu(temperature_c=temperature_c),), "550.54")


def fake_gpu(temperature_c: float | None = 40.0, power_w: float | None = 30.0) -> GpuReading:
    """Returns the reading of a GPU of 24 GB, of which one is used."""
    return GpuReading(
        index=0,
        uuid="GPU-fake",
        name="Fake 24",
        memory_bytes=24 << 30,
        free_bytes=23 << 30,
        temperature_c=temperature_c,
        power_w=power_w,
        power_limit_w=450.0,
        utilisation=0.0,
        energy_j=0.0,
    )
