"""A peer's settings as the rules of care take them, and its readings as its status tells them."""

from __future__ import annotations

import os
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from paris_p2p.byte_budget import budget_in
from paris_p2p.node.care_status import SensorStatus
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.care import CareRules
from paris_p2p.sensors.battery import BatteryReading
from paris_p2p.sensors.gpu import GpuReading, GpuReport
from paris_p2p.sensors.idle import IdleReading
from paris_p2p.weekly_hours import window_in

LOCAL_TIME = Path("/etc/localtime")


def care_rules(settings: PeerSettings) -> CareRules:
    """Returns what the settings ask for."""
    return CareRules(
        hours=tuple(window_in(text) for text in settings.hours),
        zone=ZoneInfo(settings.time_zone) if settings.time_zone else machine_zone(),
        only_idle_s=settings.only_idle_s,
        on_battery=settings.on_battery,
        max_gpu_temp_c=settings.max_gpu_temp_c,
        upload=budget_in(settings.upload_budget) if settings.upload_budget else None,
        download=budget_in(settings.download_budget) if settings.download_budget else None,
    )


def machine_zone(named: str | None = None, file: Path = LOCAL_TIME) -> tzinfo:
    """Returns this machine's time zone: what TZ names, else what /etc/localtime holds, else UTC."""
    name = (os.environ.get("TZ", "") if named is None else named).removeprefix(":")
    try:
        if name and not name.startswith("/"):
            return ZoneInfo(name)
        with (Path(name) if name else file).open("rb") as data:
            return ZoneInfo.from_file(data)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        return UTC


def sensor_status(
    gpus: GpuReport,
    gpu: GpuReading | None,
    battery: BatteryReading,
    idle: IdleReading,
    others_share: float | None,
) -> SensorStatus:
    """Returns the readings as they are told."""
    told = (
        {}
        if gpu is None
        else {
            "gpu": gpu.name,
            "gpu_memory_bytes": gpu.memory_bytes,
            "gpu_free_bytes": gpu.free_bytes,
            "gpu_temperature_c": gpu.temperature_c,
            "gpu_power_w": gpu.power_w,
            "gpu_power_limit_w": gpu.power_limit_w,
            "gpu_utilisation": gpu.utilisation,
            "gpu_energy_j": gpu.energy_j,
        }
    )
    return SensorStatus.model_validate(
        {
            **told,
            "why_no_gpu": gpus.why_none,
            "on_battery": battery.on_battery,
            "battery_charge": battery.charge,
            "idle_s": idle.idle_s,
            "idle_source": idle.source,
            "others_share": others_share,
        }
    )
