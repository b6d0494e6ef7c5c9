"""Which shards a slot had at which notice, as the trainer needs it to go on across a change."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paris_p2p.owner_records import AddClips, AddedShard, AddExpert, AnyChange, DropExpert, Pause
from paris_p2p.records import BlobRef
from paris_p2p.rules.shard_spans import ShardTime, shard_times

from .made_notices import made_run, state_of

RUN = made_run()


def clips(number: int, *clusters: int) -> AddClips:
    return AddClips(
        shards=tuple(
            AddedShard(
                split=split,
                cluster=cluster,
                blob=BlobRef(id=f"{number:062x}{cluster:01x}{place}", size_bytes=5),
                clips=2 + number,
            )
            for cluster in clusters
            for place, split in enumerate(("train", "gate"))
        )
    )


def test_nothing_is_said_of_a_slot_whose_clips_no_notice_changed() -> None:
    assert shard_times(state_of(RUN), "expert-0") == ()
    assert shard_times(state_of(RUN, Pause(), clips(7, 1)), "expert-0") == ()


def test_an_added_shard_comes_after_those_that_were_there_from_its_notice_on() -> None:
    [first, added] = shard_times(state_of(RUN, Pause(), clips(7, 0)), "expert-0")
    assert (first.since, first.until) == (0, 0)
    assert (added.since, added.until, added.shard.clips) == (2, 0, 9)


def test_a_split_takes_the_parents_shards_away_and_gives_both_halves_theirs() -> None:
    state = state_of(RUN, AddExpert(parent=1, child=2, parts=1), clips(7, 1, 2))
    old, new = shard_times(state, "expert-1")
    assert (old.since, old.until) == (0, 2)
    assert (new.since, new.until) == (2, 0)
    assert [one.since for one in shard_times(state, "expert-2")] == [2]
    assert [(one.since, one.until) for one in shard_times(state, "router")] == [
        (0, 0),
        (0, 2),
        (2, 0),
        (2, 0),
    ]


growth = st.lists(
    st.one_of(
        st.builds(clips, st.integers(1, 9), st.sampled_from([0, 1, 2])),
        st.builds(AddExpert, parent=st.integers(0, 2), child=st.just(2), parts=st.integers(1, 2)),
        st.builds(DropExpert, expert=st.integers(0, 2), parts=st.integers(0, 1)),
        st.builds(clips, st.integers(10, 19), st.just(0), st.just(1), st.just(2)),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(growth)
def test_at_every_notice_the_spans_are_the_shards_that_the_run_had_in_their_order(
    changes: list[AnyChange],
) -> None:
    state = state_of(RUN, *changes)
    for slot in (*state.spec.slots, "router"):
        times = shard_times(state, slot)
        for number in range(state.number + 1):
            expected = state.spec_at(number).shards_for(slot, "train")
            assert not times or tuple(_at(times, number)) == expected
        assert times or state.spec.shards_for(slot, "train") == state.signed.shards_for(slot, "train")


def _at(times: tuple[ShardTime, ...], number: int) -> list[object]:
    return [one.shard for one in times if one.since <= number and not 0 < one.until <= number]
