"""Energy is counted while a peer trains, by the GPU's meter and an estimate for processors, over restarts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paris_p2p.node.energy_note import EnergyUsed, kept_energy
from paris_p2p.node.status import TrainingStatus
from paris_p2p.peer.energy import WATTS_A_CORE, EnergyMeter, processor_seconds
from paris_p2p.sensors.gpu import GpuReading, GpuReport


class Machine:
    """A machine whose meters stand where a test puts them."""

    def __init__(self) -> None:
        self.training: TrainingStatus | None = TrainingStatus(slot="router", epoch=1, device="cuda:1")
        self.now_s, self.spent = 0.0, {1: 5.0}
        one = GpuReading(0, "GPU-0", "a", 1, 1, energy_j=7e6)
        self.gpus = [one, replace(one, index=1, uuid="GPU-1", energy_j=1000.0)]

    def read(self) -> GpuReport:
        return GpuReport(tuple(self.gpus))

    def limit_power(self, uuid: str, watts: float) -> float:
        raise NotImplementedError

    def meter(self, folder: Path) -> EnergyMeter:
        return EnergyMeter(
            folder,
            lambda: self.training,
            gpus=self,
            processors=lambda: dict(self.spent),
            clock=lambda: self.now_s,
        )

    def later(self, seconds: float, spent: dict[int, float], energy_j: float | None) -> None:
        self.now_s, self.spent = self.now_s + seconds, spent
        self.gpus[1] = replace(self.gpus[1], energy_j=energy_j)


def test_what_training_uses_adds_up_over_restarts_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine = Machine()
    meter = machine.meter(tmp_path)
    meter.look()
    machine.later(30, {1: 6.0, 2: 20.0}, 4000.0)  # a new process: all that it spent
    meter.look()
    assert (meter.used.trained_s, meter.used.gpu_j) == (30.0, 3000.0)
    assert meter.used.processor_estimate_j == 21.0 * WATTS_A_CORE
    machine.training = None
    machine.later(3600, {1: 7.0}, 9e5)
    meter.look()
    machine.training = TrainingStatus(slot="router", epoch=1, device="cuda:1")
    meter.look()
    assert meter.used.gpu_j == 3000.0  # while it did not train, it was others'
    meter.keep()
    again = machine.meter(tmp_path)
    again.look()
    machine.later(10, {1: 7.5}, None)  # the driver went away
    again.look()
    machine.later(10, {1: 7.5}, 10.0)  # and counts from nothing
    again.look()
    assert (again.used.trained_s, again.used.gpu_j) == (50.0, 3000.0)
    machine.training = TrainingStatus(slot="router", epoch=1, device="cpu")
    again.look()
    machine.later(10, {1: 17.5}, 1e9)
    again.look()
    assert again.used.gpu_j == 3000.0


def test_its_words_part_what_is_measured_from_what_is_estimated(tmp_path: Path) -> None:
    both = EnergyUsed(trained_s=7200.0, gpu_j=3.6e6, processor_estimate_j=3.6e5)
    assert both.words().endswith(
        "2 h of training took 1 kWh by its GPU's meter, and about 0.1 kWh of its processors, an estimate"
    )
    assert "GPU" not in EnergyUsed(trained_s=7200.0, processor_estimate_j=3.6e5).words()
    assert kept_energy(tmp_path) is None
    (tmp_path / "energy.json").write_text('{"gpu_j": -1}')
    assert kept_energy(tmp_path) is None


def test_processor_seconds_are_read_of_this_process() -> None:
    assert max(processor_seconds().values()) > 0
