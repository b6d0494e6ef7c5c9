"""What counts in a crew's round, with which weight, and how long a round is."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.crew_records import MAX_COUNTED, SCALE_ONE, CrewSpec, UpdateRecord
from paris_p2p.records import BlobRef
from paris_p2p.rules.rounds import (
    HeardUpdate,
    choose_updates,
    counted_of,
    goes_full,
    grace_s,
    lateness,
    lengths_for_steps,
    light_way_pays,
    refuse_update,
    round_length_s,
    too_long,
    too_many_steps,
    update_scales,
    weighed_clips,
    weight,
)
from paris_p2p.spec import TimingSpec

CREW, TIMING = CrewSpec(), TimingSpec()
LINEAGE = ("a" * 64, "b" * 64, "c" * 64)


def update(**changes: Any) -> UpdateRecord:
    fields: dict[str, Any] = {
        "run": "1" * 64,
        "slot": "expert-0",
        "seq": 1,
        "issued_at": 1000.0,
        "expires_at": 2000.0,
        "base": LINEAGE[0],
        "blob": BlobRef(id="2" * 64, size_bytes=10),
        "steps": 100,
        "clips": 800,
        "first_clip": 0,
        "train_loss": 1.0,
    }
    return UpdateRecord(**(fields | changes))


def candidate(signer: str, seq: int = 1, heard_s: float = 0.0, **changes: Any) -> HeardUpdate:
    return HeardUpdate(f"{signer}-{seq}", signer, update(seq=seq, **changes), heard_s)


def test_an_update_of_the_last_three_cards_counts_and_an_older_one_is_stale() -> None:
    assert [lateness(base, LINEAGE) for base in (*LINEAGE, "d" * 64)] == [0, 1, 2, None]
    assert refuse_update(update(base="d" * 64), LINEAGE, 0, 8, CREW) == "stale"
    assert refuse_update(update(base=LINEAGE[2]), LINEAGE, 0, 8, CREW) is None


@pytest.mark.parametrize(
    ("changes", "counted", "reason"),
    [
        ({"first_clip": 799}, 800, "counted"),
        ({"first_clip": 800}, 800, None),
        ({"clips": 801}, 0, "rate"),
        ({"steps": 0, "clips": 0}, 0, "rate"),
        ({"steps": 2001, "clips": 16008}, 0, "rate"),
        # up to where it goes no round could say
        ({"first_clip": 2**53 - 800}, 0, "rate"),
        ({"first_clip": 2**53 - 801}, 0, None),
        ({}, None, "full"),
    ],
)
def test_an_update_counts_each_clip_of_its_stream_once_and_a_batch_a_step(
    changes: dict[str, int], counted: int | None, reason: str | None
) -> None:
    assert refuse_update(update(**changes), LINEAGE, counted, 8, CREW) == reason


def test_no_machine_makes_more_than_ten_thousand_steps_a_second() -> None:
    assert not too_many_steps(update(steps=9_999), 999.0)
    assert too_many_steps(update(steps=10_001), 999.0)


def test_as_many_peers_are_counted_as_a_round_can_name() -> None:
    counts = {str(one): 5 for one in range(MAX_COUNTED)}
    assert counted_of(counts, "7") == 5
    assert counted_of(counts, "new") is None
    assert counted_of({}, "new") == 0


def test_of_each_signer_the_first_in_its_stream_counts_in_the_order_of_signers() -> None:
    later, first = candidate("a", 2, first_clip=1600), candidate("a", 1, first_clip=800)
    assert choose_updates([candidate("b"), later, first], (), 8) == (first, candidate("b"))
    more = candidate("a", 3, first_clip=800, steps=200, clips=1600)  # the work of both
    assert choose_updates([first, more, later], (), 8) == (more,)


def test_of_each_signer_what_is_fresh_counts_before_what_is_late() -> None:
    late, fresh = candidate("a", 1, first_clip=800, base=LINEAGE[1]), candidate("a", 2, first_clip=1600)
    assert choose_updates([late, fresh], (), 8, (), LINEAGE) == (fresh,)
    assert choose_updates([late], (), 8, (), LINEAGE) == (late,)


def test_a_crowd_of_new_keys_keeps_out_nobody_who_contributed() -> None:
    crowd = [candidate(f"x{one:03}", heard_s=0.0) for one in range(100)]
    chosen = choose_updates([*crowd, candidate("worker", heard_s=50.0)], {"worker"}, CREW.peers)
    assert len(chosen) == CREW.peers
    assert "worker" in {one.signer for one in chosen}


def test_a_crowd_that_sends_first_keeps_out_no_member_of_the_crew() -> None:
    crowd = [candidate(f"x{one:03}", heard_s=0.0) for one in range(100)]
    chosen = choose_updates([*crowd, candidate("new", heard_s=50.0)], (), 3, ["other", "new"])
    assert "new" in {one.signer for one in chosen}
    assert choose_updates(crowd, (), 0) == ()


def test_one_peers_word_about_its_steps_does_not_take_a_round() -> None:
    assert weighed_clips([300, 2000 * 8, 280, 310]) == (300, 1200, 280, 310)
    assert weighed_clips([300, 16000]) == (300, 1200)
    assert weighed_clips([300, 100, 100, 100]) == (300, 100, 100, 100)
    assert weighed_clips([]) == ()


def test_a_late_update_weighs_less() -> None:
    assert weight(800, 0) == 800
    assert weight(800, 1) == 100


@given(st.lists(st.floats(0, 1e20), max_size=20))
def test_no_update_is_scaled_up_and_none_counts_for_more_than_the_median(norms: list[float]) -> None:
    for norm, scale in zip(norms, update_scales(norms), strict=True):
        assert 1 <= scale <= SCALE_ONE
        middle = sorted(norms)[len(norms) // 2] if len(norms) % 2 else None
        if middle is not None and scale > 1:
            assert norm * scale / SCALE_ONE <= middle * (1 + 1e-12)


def test_an_update_of_more_than_three_medians_is_too_long_and_so_is_one_that_is_no_number() -> None:
    assert too_long([1.0, 1.1, 0.9, 3.2]) == (3,)
    assert too_long([1.0, 1.1, 2.9]) == ()
    assert too_long([1.0, math.nan]) == (1,)
    assert too_long([1.0, math.inf]) == (1,)
    assert too_long([1.0, 100.0]) == ()  # two say nothing of each other
    assert too_long([1.0, 100.0], usual=1.2) == (1,)


def test_a_machine_that_makes_five_times_the_steps_is_not_taken_for_a_liar() -> None:
    steps = [20, 20, 20, 100]  # as far as its steps go, in one line
    assert too_long(lengths_for_steps([1.0, 1.0, 1.0, 5.0], steps)) == ()
    assert too_long(lengths_for_steps([1.0, 1.0, 1.0, 5.0], [20, 20, 20, 20])) == (3,)


def test_steps_that_a_maker_claims_make_its_update_no_shorter_than_four_medians_do() -> None:
    assert lengths_for_steps([1.0, 1.0, 8.0], [20, 20, 2000])[2] == 8.0 / math.sqrt(80)
    assert too_long(lengths_for_steps([1.0, 1.0, 1.0, 8.0], [20, 20, 20, 2000])) == (3,)


def test_a_round_follows_the_median_member_and_not_a_slow_one() -> None:
    quiet = round_length_s([10.0, 10.0, 10.0, 10.0], [], CREW, TIMING)
    assert quiet == 300.0
    assert round_length_s([10.0, 10.0, 10.0, 40.0], [], CREW, TIMING) == quiet


def test_a_round_is_at_least_twice_the_median_upload_and_at_most_most_steps_of_the_median() -> None:
    assert round_length_s([10.0] * 3, [1.0, 200.0, 250.0], CREW, TIMING) == 400.0
    assert round_length_s([2.0] * 3, [1.0, 8000.0, 9000.0], CREW, TIMING) == 500.0


def test_one_slow_line_lengthens_no_round() -> None:
    quiet = round_length_s([10.0] * 4, [20.0] * 4, CREW, TIMING)
    assert round_length_s([10.0] * 4, [20.0, 20.0, 20.0, 200.0], CREW, TIMING) == quiet


def test_one_member_that_lies_about_its_machine_or_line_makes_no_round_longer() -> None:
    honest = round_length_s([10.0], [20.0], CREW, TIMING)
    assert round_length_s([10.0, 1e6], [20.0, 1e308], CREW, TIMING) == honest
    assert round_length_s([10.0, 10.0, 1e6], [20.0, 20.0, 1e308], CREW, TIMING) == honest


def test_a_round_stays_near_the_runs_checkpoint_interval() -> None:
    assert round_length_s([0.01] * 3, [], CREW, TIMING) == TIMING.checkpoint_s / 3
    assert round_length_s([900.0] * 3, [], CREW, TIMING) == 2 * TIMING.checkpoint_s
    assert round_length_s([], [], CREW, TIMING) == TIMING.checkpoint_s
    assert grace_s(100.0) == 25.0
    assert grace_s(1000.0) == 30.0


def test_full_weights_go_out_as_often_as_the_line_bears() -> None:
    assert [goes_full(since, 1.0, 100.0, CREW) for since in (2, 3)] == [False, True]
    assert [goes_full(since, 250.0, 100.0, CREW) for since in (6, 7)] == [False, True]
    assert goes_full(15, 1e9, 100.0, CREW)
    assert goes_full(0, 1.0, 100.0, CREW, asked=True)
    assert light_way_pays(TIMING.checkpoint_s, TIMING)
    assert not light_way_pays(1.0, TIMING)
