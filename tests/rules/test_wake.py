"""Time that passed without this process, and a clock that was set, are told from each other."""

from __future__ import annotations

import pytest

from paris_p2p.rules.wake import Clocks, gap_between

from .made import NOW


def words(boot_s: float, wall_s: float) -> str:
    return str(gap_between(Clocks(100.0, NOW), Clocks(100.0 + boot_s, NOW + wall_s), 2.0) or "")


def test_a_busy_machine_is_not_asleep() -> None:
    assert words(2.0, 2.0) == words(14.0, 14.5) == ""


def test_a_stopped_process_says_for_how_long() -> None:
    assert (
        words(47.0, 47.0) == "this peer stood still for 45 s (the machine slept, or the process was stopped)"
    )


@pytest.mark.parametrize(("set_s", "way"), [(3600.0, "forward by 3600 s"), (-90.0, "back by 90 s")])
def test_a_clock_that_was_set_is_told_with_what_it_means(set_s: float, way: str) -> None:
    told = words(2.0, 2.0 + set_s)
    assert f"clock was set {way}" in told
    assert "NTP" in told
    assert "stood still" not in told
