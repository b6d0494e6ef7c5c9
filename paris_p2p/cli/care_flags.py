"""The options that say when, how hard and how much a volunteer's machine may work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from paris_p2p.cli.groups import setting

WHEN = "When it may work"


@dataclass(frozen=True)
class CareFlags:
    """Holds what a volunteer asks for the sake of the machine; `paris-peer set` changes it later."""

    hours: Annotated[
        list[str] | None,
        setting(
            "hours",
            'Train at these hours alone, like 22:00-07:00 or "Mon-Fri 18:00-08:00"; may be repeated.',
            "HOURS",
            panel=WHEN,
        ),
    ] = None
    time_zone: Annotated[
        str | None,
        setting(
            "time_zone",
            "Time zone of hours and budgets, like Europe/Berlin.",
            "ZONE",
            "this machine's",
            panel=WHEN,
        ),
    ] = None
    only_idle: Annotated[
        str | None,
        setting(
            "only_idle",
            "Train only while nobody has touched this machine for so long, like 10min (yes: 10min), and "
            "other programs leave it alone.",
            "SPAN",
            "no",
            panel=WHEN,
        ),
    ] = None
    on_battery: Annotated[
        str | None, setting("on_battery", "Train on battery too: yes or no.", "YES|NO", "yes", panel=WHEN)
    ] = None
    max_gpu_temp: Annotated[
        float | None,
        setting(
            "max_gpu_temp", "Slow down, then rest, above this heat of the GPU in °C.", "DEGREES", panel=WHEN
        ),
    ] = None
    max_gpu_power: Annotated[
        float | None,
        setting(
            "max_gpu_power",
            "Watts of the GPU: its own limit where this process may set it, else by working less.",
            "WATTS",
            panel=WHEN,
        ),
    ] = None
    nice: Annotated[
        int | None,
        setting("nice", "Priority of the training, 0 to 19; 19 gives way to all others.", "N", panel=WHEN),
    ] = None
    upload_budget: Annotated[
        str | None,
        setting("upload_budget", "Bytes sent at most, like 100GB/month.", "BUDGET", panel=WHEN),
    ] = None
    download_budget: Annotated[
        str | None,
        setting("download_budget", "Bytes fetched at most, like 20GB/week.", "BUDGET", panel=WHEN),
    ] = None
