"""What training costs in energy on this machine, by its own word: read from the GPU's meter, and estimated
for processors. It is shown beside receipts and apart from them, since nobody attests it.

    runs/<run>/energy.json   what was used so far
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from paris_p2p.disk import explained, write_atomic
from paris_p2p.errors import StoreError
from paris_p2p.node.energy_note import ENERGY_FILE, EnergyUsed, kept_energy
from paris_p2p.node.run_node import RunNode
from paris_p2p.node.status import TrainingStatus
from paris_p2p.sensors.gpu import GpuSensor, Nvml, visible
from paris_p2p.swarm.asking import end_tasks

log = logging.getLogger(__name__)
WATTS_A_CORE = 8.0  # of a busy one, beyond what the machine takes anyway; machines differ by half to double
_LOOK_S = 30.0
_KEEP_EVERY = 10  # looks


class EnergyMeter:
    """Adds up what is used while this peer trains; what is read is an argument for tests."""

    def __init__(
        self,
        folder: Path,
        training: Callable[[], TrainingStatus | None],
        *,
        gpus: GpuSensor,
        processors: Callable[[], Mapping[int, float]],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self._training, self._gpus = folder, training, gpus
        self._processors, self._clock = processors, clock
        self.used = kept_energy(folder) or EnergyUsed(since_s=time.time())
        self._before: tuple[float, Mapping[int, float], float | None] | None = None

    async def run(self) -> None:
        """Looks again and again until cancelled, and keeps what was used."""
        looks = 0
        try:
            while True:
                await asyncio.to_thread(self.look)
                looks += 1
                if looks % _KEEP_EVERY == 0:
                    await asyncio.to_thread(self.keep)
                await asyncio.sleep(_LOOK_S)
        finally:
            self.keep()

    def look(self) -> None:
        """Adds what was used since the last look, where this peer trained then and trains now."""
        training = self._training()
        if training is None or not training.device:
            self._before = None
            return
        now = self._clock(), self._processors(), self._gpu_j(training.device)
        before, self._before = self._before, now
        if before is None:
            return
        busy_s = sum(max(0.0, spent - before[1].get(pid, 0.0)) for pid, spent in now[1].items())
        gpu_j = 0.0 if now[2] is None or before[2] is None else max(0.0, now[2] - before[2])
        self.used = EnergyUsed(
            since_s=self.used.since_s,
            trained_s=self.used.trained_s + now[0] - before[0],
            gpu_j=self.used.gpu_j + gpu_j,
            processor_estimate_j=self.used.processor_estimate_j + busy_s * WATTS_A_CORE,
        )

    def keep(self) -> None:
        """Writes what was used; a full disk is said in the log."""
        if not self.used.trained_s:
            return
        try:
            with explained(self.folder):
                write_atomic(self.folder / ENERGY_FILE, self.used.model_dump_json(), durable=False)
        except StoreError as error:
            log.info("the energy that was used is not kept: %s", error)

    def _gpu_j(self, device: str) -> float | None:
        """Returns the energy meter of the GPU that trains; None without one, or where it has none."""
        kind, _, number = device.partition(":")
        if kind != "cuda":
            return None
        gpus = self._gpus.read().gpus
        places = visible([one.uuid for one in gpus], os.environ.get("CUDA_VISIBLE_DEVICES"))
        place = int(number) if number.isdecimal() else 0
        return gpus[places[place]].energy_j if place < len(places) else None


def processor_seconds() -> dict[int, float]:
    """Returns the processor seconds of this process and each that it started, by process id."""
    me = psutil.Process()
    spent = {}
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent[process.pid] = times.user + times.system
    return spent


@asynccontextmanager
async def metering(node: RunNode, training: Callable[[], TrainingStatus | None]) -> AsyncIterator[None]:
    """Adds up what training uses while the block lasts."""
    meter = EnergyMeter(node.spec_file.parent, training, gpus=Nvml(), processors=processor_seconds)
    task = asyncio.create_task(meter.run())
    try:
        yield
    finally:
        await end_tasks([task])
