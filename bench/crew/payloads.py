"""Computes what updates weigh and how long they take on home lines, for networks from 129 M to 11.9 B.

Nothing is measured here: an update's size is what updates of its step took so far (rules/update_sizes.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from paris_p2p.crew_records import CrewSpec
from paris_p2p.rules.update_sizes import expected_bytes

NETWORKS = {"129 M": 128_400_000, "605 M": 603_500_000, "1.3 B": 1_300_000_000, "11.9 B": 11_890_000_000}
LINES_MBIT = (5, 20, 100)
STEPS_A_ROUND = 250  # at most, by the rule of a round's length


@dataclass(frozen=True)
class Setting:
    """Says how an update is coded."""

    title: str
    step: float = 2.0
    parts: int = 1

    def size_bytes(self, parameters: int) -> float:
        """Returns about how many bytes an update has."""
        return expected_bytes(CrewSpec(step=self.step, parts=self.parts), parameters, self.step)


SETTINGS = (
    Setting("steps of 1", step=1.0),
    Setting("steps of 1.5", step=1.5),
    Setting("steps of 2"),
    Setting("steps of 3", step=3.0),
    Setting("steps of 2, one chunk in 2 a round", parts=2),
    Setting("one in 4", parts=4),
    Setting("one in 8", parts=8),
    Setting("one in 16", parts=16),
)


def payload_table() -> list[str]:
    """Returns the table's lines: times less than float32, and megabytes and seconds of one update."""
    names = list(NETWORKS)
    lines = [
        "| an update | times less than float32 | " + " | ".join(names) + " |",
        "|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        cells = []
        for parameters in NETWORKS.values():
            size = setting.size_bytes(parameters)
            seconds = " / ".join(_short(size * 8 / (line * 1e6)) for line in LINES_MBIT)
            cells.append(f"{_short(size / 1e6)} MB: {seconds} s")
        least = 4 * NETWORKS["605 M"] / setting.size_bytes(NETWORKS["605 M"])
        lines.append(f"| {setting.title} | {least:.1f} | " + " | ".join(cells) + " |")
    return lines


def against_gradients(setting: Setting, steps: int, parameters: int = NETWORKS["605 M"]) -> float:
    """Returns how many times less a round of `steps` sends than bfloat16 gradients at every step."""
    return 2 * parameters * steps / setting.size_bytes(parameters)


def share_of_round(setting: Setting, round_s: float, line_mbit: float, parameters: int) -> float:
    """Returns the share of a round that an update's upload takes."""
    return setting.size_bytes(parameters) * 8 / (line_mbit * 1e6) / round_s


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
