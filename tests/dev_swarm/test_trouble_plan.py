"""The plan of troubles: the same wishes give the same plan, and no peer is struck twice at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.dev_swarm.trouble_plan import (
    AWAY_S,
    LASTS_CLAIMS,
    RECOVERY_S,
    SwarmWishes,
    slow_peers,
    trouble_plan,
)

TWELVE = SwarmWishes(
    peers=12, length_s=1200.0, claim_s=20.0, seed=7, kill_every_s=20.0, pause_every_s=60.0, cut_every_s=90.0
)


def test_the_same_wishes_give_the_same_plan_and_another_seed_another() -> None:
    assert trouble_plan(TWELVE) == trouble_plan(replace(TWELVE))
    assert trouble_plan(TWELVE) != trouble_plan(replace(TWELVE, seed=8))


def test_twelve_peers_over_twenty_minutes_get_about_what_was_asked_for() -> None:
    kinds = [one.kind for one in trouble_plan(TWELVE)]
    assert 57 <= kinds.count("kill") <= 60
    assert 17 <= kinds.count("pause") <= 20
    assert 11 <= kinds.count("cut") <= 13
    assert {one.peer for one in trouble_plan(TWELVE)} == set(range(12))


def test_a_pause_is_longer_than_a_claim_and_no_trouble_outlasts_the_end() -> None:
    for one in trouble_plan(TWELVE):
        assert one.ends_s <= TWELVE.length_s
        low, high = AWAY_S if one.kind == "kill" else (20.0 * claims for claims in LASTS_CLAIMS[one.kind])
        assert low <= one.lasts_s <= high
        if one.kind == "pause":
            assert one.lasts_s > TWELVE.claim_s


@given(
    peers=st.integers(1, 20),
    seed=st.integers(0, 1000),
    every=st.tuples(*[st.floats(0.0, 100.0)] * 3),
    claim_s=st.floats(2.0, 120.0),
)
def test_troubles_come_in_order_and_leave_each_peer_time_to_recover(
    peers: int, seed: int, every: tuple[float, float, float], claim_s: float
) -> None:
    kill, pause, cut = (0.0 if one < 5.0 else one for one in every)
    troubles = trouble_plan(
        SwarmWishes(peers, 300.0, claim_s, seed, kill_every_s=kill, pause_every_s=pause, cut_every_s=cut)
    )
    assert list(troubles) == sorted(troubles, key=lambda one: one.at_s)
    free_s = dict.fromkeys(range(peers), 0.0)
    for one in troubles:
        assert one.at_s >= free_s[one.peer]
        free_s[one.peer] = one.ends_s + RECOVERY_S


def test_a_quiet_swarm_has_no_troubles() -> None:
    assert trouble_plan(SwarmWishes(peers=5, length_s=600.0, claim_s=20.0)) == ()


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 2), (1.0, 12)])
def test_a_share_of_the_peers_is_slow(share: float, count: int) -> None:
    slow = slow_peers(replace(TWELVE, slow_share=share))
    assert len(slow) == count
    assert slow <= set(range(12))
