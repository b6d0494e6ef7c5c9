"""The numbers of a run whose owner says none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from paris_p2p.rules.crew_defaults import default_crew
from paris_p2p.rules.update_sizes import expected_bytes


def bytes_of(parameters: int, rounds: int = 0) -> float:
    crew = default_crew(8, parameters, rounds=rounds)
    return expected_bytes(crew, parameters, crew.step)


@pytest.mark.parametrize("parameters", [200_000, 129_000_000, 605_000_000, 11_900_000_000])
def test_an_update_is_at_least_32_times_smaller_than_float32(parameters: int) -> None:
    assert 4 * parameters / bytes_of(parameters) >= 32


@pytest.mark.parametrize("parameters", [129_000_000, 605_000_000, 1_300_000_000])
def test_eight_home_lines_give_each_other_their_updates_in_a_fifth_of_an_interval(parameters: int) -> None:
    assert 7 * bytes_of(parameters) * 8 / 10e6 <= 0.2 * 600


def test_chunks_that_rarely_move_get_less_momentum() -> None:
    whole, parts = default_crew(8, 200_000), default_crew(8, 605_000_000)
    assert (whole.parts, whole.outer_rate, whole.momentum) == (1, 0.9, 0.8)
    assert (parts.parts, parts.outer_rate, parts.momentum) == (4, 1.0, 0.6)


def test_a_smaller_crew_gets_fewer_parts() -> None:
    assert default_crew(4, 605_000_000).parts == 2
    assert default_crew(8, 605_000_000).parts == 4


def test_the_largest_networks_are_cut_no_finer_than_sixteen_parts() -> None:
    assert default_crew(8, 11_900_000_000).parts == 16


@pytest.mark.parametrize(("rounds", "parts"), [(50, 1), (150, 2), (250, 4), (0, 16)])
def test_a_run_of_few_rounds_gets_few_parts(rounds: int, parts: int) -> None:
    assert default_crew(8, 11_900_000_000, rounds=rounds).parts == parts


def test_a_shorter_interval_makes_more_parts() -> None:
    assert default_crew(8, 129_000_000, 60.0).parts > default_crew(8, 129_000_000, 600.0).parts


@pytest.mark.parametrize("peers", [1, 65])
def test_no_crew_is_smaller_than_two_or_larger_than_a_record_can_name(peers: int) -> None:
    with pytest.raises(ValidationError):
        default_crew(peers)
