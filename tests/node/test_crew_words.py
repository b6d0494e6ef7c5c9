"""What `status` says of a crew in words (node/crew_status.py)."""

from __future__ import annotations

import pytest

from paris_p2p.node.crew_status import CrewPeerStatus, CrewStatus

LEAD, WORKER, GONE = ("12D3KooW" + letter * 44 for letter in "ABC")


def crew(*works: bool, rounds: int = 0, round_s: float = 0.0) -> CrewStatus:
    peers = tuple(
        CrewPeerStatus(peer=peer, works=one) for peer, one in zip((LEAD, WORKER, GONE), works, strict=False)
    )
    return CrewStatus(peers=peers, rounds=rounds, round_s=round_s)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (crew(True), ""),
        (crew(True, True), "2 peers train it; its tip is of the lead alone, without rounds"),
        (
            crew(True, True, rounds=1, round_s=240),
            "2 peers train it in rounds of 240 s; 1 round since its full weights",
        ),
        (
            crew(True, False, rounds=2, round_s=240),
            "1 peer trains it in rounds of 240 s; 2 rounds since its full weights",
        ),
        (crew(False, False, rounds=2, round_s=240), "nobody trains it now; 2 rounds since its full weights"),
    ],
    ids=["alone", "before the first round", "one round", "one left", "nobody left"],
)
def test_a_crew_is_said_in_words_that_fit_its_numbers(status: CrewStatus, words: str) -> None:
    assert status.words() == words
