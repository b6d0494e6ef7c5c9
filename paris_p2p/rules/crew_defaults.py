"""Chooses how a run's crews send their updates where its owner says no numbers (docs/science.md, "Crews")."""

from __future__ import annotations

from typing import Final

from paris_p2p.crew_records import CrewSpec
from paris_p2p.rules.update_sizes import bits_an_entry
from paris_p2p.spec import TimingSpec

HOME_BITS_PER_S: Final = 10e6  # of a home line, up
LINE_SHARE: Final = 0.2  # of a checkpoint interval, that its peers may take to give each other their updates
UPDATE_STEP: Final = 2.0  # in root mean squares of a chunk
MOST_PARTS: Final = 16
FEW_STEPS_PARTS: Final = 4  # from which on a chunk moves so rarely that less momentum is better
LEAST_STEPS_OF_A_CHUNK: Final = 50  # outer steps that a chunk should see in a run


def default_crew(
    peers: int, parameters: int = 0, checkpoint_s: float = TimingSpec().checkpoint_s, rounds: int = 0
) -> CrewSpec:
    """Returns the numbers of crews of at most `peers`, 2 to 64, for slots of so many parameters.

    `rounds` is how many are to come; 0: nobody knows, and many.

    An update says every entry in whole steps of two root mean squares of its chunk, which takes about one bit
    an entry, 33 times less than float32, and cost next to nothing in loss; what it does not say goes into the
    next one. A round moves all chunks. Where a full crew on lines of 10 Mbit/s would take more than a fifth
    of a checkpoint interval until each has every other's update, it is one chunk in 2, 4, 8 or 16: that costs
    less loss than steps which are as much coarser. A chunk then takes a step more rarely, so a run of few
    rounds gets no more parts than leave each chunk LEAST_STEPS_OF_A_CHUNK.

    The outer step is Nesterov's over averaged differences (DiLoCo, Douillard et al. 2023, arXiv 2311.08105)
    with less momentum than DiLoCo's 0.9 at a rate of 0.7: with what a round's delay and whole steps leave
    behind, that came out worse and learned more slowly at the beginning, and chunks that move in every fourth
    round only did best with less still.
    """
    most = MOST_PARTS if not rounds else min(MOST_PARTS, rounds // LEAST_STEPS_OF_A_CHUNK)
    room_bits = LINE_SHARE * checkpoint_s * HOME_BITS_PER_S
    bits = (peers - 1) * parameters * bits_an_entry(UPDATE_STEP)
    parts = 1
    while parts * 2 <= most and bits / parts > room_bits:
        parts *= 2
    rate, momentum = (1.0, 0.6) if parts >= FEW_STEPS_PARTS else (0.9, 0.8)
    return CrewSpec(peers=peers, step=UPDATE_STEP, parts=parts, outer_rate=rate, momentum=momentum)
