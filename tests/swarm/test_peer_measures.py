"""Distances and rates of peers: the quickest of late answers, a smoothed rate, and a bound on both."""

from __future__ import annotations

from paris_p2p.swarm.peer_measures import PeerMeasure, PeerMeasures


def test_a_distance_is_the_quickest_of_the_last_answers() -> None:
    measures = PeerMeasures()
    for after_s in (0.5, 0.02, 0.9):
        measures.answered("near", after_s)
    assert measures.of("near").distance_s == 0.02
    for _ in range(8):  # it moved away
        measures.answered("near", 0.3)
    assert measures.of("near").distance_s == 0.3


def test_a_rate_follows_what_came_and_little_says_nothing() -> None:
    measures = PeerMeasures()
    measures.brought("fast", 100, 0.001)
    measures.brought("fast", 10**6, 0.0)
    assert measures.of("fast") == PeerMeasure()
    measures.brought("fast", 10**6, 1.0)
    assert measures.of("fast").bytes_per_s == 10**6
    for _ in range(30):
        measures.brought("fast", 10**7, 1.0)
    assert 9.9e6 < (measures.of("fast").bytes_per_s or 0) <= 1e7


def test_peers_without_number_fill_no_memory() -> None:
    measures = PeerMeasures()
    for number in range(5000):
        measures.answered(f"peer {number}", 0.1)
        measures.brought(f"peer {number}", 10**6, 1.0)
    known = [number for number in range(5000) if measures.of(f"peer {number}") != PeerMeasure()]
    assert known == list(range(5000 - 1024, 5000))
