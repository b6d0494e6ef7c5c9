"""Where ParisPipeline computes: with its experts on one device, or with seats for some of them on a GPU.

diffusers offloads whole components, or their layers one by one, by hooks of `accelerate`. Here the experts
are what is large, and the router says which of them are needed, so seats are given to experts.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from diffusers import DiffusionPipeline

from paris_p2p.device import Device, pick_device
from paris_p2p.errors import UsageError
from paris_p2p.flow.ddpm import Clamp
from paris_p2p.generation.routed import ExpertSeats, compute_type, seats_for


class SeatedPipeline(DiffusionPipeline):
    """A pipeline with the components `experts` and `router`."""

    _offload: tuple[Device, int] | None = None  # where to compute, with so many seats
    _spares = False  # text encoder and codec are let go after each use

    def to(self, *arguments: Any, **options: Any) -> Self:
        """Moves experts and router to a device, which ends an offload, and casts the experts to a type; the
        router stays in float32.
        """
        moved: Self = super().to(*arguments, **options)
        if any(not isinstance(each, torch.dtype) for each in arguments) or options.get("device") is not None:
            self._offload, self._spares = None, False
        return moved

    def enable_model_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Computes on a GPU that holds as many experts at once as half of its free memory takes; the others
        wait in main memory, and text encoder and codec come when they are needed. DeviceError without a GPU.
        """
        chosen = _offload_device(gpu_id, device)
        seats = min(self.experts.total, seats_for(self.experts.config["expert"], chosen))
        self._offload_to(chosen, seats, spares=True)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Computes on a GPU that holds one expert at a time; DeviceError without a GPU."""
        self._offload_to(_offload_device(gpu_id, device), 1, spares=True)

    def enable_expert_offload(self, device: str = "auto", seats: int = 1) -> None:
        """Computes on `device` with at most `seats` experts there at once; the others wait in main memory
        until they are routed to.
        """
        self._offload_to(pick_device(device), seats, spares=False)

    def remove_all_hooks(self) -> None:
        """Ends an offload: what is computed next is computed where the experts are."""
        self._offload, self._spares = None, False
        if self.router is not None:
            self.router.to(self.experts.device)

    def computing_device(self) -> Device:
        """Returns the device that clips are computed on."""
        return self._offload[0] if self._offload is not None else pick_device(str(self.experts.device))

    def seats(self, device: Device) -> ExpertSeats:
        """Returns the experts as a pool on the device, sharing memory where they are there already."""
        experts, config = self.experts, self.experts.config
        dtype = compute_type(experts.dtype, device)
        shared = dtype == experts.dtype and device.torch == experts.device
        fitting = experts.total if shared else min(experts.total, seats_for(config["expert"], device))
        return ExpertSeats(
            config["expert"],
            experts.state,
            device,
            fitting if self._offload is None else self._offload[1],
            config["ddpm"],
            Clamp(config["clamp_x0"], config["clamp_alpha"]),
            dtype,
        )

    def older_seats(self, older: SeatedPipeline, device: Device) -> ExpertSeats:
        """Returns the experts of an older pipeline of the run as a pool on the device.

        UsageError when it is of another run, lacks an expert, or is not older where both say how far they are
        trained.
        """
        run, own = older.config.get("run"), self.config.get("run")
        if run != own or older.experts.config["expert"] != self.experts.config["expert"]:
            raise UsageError(
                f"autoguide is of run {str(run)[:16]}…, the pipeline of {str(own)[:16]}…; give an earlier "
                "export of the same run"
            )
        then, now = older.config.get("trained", {}), self.config.get("trained", {})
        for k in self.experts.present:
            slot = f"expert-{k}"
            steps, own_steps = (each.get(slot, {}).get("steps") for each in (then, now))
            if k not in older.experts.present:
                raise UsageError(f"autoguide has no weights of {slot}; give an export that has all experts")
            if steps is not None and own_steps is not None and steps >= own_steps:
                raise UsageError(
                    f"{slot} of autoguide has {steps:,} steps, the pipeline's {own_steps:,}: it is not "
                    "older; give an earlier export"
                )
        return older.seats(device)

    def _offload_to(self, device: Device, seats: int, *, spares: bool) -> None:
        self._offload, self._spares = (device, seats), spares
        if self.router is not None:
            self.router.to(device.torch)


def _offload_device(gpu_id: int | None, device: torch.device | str | None) -> Device:
    if device is None:
        return pick_device(f"cuda:{gpu_id or 0}")
    return pick_device(str(device) if gpu_id is None else f"{torch.device(device).type}:{gpu_id}")
