"""Which share of the time a trainer may run, so that its GPU keeps within a limit of power and of heat.

With a process that runs for a share s of each second and is stopped for the rest, the GPU's mean power is
P_idle + s (P_full - P_idle). One measured mean and the idle power give the share that meets the limit; half
of the way there is gone at each look, as the mean lags behind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MIN_SHARE = 0.1
_NEAR_C = 3.0  # below the limit of heat: from here on the share does not grow
_COOLER, _WARMER = 0.8, 1.1  # factors of a look in heat, and well below it


@dataclass(frozen=True)
class GpuPace:
    """The shares that power and heat allow, and the least power that was seen, in watts."""

    power_share: float = 1.0
    heat_share: float = 1.0
    idle_w: float | None = None

    @property
    def share(self) -> float:
        """Returns the share of the time, MIN_SHARE to 1."""
        return min(self.power_share, self.heat_share)


def paced(
    pace: GpuPace,
    *,
    power_w: float | None,
    max_power_w: float,
    temperature_c: float | None,
    max_temperature_c: float,
) -> GpuPace:
    """Returns the pace after a look; a limit of 0 is none, and what is not told changes nothing."""
    return _by_heat(_by_power(pace, power_w, max_power_w), temperature_c, max_temperature_c)


def _by_power(pace: GpuPace, power_w: float | None, max_w: float) -> GpuPace:
    if not max_w:
        return replace(pace, power_share=1.0)
    if power_w is None:
        return pace
    idle_w = min(power_w, pace.idle_w if pace.idle_w is not None else power_w)
    if power_w - idle_w < 1.0:  # nothing runs, or nothing else was seen yet
        share = pace.power_share if power_w <= max_w else 0.5 * pace.power_share
    else:
        wanted = pace.power_share * max(0.0, max_w - idle_w) / (power_w - idle_w)
        share = 0.5 * (pace.power_share + wanted)
    return replace(pace, power_share=_clamped(share), idle_w=idle_w)


def _by_heat(pace: GpuPace, now_c: float | None, max_c: float) -> GpuPace:
    if not max_c:
        return replace(pace, heat_share=1.0)
    if now_c is None:
        return pace
    factor = _COOLER if now_c >= max_c else 1.0 if now_c > max_c - _NEAR_C else _WARMER
    return replace(pace, heat_share=_clamped(factor * pace.heat_share))


def _clamped(share: float) -> float:
    return min(1.0, max(MIN_SHARE, share))
