"""Looks after the machine: reads its sensors, counts bytes against budgets, and says when the peer rests.

What follows is decided in rules/care.py and rules/gpu_pace.py; the volunteer carries a rest out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from paris_p2p.node.care_status import BudgetStatus, CareStatus
from paris_p2p.node.run_node import RunNode
from paris_p2p.peer.care_rules import care_rules, sensor_status
from paris_p2p.peer.gpu_limit import GpuLimit
from paris_p2p.peer.kept_changes import KeptChanges
from paris_p2p.peer.pacer import Pacer
from paris_p2p.peer.traffic_book import TrafficBook
from paris_p2p.peer.watch import read_clocks
from paris_p2p.peer_settings import PeerSettings
from paris_p2p.rules.care import CareClocks, CareFacts, CareHistory, Rest, is_used_up, observed, rest_now
from paris_p2p.rules.gpu_pace import GpuPace, paced
from paris_p2p.rules.traffic import Way, day_at, renewed_at_s
from paris_p2p.rules.wake import Clocks
from paris_p2p.sensors.battery import BatteryReading, BatterySensor, KernelBattery
from paris_p2p.sensors.gpu import GpuReading, GpuReport, GpuSensor, Nvml, gpu_of
from paris_p2p.sensors.idle import IdleReading, IdleSensor, MachineIdle
from paris_p2p.sensors.load import KernelLoad, LoadSensor
from paris_p2p.swarm.seam import LineLimits

log = logging.getLogger(__name__)
LOOK_S = 3.0
SELDOM_S = 15.0  # where nothing that may change soon is asked for


@dataclass(frozen=True)
class MachineSensors:
    """What a machine is asked."""

    gpu: GpuSensor = field(default_factory=Nvml)
    battery: BatterySensor = field(default_factory=KernelBattery)
    idle: IdleSensor = field(default_factory=MachineIdle)
    load: LoadSensor = field(default_factory=KernelLoad)
    clocks: Callable[[], CareClocks] = lambda: _clocks_now()


@dataclass(frozen=True)
class Readings:
    """What it told last."""

    gpus: GpuReport = field(default_factory=GpuReport)
    gpu: GpuReading | None = None  # the one that trains
    battery: BatteryReading = field(default_factory=BatteryReading)
    idle: IdleReading = field(default_factory=IdleReading)
    others_share: float | None = None


class Caretaker:
    """Decides for one peer; `rest` is why it rests now, and `changed` is called when that changes."""

    def __init__(
        self,
        node: RunNode,
        kept: KeptChanges,
        say: Callable[[str], None],
        *,
        sensors: MachineSensors | None = None,
        trainer: Callable[[], int | None] = lambda: None,
    ):
        self.node, self.kept, self.say = node, kept, say
        self.sensors = sensors or MachineSensors()
        self.rest: Rest | None = None
        self.changed: Callable[[], None] = lambda: None
        self.last_checkpoint_bytes: Callable[[], int] = lambda: 0
        self.readings, self.facts, self.history = Readings(), CareFacts(), CareHistory()
        self.pace, self.pacer = GpuPace(), Pacer(trainer)
        self.rules = care_rules(kept.settings)
        self.limit = GpuLimit(kept.started.data_dir, self.sensors.gpu, say)
        self.book = TrafficBook(kept.started.data_dir)
        self._trainer, self._line, self._look_now = trainer, LineLimits(), asyncio.Event()

    @property
    def settings(self) -> PeerSettings:
        return self.kept.settings

    def change(self, kept: KeptChanges) -> None:
        """Takes other settings, which decide anew from now on."""
        self.kept, self.rules = kept, care_rules(kept.settings)
        self.history = replace(self.history, reasons=(), since=None, levels={})
        self._look_now.set()

    async def watch(self) -> None:
        """Looks after the machine until cancelled; then the GPU has its own limit again."""
        pacing = asyncio.create_task(self.pacer.run())
        try:
            await asyncio.to_thread(self.limit.put_back)  # of a peer that was killed
            while True:
                try:
                    await self.look()
                except Exception:  # a sensor's fault is no reason for the whole peer to end
                    log.exception("the machine could not be looked after this time; what was decided stands")
                self._look_now.clear()
                try:
                    async with asyncio.timeout(LOOK_S if self._is_watchful else SELDOM_S):
                        await self._look_now.wait()
                except TimeoutError:
                    continue
        finally:
            pacing.cancel()
            await asyncio.gather(pacing, return_exceptions=True)
            self.book.write()
            self.limit.put_back()

    async def look(self) -> None:
        """Reads the sensors once, and decides."""
        self.readings = await asyncio.to_thread(self._read)
        now, transfer = self.sensors.clocks(), self.node.host.swarm.transfer
        if now.boot_s is not None:
            self.book.follow(Clocks(now.boot_s, now.unix_s), self.rules.zone)
        today = day_at(now.unix_s, self.rules.zone)
        self.book.count(today, transfer.uploaded_bytes, transfer.downloaded_bytes, now.monotonic_s)
        self.facts = self._facts()
        self.history = observed(self.rules, self.facts, self.history, now)
        before, self.rest = self.rest, rest_now(self.rules, self.facts, self.history, now)
        self._limit_line(now)
        await self._keep_pace()
        if (self.rest and self.rest.reasons) != (before and before.reasons):
            self.say(f"resting: {self.rest}" if self.rest else "rested enough: training goes on")
            self.changed()

    def status(self) -> CareStatus:
        """Returns what the peer tells of it."""
        rest, settings = self.rest, self.settings
        return CareStatus(
            hours=settings.hours,
            time_zone=settings.time_zone,
            rests=rest is not None,
            reasons=rest.reasons if rest else (),
            why=rest.why if rest else "",
            goes_on=rest.goes_on if rest else "",
            until_s=rest.until_s if rest else None,
            gpu_share=self.pacer.share,
            upload=self._budget("up"),
            download=self._budget("down"),
            sensors=sensor_status(
                self.readings.gpus,
                self.readings.gpu,
                self.readings.battery,
                self.readings.idle,
                self.readings.others_share,
            ),
            settings=self.kept.rows(),
        )

    @property
    def _is_watchful(self) -> bool:
        rules, settings = self.rules, self.settings
        asked = rules.hours, rules.only_idle_s, rules.max_gpu_temp_c, rules.upload, rules.download
        return any(asked) or not rules.on_battery or bool(settings.max_gpu_power_w)

    def _read(self) -> Readings:
        """Reads the sensors, in a thread: a driver or a bus may take its time."""
        gpus = GpuReport() if self.settings.device == "cpu" else self.sensors.gpu.read()
        in_use = bool(self.rules.only_idle_s)
        return Readings(
            gpus,
            gpu_of(gpus, self.settings.device, os.environ.get("CUDA_VISIBLE_DEVICES")),
            self.sensors.battery.read(),
            self.sensors.idle.read() if in_use else IdleReading(),
            self.sensors.load.read() if in_use else None,
        )

    def _facts(self) -> CareFacts:
        told = self.readings
        return CareFacts(
            on_battery=told.battery.on_battery,
            idle_s=told.idle.idle_s,
            why_idle_unknown=told.idle.why_unknown,
            others_share=told.others_share,
            gpu_temp_c=told.gpu.temperature_c if told.gpu else None,
            traffic=self.book.traffic,
            last_checkpoint_bytes=self.last_checkpoint_bytes(),
        )

    def _limit_line(self, now: CareClocks) -> None:
        settings, rules = self.settings, self.rules
        line = LineLimits(
            settings.upload_limit_bytes_per_s,
            settings.download_limit_bytes_per_s,
            is_used_up(rules.upload, "up", self.facts, rules.zone, now.unix_s),
            is_used_up(rules.download, "down", self.facts, rules.zone, now.unix_s),
        )
        if line != self._line:
            self._line = line
            self.node.host.swarm.limit_line(line)

    async def _keep_pace(self) -> None:
        """Has the GPU keep its limits: by its driver where that may be, else by working less."""
        gpu, max_w = self.readings.gpu, self.settings.max_gpu_power_w
        by_driver = await asyncio.to_thread(self.limit.keep, gpu.uuid if gpu else "", max_w)
        if self._trainer() is None:
            return  # what is measured now says nothing of the training
        self.pace = paced(
            self.pace,
            power_w=gpu.power_w if gpu else None,
            max_power_w=0.0 if by_driver else max_w,
            temperature_c=gpu.temperature_c if gpu else None,
            max_temperature_c=self.rules.max_gpu_temp_c,
        )
        self.pacer.share = self.pace.share

    def _budget(self, way: Way) -> BudgetStatus | None:
        rules, now_s = self.rules, self.sensors.clocks().unix_s
        budget = rules.upload if way == "up" else rules.download
        if budget is None:
            return None
        return BudgetStatus(
            budget=str(budget),
            size_bytes=budget.size_bytes,
            used_bytes=self.book.traffic.used_bytes(budget, way, day_at(now_s, rules.zone)),
            renewed_at_s=renewed_at_s(budget, now_s, rules.zone),
        )


def _clocks_now() -> CareClocks:
    now = read_clocks()
    return CareClocks(now.wall_s, time.monotonic(), now.boot_s)
