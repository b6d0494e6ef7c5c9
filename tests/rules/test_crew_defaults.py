"""The numbers of a run whose owner says none."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from paris_p2p.rules.crew_defaults import default_crew


def test_a_crew_sends_at_least_sixteen_times_less_than_float32() -> None:
    crew = default_crew(8)
    bits = (crew.magnitudes + 16 * crew.magnitudes / 4096) / crew.parts
    assert crew.kept == 4096  # every entry, so that no bits go into places
    assert 32 / bits >= 15.9


@pytest.mark.parametrize("peers", [1, 65])
def test_no_crew_is_smaller_than_two_or_larger_than_a_record_can_name(peers: int) -> None:
    with pytest.raises(ValidationError):
        default_crew(peers)
