"""What others use of the processors is all that runs, less this peer's own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paris_p2p.sensors.load import KernelLoad, ProcessorTimes, others_share, processor_times

START = ProcessorTimes(busy_s=100.0, own_s=40.0, read_s=10.0, cores=4)


@pytest.mark.parametrize(
    ("busy_s", "own_s", "share"),
    [
        (120.0, 60.0, 0.0),  # all of it was ours
        (120.0, 40.0, 0.5),  # none of it was
        (110.0, 45.0, 0.125),
        (110.0, 55.0, 0.0),  # the counts are not read at one moment
        (200.0, 40.0, 1.0),
        (110.0, 20.0, 0.25),  # a process of ours is in no count
    ],
)
def test_ours_is_not_others(busy_s: float, own_s: float, share: float) -> None:
    assert others_share(START, ProcessorTimes(busy_s, own_s, read_s=20.0, cores=4)) == share


def test_a_load_is_between_two_readings_that_are_apart() -> None:
    readings = [START, ProcessorTimes(101.0, 40.0, 10.1, 4), ProcessorTimes(120.0, 40.0, 20.0, 4)]
    load = KernelLoad(lambda: readings.pop(0))
    assert [load.read() for _ in range(3)] == [None, None, 0.5]


def test_the_work_of_a_child_that_has_ended_is_ours() -> None:
    before = processor_times()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    after = processor_times()
    assert after.own_s - before.own_s > 0.04
    assert after.busy_s > before.busy_s
    assert after.cores >= 1
