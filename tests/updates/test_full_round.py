"""Full rounds: the rounded state is near, is the same everywhere, and stays."""

from __future__ import annotations

import numpy as np
import pytest

from paris_p2p.errors import DivergedError
from paris_p2p.updates.full_round import round_state
from paris_p2p.updates.outer_step import OuterState
from tests.updates.made_updates import made_state

N = 70 * 4096 + 77


def parts(state: OuterState) -> list[np.ndarray]:
    return [part.copy() for part in (state.weights, state.momentum, state.average)]


@pytest.mark.parametrize("smaller", [1.0, 2.0**-140], ids=["normal", "subnormal"])
def test_a_rounded_state_is_near_and_stays_as_it_is(smaller: float) -> None:
    state = made_state(N)
    state.momentum *= np.float32(smaller)
    state.momentum[:1000] = 0
    before = parts(state)
    round_state(state)
    once = parts(state)
    round_state(state)
    for part, again in zip(once, parts(state), strict=True):
        np.testing.assert_array_equal(part.view(np.uint32), again.view(np.uint32))
    for place in (0, 2):
        np.testing.assert_allclose(once[place], before[place], rtol=2.0**-16)
        assert not (once[place].view(np.uint32) & 0xFF).any()
    assert np.abs(once[1] - before[1]).max() <= np.abs(before[1]).max() / 253
    assert (state.steps, state.clips) == (1000, 8000)


@pytest.mark.parametrize("bits", [0x7F800000, 0x7FC00000, 0xFFFFFFFF, 0xFF7F8000, 0x7F7F7F80], ids=hex)
@pytest.mark.parametrize("part", ["weights", "momentum", "average"])
def test_a_state_that_is_not_finite_is_not_rounded(bits: int, part: str) -> None:
    state = made_state(N)
    getattr(state, part).view(np.uint32)[N - 1] = bits
    with pytest.raises(DivergedError, match="not finite"):
        round_state(state)
