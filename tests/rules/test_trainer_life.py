"""What follows a trainer's end, and when it is asked for a checkpoint."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.rules.trainer_life import MAX_TRAINER_DEATHS, TrainerLife, after_end


def lived(life: TrainerLife, steps_at_start: int, steps_at_death: int) -> TrainerLife:
    return life.launched(steps_at_start).training(1.0).ended().died(steps_at_death)


@given(st.lists(st.booleans(), max_size=12))
def test_a_slot_is_given_up_after_three_deaths_in_a_row_without_a_checkpoint_and_never_before(
    had_checkpoint: list[bool],
) -> None:
    life, steps, in_a_row = TrainerLife(), 0, 0
    for had in had_checkpoint:
        life = lived(life, steps, steps + had)
        steps += had
        in_a_row = 1 if had else in_a_row + 1
        after = after_end(life, in_order=False, wanted=True)
        assert (after == "give up") == (in_a_row >= MAX_TRAINER_DEATHS)
        if after == "give up":
            return
        life = life.starting_again()


def test_a_trainer_that_says_it_stops_or_is_not_wanted_any_more_is_not_started_again() -> None:
    life = TrainerLife(deaths=MAX_TRAINER_DEATHS)
    assert after_end(life, in_order=True, wanted=True) == "over"
    assert after_end(life, in_order=False, wanted=False) == "over"


def test_only_a_trainer_that_was_started_again_reads_files_that_publishing_may_move() -> None:
    life = TrainerLife().launched(0)
    assert not life.loading
    again = life.ended().died(0).starting_again().launched(0)
    assert again.loading
    assert not again.training(1.0).loading
    assert not again.ended().loading


def test_a_checkpoint_is_asked_for_a_cadence_after_the_last_one_while_it_trains() -> None:
    life = TrainerLife().launched(0)
    assert life.checkpoint_due_s(400.0) == math.inf
    assert life.training(10.0).checkpoint_due_s(400.0) == 410.0
    assert life.training(10.0).checkpointed(300.0).checkpoint_due_s(400.0) == 700.0
    assert life.training(10.0).ended().checkpoint_due_s(400.0) == math.inf
