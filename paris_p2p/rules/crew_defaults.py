"""Chooses how a run's crews send their updates where its owner says no numbers (docs/science.md, "Crews")."""

from __future__ import annotations

from paris_p2p.crew_records import CrewSpec


def default_crew(peers: int) -> CrewSpec:
    """Returns the numbers of crews of at most `peers`, 2 to 64.

    Dense rounds with Nesterov's momentum are DiLoCo's (Douillard et al. 2023, arXiv 2311.08105: rate 0.7,
    momentum 0.9), in 2 bits an entry with what is not sent kept for the next update.
    """
    return CrewSpec(peers=peers)
