"""The merge: what it computes, what it leaves alone, and that order and memory make no difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paris_p2p.errors import CheckpointError, InexactError
from paris_p2p.updates.layout import Vector
from paris_p2p.updates.merged_state import read_state, state_hash, write_state
from paris_p2p.updates.outer_step import Contribution, OuterRates, OuterState, add_scaled, outer_step
from paris_p2p.updates.power import power
from paris_p2p.updates.update_header import UpdateHeader
from tests.updates.made_updates import RUN, contribution, dense_of, levels_of, made_state

N = 3 * 4096 + 1001
WHOLE, PART = UpdateHeader(N), UpdateHeader(N, 3, 1)
RATES = OuterRates(rate=0.7, momentum=0.9, decay=0.999)


def hashed(state: OuterState) -> str:
    return state_hash(RUN, "expert-0", state)


def by_the_book(base: OuterState, ordered: list[Contribution], rates: OuterRates) -> OuterState:
    """Returns a round's outcome computed over whole dense vectors, one operation at a time."""
    theta, m, f = base.weights.copy(), base.momentum.copy(), np.float32
    chunk = np.arange(N) // 4096
    there = [chunk % e.update.header.parts == e.update.header.part for e in ordered]
    if len(ordered) == 1:
        theta[there[0]] -= dense_of(ordered[0].update, N)[there[0]]
        m[there[0]] = 0
    else:
        total, g = np.zeros(N), np.zeros(N, f)
        for each, has in zip(ordered, there, strict=True):
            total += each.weight * has
        for each, has in zip(ordered, there, strict=True):
            share = np.divide(each.weight * each.scale, total, out=np.zeros(N), where=has).astype(f)
            steps_, levels = levels_of(each.update, N)
            g = g + share * steps_ * levels
        touched = total > 0
        new_m = f(rates.momentum) * m + g
        m = np.where(touched, new_m, m)
        theta = np.where(touched, theta - f(rates.rate) * (g + f(rates.momentum) * new_m), theta)
    steps = sum(each.steps for each in ordered)
    average = base.average + f(1 - power(rates.decay, steps)) * (theta - base.average)
    return OuterState(theta, m, average, base.steps + steps, base.clips + sum(e.clips for e in ordered))


ROUNDS: dict[str, Callable[[], list[Contribution]]] = {
    "one fine": lambda: [contribution(WHOLE, 1, step=0.3)],
    "one coarse": lambda: [contribution(WHOLE, 1, step=4.0)],
    "one part": lambda: [contribution(PART, 1)],
    "fine": lambda: [contribution(WHOLE, i, 240 / i**0.5, 1 / i, 0.3) for i in (1, 2, 3)],
    "coarse": lambda: [contribution(WHOLE, i, 240 / i**0.5, 1 / i, 3.5) for i in (1, 2, 3)],
    "mixed": lambda: [contribution(h, i, 100.0 + i, step=i) for i, h in enumerate((WHOLE, PART, WHOLE), 1)],
    "parts": lambda: [contribution(UpdateHeader(N, 3, i), i, 30.0 + i) for i in (0, 1)],
    "other parts": lambda: [contribution(UpdateHeader(N, i, i - 1), i) for i in (2, 3, 4)],
}


@pytest.mark.parametrize("name", ROUNDS)
def test_a_round_is_what_the_book_says_to_the_last_bit(name: str) -> None:
    contributions, base = ROUNDS[name](), made_state(N)
    wanted = by_the_book(made_state(N), contributions, RATES)
    found = outer_step(base, contributions, RATES)
    assert found is base
    for one, other in ((found.weights, wanted.weights), (found.momentum, wanted.momentum)):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.average, wanted.average)
    assert hashed(found) == hashed(wanted)


@pytest.mark.parametrize("name", ["fine", "mixed", "parts"])
@given(order=st.permutations([0, 1, 2]))
def test_the_order_in_which_updates_are_given_makes_no_difference(name: str, order: list[int]) -> None:
    contributions = ROUNDS[name]()
    shuffled = [contributions[i] for i in order if i < len(contributions)]
    assert hashed(outer_step(made_state(N), shuffled, RATES)) == hashed(
        outer_step(made_state(N), contributions, RATES)
    )


def test_another_state_takes_the_outcome_and_the_base_stays() -> None:
    base, contributions = made_state(N), ROUNDS["parts"]()
    before = hashed(base)
    found = outer_step(base, contributions, RATES, base.empty_like())
    assert hashed(base) == before
    assert hashed(found) == hashed(outer_step(made_state(N), contributions, RATES))
    assert (found.steps, found.clips) == (1060, 8480)


def test_chunks_in_no_update_keep_weights_and_momentum() -> None:
    base = made_state(N)
    found = outer_step(base, ROUNDS["parts"](), RATES, base.empty_like())
    third = slice(2 * 4096, 3 * 4096)  # of three parts, nobody sent this one
    np.testing.assert_array_equal(found.weights[third], base.weights[third])
    np.testing.assert_array_equal(found.momentum[third], base.momentum[third])
    assert (found.weights[:4096] != base.weights[:4096]).all()  # momentum moves all of a chunk that is here


def test_a_plain_round_adds_what_its_only_update_says_and_forgets_the_momentum() -> None:
    base, (one,) = made_state(N), ROUNDS["one coarse"]()
    found = outer_step(base, [one], OuterRates(rate=9.0, momentum=0.9, decay=0.999), base.empty_like())
    np.testing.assert_array_equal(found.weights, base.weights - dense_of(one.update, N))
    assert not found.momentum.any()


def test_the_average_forgets_by_steps() -> None:
    base = made_state(N)
    base.average[:] = 0
    found = outer_step(base, ROUNDS["fine"](), RATES)
    np.testing.assert_allclose(found.average, (1 - 0.999**90) * found.weights, rtol=1e-5)


@given(base=st.floats(0, 1), exponent=st.integers(0, 20_000))
def test_a_power_is_a_power(base: float, exponent: int) -> None:
    assert power(base, exponent) == pytest.approx(base**exponent, rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("factor", [-0.2, 1.0])
def test_a_part_of_an_update_can_be_tried(factor: float) -> None:
    vector, (one,) = made_state(N).weights, ROUNDS["one coarse"]()
    steps, levels = levels_of(one.update, N)
    wanted = vector + np.float32(factor) * steps * levels
    add_scaled(vector, one.update, factor)
    np.testing.assert_array_equal(vector, wanted)


def test_rounds_that_no_rule_makes_are_refused() -> None:
    one = contribution(WHOLE, 1)
    wrong = [
        [],
        [one, one],
        [Contribution("peer-9", one.update, 0.0, 1.0, 1, 1)],
        [Contribution("peer-9", one.update, 1.0, 1.5, 1, 1)],
        [contribution(UpdateHeader(N - 1), 1)],
    ]
    for contributions in wrong:
        with pytest.raises(ValueError, match=r"round of|weight|parameters"):
            outer_step(made_state(N), contributions, RATES)


def test_a_thread_that_flushes_subnormals_merges_nothing() -> None:
    base, contributions = made_state(N), ROUNDS["fine"]()
    before = hashed(base)
    assert torch.set_flush_denormal(True)
    try:
        with pytest.raises(InexactError, match="set_flush_denormal"):
            outer_step(base, contributions, RATES)
    finally:
        torch.set_flush_denormal(False)
    assert hashed(base) == before


def test_a_written_state_is_read_by_its_hash_and_can_be_gone_on_from(tmp_path: Path) -> None:
    state, path = made_state(N), tmp_path / "state"
    name = write_state(path, RUN, "expert-0", state)
    assert name == hashed(state)
    assert path.stat().st_size == 88 + 12 * N
    read = read_state(path, RUN, "expert-0", N, name)
    outer_step(read, ROUNDS["fine"](), RATES)
    assert hashed(read) == hashed(outer_step(state, ROUNDS["fine"](), RATES))
    assert hashed(read_state(path, RUN, "expert-0", N, name)) == name  # the file stayed


def damaged(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


@pytest.mark.parametrize(
    ("change", "slot"),
    [
        (damaged, "expert-0"),
        (lambda data: data[:-1], "expert-0"),
        (lambda data: data[:40], "expert-0"),
        (lambda data: data, "expert-1"),
    ],
    ids=["one bit", "short", "no head", "another slot's"],
)
def test_a_state_that_is_not_the_named_one_is_not_read(
    change: Callable[[bytes], bytes], slot: str, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    name = write_state(path, RUN, "expert-0", made_state(N))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match="delete it"):
        read_state(path, RUN, slot, N, name)


def test_a_state_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(tmp_path / "none", RUN, "expert-0", N, "00" * 32)


def changed(vector: Vector) -> Vector:
    vector[-1] += 1
    return vector


@pytest.mark.parametrize("part", ["weights", "momentum", "average", "steps", "clips", "slot", "run"])
def test_the_hash_is_of_all_of_a_state(part: str) -> None:
    state, run, slot = made_state(N), RUN, "expert-0"
    if part == "slot":
        slot = "expert-1"
    elif part == "run":
        run = "00" * 32
    elif part in ("steps", "clips"):
        setattr(state, part, getattr(state, part) + 1)
    else:
        changed(getattr(state, part))
    assert state_hash(run, slot, state) != hashed(made_state(N))
