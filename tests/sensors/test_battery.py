"""A machine is on battery when its own battery feeds it: not when a mouse's does."""

from __future__ import annotations

from pathlib import Path

import pytest

from paris_p2p.sensors.battery import BatteryReading, KernelBattery
from paris_p2p.sensors.fakes import FakeBattery

MAINS = {"type": "Mains", "online": "1"}
UNPLUGGED = {"type": "Mains", "online": "0"}
FULL = {"type": "Battery", "status": "Full", "capacity": "100", "present": "1", "scope": "System"}
EMPTYING = FULL | {"status": "Discharging", "capacity": "60"}
MOUSE = EMPTYING | {"scope": "Device", "capacity": "5"}


def supplies(folder: Path, *those: dict[str, str]) -> Path:
    for number, files in enumerate(those):
        (folder / f"S{number}").mkdir()
        for name, text in files.items():
            (folder / f"S{number}" / name).write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("those", "reading"),
    [
        ([], BatteryReading()),
        ([MAINS], BatteryReading()),
        ([MOUSE], BatteryReading()),
        ([MOUSE, MAINS, FULL], BatteryReading(False, 1.0)),
        ([UNPLUGGED, EMPTYING], BatteryReading(True, 0.6)),
        ([EMPTYING], BatteryReading(True, 0.6)),
        ([UNPLUGGED, FULL], BatteryReading(True, 1.0)),  # unplugged a moment ago
        ([MAINS, EMPTYING], BatteryReading(False, 0.6)),  # held below a level, or a weak charger
        ([FULL | {"present": "0"}], BatteryReading()),
        ([{"type": "USB", "online": "1"}, EMPTYING], BatteryReading(False, 0.6)),
        ([UNPLUGGED, {"type": "Battery"}], BatteryReading(True, None)),
        ([UNPLUGGED, EMPTYING | {"type": "UPS"}], BatteryReading(True, 0.6)),
    ],
)
def test_the_power_supplies_say_where_power_comes_from(
    tmp_path: Path, those: list[dict[str, str]], reading: BatteryReading
) -> None:
    assert KernelBattery(supplies(tmp_path, *those)).read() == reading


def test_a_machine_without_power_supplies_has_no_battery(tmp_path: Path) -> None:
    assert KernelBattery(tmp_path / "nothing").read() == BatteryReading()
    assert str(BatteryReading()) == "no battery"


def test_the_fake_is_plugged_in_and_out() -> None:
    battery = FakeBattery()
    battery.unplug()
    assert str(battery.read()) == "on battery, 90% charged"
    battery.plug_in()
    assert str(battery.read()) == "plugged in, 90% charged"
