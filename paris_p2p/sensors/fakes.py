"""Stands in for a machine's sensors in tests: what they tell is set by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from paris_p2p.errors import DeviceError
from paris_p2p.sensors.battery import BatteryReading
from paris_p2p.sensors.gpu import GpuReading, GpuReport
from paris_p2p.sensors.idle import IdleReading


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


@dataclass
class FakeBattery:
    """A battery that is plugged in or not as a test says."""

    reading: BatteryReading = field(default_factory=BatteryReading)

    def read(self) -> BatteryReading:
        """Returns what was set."""
        return self.reading

    def unplug(self, charge: float = 0.9) -> None:
        """Sets that the machine runs on its battery."""
        self.reading = BatteryReading(on_battery=True, charge=charge)

    def plug_in(self) -> None:
        """Sets that it does not."""
        self.reading = BatteryReading(on_battery=False, charge=0.9)


@dataclass
class FakeIdle:
    """A machine that was last touched so many seconds ago as a test says."""

    reading: IdleReading = field(default_factory=lambda: IdleReading(3600.0, "terminals"))

    def read(self) -> IdleReading:
        """Returns what was set."""
        return self.reading

    def touched(self, ago_s: float) -> None:
        """Sets when somebody last touched it."""
        self.reading = IdleReading(ago_s, "X")


@dataclass
class FakeLoad:
    """Processors of which others use so much as a test says."""

    share: float | None = 0.0

    def read(self) -> float | None:
        """Returns what was set."""
        return self.share


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
