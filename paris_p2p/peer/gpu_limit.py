"""Limits the power of the GPU that trains by its driver, where this process may, and puts the limit back.

The limit from before is kept in a file, so that a peer that was killed leaves nothing behind for long.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from paris_p2p.disk import write_atomic
from paris_p2p.errors import DeviceError
from paris_p2p.sensors.gpu import GpuSensor

log = logging.getLogger(__name__)
LIMIT_FILE = "gpu-limit.json"


class GpuLimit:
    """One GPU's limit over its life."""

    def __init__(self, data_dir: Path, sensor: GpuSensor, say: Callable[[str], None]):
        self.path, self.sensor, self.say = data_dir / LIMIT_FILE, sensor, say
        self._asked = ("", 0.0)  # GPU and watts, as of the last try
        self._is_kept = False
        self._before: tuple[str, float] | None = None  # GPU and watts, to be put back

    def keep(self, uuid: str, watts: float) -> bool:
        """Has the driver keep the limit, and returns whether it does; a refusal is said once."""
        if (uuid, watts) == self._asked:
            return self._is_kept
        if self._is_kept:
            self.put_back()
        self._asked, self._is_kept = (uuid, watts), False
        if not uuid or not watts:
            return False
        try:
            before = self.sensor.limit_power(uuid, watts)
        except DeviceError as error:
            self.say(f"{error}; the trainer works a part of the time instead")
            return False
        left = self._left_behind()
        if left is not None and left[0] == uuid:  # it could not be put back: what is there now is ours
            before = left[1]
        self._is_kept, self._before = True, (uuid, before)
        with suppress(OSError):
            write_atomic(self.path, json.dumps({"uuid": uuid, "watts": before}))
        self.say(f"the GPU is limited to {watts:.0f} W, and to {before:.0f} W again when this peer ends")
        return True

    def put_back(self) -> None:
        """Puts back the limit that was there before, also one that an earlier peer left."""
        self._asked, self._is_kept = ("", 0.0), False
        left, self._before = self._before or self._left_behind(), None
        if left is None:
            return
        try:
            self.sensor.limit_power(*left)
        except DeviceError as error:
            log.warning("the limit of %.0f W is not put back: %s", left[1], error)
            return
        with suppress(OSError):
            self.path.unlink()

    def _left_behind(self) -> tuple[str, float] | None:
        """Returns what an earlier peer was to put back, if it was killed before."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return str(kept["uuid"]), float(kept["watts"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s); the GPU's limit stays", self.path, error)
            return None
