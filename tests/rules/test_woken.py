"""A slot that rests is woken by its owner: by more steps, or more clips of its own."""

from __future__ import annotations

from dataclasses import replace

from paris_p2p.owner_records import AddClips, AddedShard, AnyChange, Extend, Pause, Resume
from paris_p2p.records import BlobRef
from paris_p2p.rules.rates import RESTS
from paris_p2p.rules.rest import rests
from paris_p2p.rules.woken import woken_at_s

from .made import NOW, TIMING, A, D, attest, card, tip
from .made_notices import made_run, state_of

RUN = made_run()


def clips(cluster: int) -> AddClips:
    shard = AddedShard(split="train", cluster=cluster, blob=BlobRef(id="77" * 32, size_bytes=5), clips=2)
    return AddClips(shards=(shard,))


def woken(slot: str, *changes: AnyChange) -> float:
    return woken_at_s(state_of(RUN, *changes), slot) - NOW if changes else woken_at_s(state_of(RUN), slot)


def test_more_steps_wake_all_slots_and_more_clips_those_that_get_them() -> None:
    assert woken("expert-0") == 0
    assert woken("expert-0", Pause(), Extend(total_steps=9), Resume()) == 10.0  # the second notice
    assert woken("expert-0", clips(0), clips(1)) == 0.0
    assert woken("expert-1", clips(0), clips(1)) == 10.0
    assert woken("router", clips(0), clips(1)) == 10.0
    assert woken("expert-1", clips(0), Extend(tolerance=0.1), Extend(checkpoint_s=5.0), Pause()) == -NOW


def test_a_rest_that_began_before_the_owner_asked_for_more_is_over() -> None:
    resting = tip(card(A, lowered=RESTS, issued_at=NOW - 60))
    resting = replace(resting, attestations=(attest(D, resting.card, issued_at=NOW - 50),))
    asked = woken_at_s(state_of(RUN, Extend(total_steps=9)), "expert-0")
    assert rests(resting, NOW + 1, TIMING)
    assert not rests(resting, NOW + 1, TIMING, asked)
