"""Tells whether this machine runs on its battery, from the kernel's power supplies.

Batteries of mice, keyboards and phones stand there too, with the scope `Device`; they are not the machine's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SUPPLIES = Path("/sys/class/power_supply")
_MAX_TEXT_BYTES = 256


@dataclass(frozen=True)
class BatteryReading:
    """`on_battery` is None where this machine has no battery that it tells of; `charge` is from 0 to 1."""

    on_battery: bool | None = None
    charge: float | None = None

    def __str__(self) -> str:
        if self.on_battery is None:
            return "no battery"
        charge = "" if self.charge is None else f", {self.charge:.0%} charged"
        return f"{'on battery' if self.on_battery else 'plugged in'}{charge}"


class BatterySensor(Protocol):
    """What a machine's battery is asked."""

    def read(self) -> BatteryReading:
        """Returns where the power comes from now; never raises."""
        ...


class KernelBattery:
    """Reads Linux' power supplies (Documentation/ABI/testing/sysfs-class-power)."""

    def __init__(self, supplies: Path = SUPPLIES):
        self.supplies = supplies

    def read(self) -> BatteryReading:
        """Returns where the power comes from: from the battery when one empties, or none is plugged in."""
        try:
            folders = sorted(self.supplies.iterdir())
        except OSError:
            return BatteryReading()
        own = [each for each in folders if _text(each / "scope") != "Device"]
        batteries = [each for each in own if _text(each / "type") in ("Battery", "UPS")]
        batteries = [each for each in batteries if _text(each / "present") != "0"]
        if not batteries:
            return BatteryReading()
        plugs = [
            _text(each / "online") for each in own if _text(each / "type") in ("Mains", "USB", "Wireless")
        ]
        states = {_text(each / "status") for each in batteries}
        # a battery that empties beside a plug is a charger that is too weak, or one that is held at a level
        is_plugged = any(plug in ("1", "2") for plug in plugs)
        on_battery = not is_plugged and (bool(plugs) or "Discharging" in states)
        charges = [_number(each / "capacity") for each in batteries]
        known = [each for each in charges if each is not None]
        return BatteryReading(on_battery, sum(known) / len(known) / 100 if known else None)


def _text(path: Path) -> str:
    """Returns the word in a file; empty where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_TEXT_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    text = _text(path)
    return min(100.0, float(text)) if text.isdecimal() else None
