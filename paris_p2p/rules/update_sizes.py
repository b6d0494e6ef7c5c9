"""How many bytes an update takes by how coarse its steps are, and how coarse one is that fits a line."""

from __future__ import annotations

from bisect import bisect
from itertools import pairwise
from math import exp, log
from typing import Final

from paris_p2p.crew_records import MOST_STEP, CrewSpec

UPLOAD_SHARE: Final = 0.5  # of a round: what an update's upload may take of it
COARSER: Final = 1.5  # times the run's step, again and again, for a line that is too slow for it
# Bits an entry by the step in root mean squares of a chunk, as updates of small video networks took in rounds
# 5 to 40 and over whole runs, the larger of both. A real one may take a tenth more or less, at coarse steps
# half as much or twice as much: what sticks out of a chunk decides there. A chunk's longest entry is always
# said, so chunks of entries that are nearly alike take about a bit an entry at any step.
BITS_BY_STEP: Final = (
    (0.25, 3.8),
    (0.5, 2.85),
    (1.0, 1.9),
    (1.5, 1.35),
    (2.0, 0.97),
    (3.0, 0.5),
    (4.0, 0.27),
    (6.0, 0.12),
    (8.0, 0.09),
)


def bits_an_entry(step: float) -> float:
    """Returns about how many bits an entry takes, for a step from 0.25 to 8, between the table's rows along
    a power of it.
    """
    place = min(max(1, bisect([at for at, _ in BITS_BY_STEP], step)), len(BITS_BY_STEP) - 1)
    (low, more), (high, less) = list(pairwise(BITS_BY_STEP))[place - 1]
    share = log(step / low) / log(high / low)
    return exp((1 - share) * log(more) + share * log(less))


def expected_bytes(crew: CrewSpec, parameters: int, step: float) -> float:
    """Returns about how many bytes an update of this step takes, of a network of so many parameters."""
    return parameters / crew.parts * bits_an_entry(step) / 8


def step_for_line(crew: CrewSpec, round_s: float, upload_bytes_per_s: float, parameters: int) -> float:
    """Returns which step a member's update has, so that its upload fits its line.

    It is the finest of the run's, 1.5 times that, 2.25 times and so on, at most 8, whose upload should take
    at most UPLOAD_SHARE of a round; the coarsest where none does; the run's own where the line was not
    measured yet.
    """
    step, room_bytes = crew.step, UPLOAD_SHARE * round_s * upload_bytes_per_s
    if upload_bytes_per_s <= 0:
        return step
    while expected_bytes(crew, parameters, step) > room_bytes and step * COARSER <= MOST_STEP:
        step *= COARSER
    return step
