"""Whether this process stood still, or the clock was set, between two looks at the clocks: a pure
function.
"""

from __future__ import annotations

from dataclasses import dataclass

from paris_p2p.rules.heard import CLOCK_SLACK_S

STILL_S = 15.0  # a busy machine lets a loop wait for less


@dataclass(frozen=True)
class Clocks:
    """Two clocks at one moment: seconds since the machine started, its sleep included, and Unix time."""

    boot_s: float
    wall_s: float


@dataclass(frozen=True)
class Gap:
    """What happened between two looks: how long nothing ran, and how far the clock was set (negative:
    back).
    """

    still_s: float = 0.0
    set_s: float = 0.0

    def __str__(self) -> str:
        words = []
        if self.still_s:
            words.append(
                f"this peer stood still for {self.still_s:.0f} s (the machine slept, "
                "or the process was stopped)"
            )
        if self.set_s:
            way = "forward" if self.set_s > 0 else "back"
            words.append(
                f"this machine's clock was set {way} by {abs(self.set_s):.0f} s; "
                f"others believe no record that is more than {CLOCK_SLACK_S:.0f} s ahead: "
                "let NTP keep the clock"
            )
        return "; ".join(words)


def gap_between(before: Clocks, after: Clocks, meant_s: float) -> Gap | None:
    """Returns what happened between two looks; None when the time between them was what was meant, and both
    clocks say so.
    """
    passed_s = after.boot_s - before.boot_s
    still_s, set_s = passed_s - meant_s, after.wall_s - before.wall_s - passed_s
    gap = Gap(still_s if still_s > STILL_S else 0.0, set_s if abs(set_s) > CLOCK_SLACK_S else 0.0)
    return gap if gap.still_s or gap.set_s else None
