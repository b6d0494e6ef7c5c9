"""What a peer tells of the care it takes of its machine: its schedule, why it rests, budgets, sensors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from paris_p2p.byte_size import in_units


class BudgetStatus(BaseModel):
    """How much of a budget is used; the period ends at `renewed_at_s`, Unix time."""

    model_config = ConfigDict(frozen=True)

    budget: str  # as it is written: 100GB/month
    size_bytes: int
    used_bytes: int
    renewed_at_s: float


class SensorStatus(BaseModel):
    """What the machine tells of itself; None is not told."""

    model_config = ConfigDict(frozen=True)

    gpu: str = ""  # the name of the one that trains
    why_no_gpu: str = ""
    gpu_memory_bytes: int | None = None
    gpu_free_bytes: int | None = None
    gpu_temperature_c: float | None = None
    gpu_power_w: float | None = None
    gpu_power_limit_w: float | None = None
    gpu_utilisation: float | None = None  # 0 to 1
    gpu_energy_j: float | None = None  # since its driver was loaded
    on_battery: bool | None = None
    battery_charge: float | None = None  # 0 to 1
    idle_s: float | None = None  # since somebody touched the machine; asked with --only-idle alone
    idle_source: str = ""
    others_share: float | None = None  # of all cores, used by others; asked with --only-idle alone


class SettingStatus(BaseModel):
    """One setting that `paris-peer set` changes."""

    model_config = ConfigDict(frozen=True)

    key: str
    value: str
    source: str  # flag, variable, file, profile, default, or `paris-peer set`


class CareStatus(BaseModel):
    """When and how hard a peer works, and why it rests now."""

    model_config = ConfigDict(frozen=True)

    hours: tuple[str, ...] = ()
    time_zone: str = ""
    rests: bool = False
    reasons: tuple[str, ...] = ()  # of rules/care.py: hours, battery, people, load, heat, upload, download
    why: str = ""
    goes_on: str = ""  # in words
    until_s: float | None = None  # Unix time; None where it is not known
    gpu_share: float = 1.0  # of the time that the trainer may run, to keep --max-gpu-power or -temp
    upload: BudgetStatus | None = None
    download: BudgetStatus | None = None
    sensors: SensorStatus = SensorStatus()
    settings: tuple[SettingStatus, ...] = ()

    def line(self) -> str:
        """Returns schedule, budgets and pace in words; empty where nothing of it was asked for."""
        budgets = [
            f"{way} {in_units(one.used_bytes)} of {one.budget}"
            for way, one in (("up", self.upload), ("down", self.download))
            if one is not None
        ]
        pace = [f"GPU paced to {self.gpu_share:.0%} of the time"] if self.gpu_share < 1 else []
        hours = [f"hours {', '.join(self.hours)}"] if self.hours else []
        return "  ".join([*hours, *budgets, *pace])
