"""Fifty honest and fifty lying peers around a run's slots: every slot's tip goes on, and readers come to
agree.
"""

from __future__ import annotations

from pathlib import Path

from tests.node.claims_world import ClaimsWorld, longest_gap_s, made_world
from tests.peer.world import World


def world(root: Path, honest: int, liars: int) -> ClaimsWorld:
    return made_world(
        lambda gate, timing: World(root, experts=2, gate=gate, timing=timing).run, honest=honest, liars=liars
    )


def test_with_as_many_liars_as_honest_peers_every_slots_tip_goes_on(tmp_path: Path) -> None:
    # backdated claims, squatters, some that release and come back, some with many keys
    swarm = world(tmp_path, 50, 50)
    patience_s = swarm.readers[0].board.hearing.heard("router").patience_s
    start_s = swarm.now
    swarm.run(int(7 * patience_s))
    for slot in swarm.spec.slots:
        assert swarm.tips[slot]
        assert longest_gap_s(swarm.tips[slot], start_s, swarm.now) < 5 * patience_s
        for reader in swarm.readers:
            swarm.now += reader.late_s
            swarm._deliver_to(reader)
        # two of them came after most claims had been made
        tips = [reader.board.tip(slot) for reader in swarm.readers]
        assert len({tip.card.id for tip in tips if tip is not None}) == 1
    honest = world(tmp_path / "honest", 50, 0)
    honest.run(int(7 * patience_s))
    late = [
        sum(at > start_s + 4 * patience_s for tips in one.tips.values() for at in tips)
        for one in (swarm, honest)
    ]
    assert late[0] > late[1] / 2  # once the liars' first claims are used up, most tips come as without them
    assert swarm.doubled_s < 0.2 * 3 * 7 * patience_s


def test_without_liars_no_slot_is_ever_trained_twice(tmp_path: Path) -> None:
    swarm = world(tmp_path, 12, 0)  # one of them four times as slow as the others
    swarm.run(1500)
    assert swarm.doubled_s == 0.0
    assert all(len(tips) > 20 for tips in swarm.tips.values())
