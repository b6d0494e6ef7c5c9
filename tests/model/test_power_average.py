"""Tests averages by a power of the time: their lengths, what is made of two, and the files that hold them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from paris_p2p.errors import CheckpointError, UsageError
from paris_p2p.model.checkpoint import Counters, TrainState, check_weights, load_weights_into
from paris_p2p.model.power_average import (
    EXPONENTS,
    LENGTHS,
    exponent_of,
    power_decays,
    share_of_first,
    write_of_length,
)
from paris_p2p.model.resume_format import resume_format
from paris_p2p.model.state_parts import PLAIN, StateParts

SHAPES: dict[str, tuple[int, ...]] = {"blocks.0.up.weight": (30, 20), "b": (700,)}
COUNTERS = Counters("ab" * 32, "expert-0", 3, 12)
TWO = StateParts(two_averages=True)


def state(seed: int = 0, parts: StateParts = TWO) -> TrainState:
    generator = torch.Generator().manual_seed(seed)
    made = [{n: 0.01 * torch.randn(s, generator=generator) for n, s in SHAPES.items()} for _ in range(5)]
    weights, first, second, ema, long = made
    second = {
        name: value.square() + 1e-3
        for name, value in second.items()
        if parts.has("exp_avg_sq", name, SHAPES[name])
    }
    return TrainState(COUNTERS, weights, first, second, ema, ema_long=long if parts.two_averages else {})


def test_lengths_are_the_papers() -> None:
    assert exponent_of(0.05) == pytest.approx(16.97, abs=0.01)  # Table 1 there
    assert exponent_of(0.10) == pytest.approx(6.94, abs=0.01)
    for length in (0.04, 0.12, 0.2):
        shares = torch.linspace(0, 1, 200_001, dtype=torch.float64) ** exponent_of(length)
        times = torch.linspace(0, 1, 200_001, dtype=torch.float64)
        mean = (times * shares).sum() / shares.sum()
        variance = ((times - mean).square() * shares).sum() / shares.sum()
        assert variance.sqrt().item() == pytest.approx(length, rel=1e-3)


def test_steps_count_in_proportion_to_a_power_of_their_number() -> None:
    shares = torch.zeros(2, 400, dtype=torch.float64)
    for step in range(400):
        for row, decay in enumerate(power_decays(step)):
            shares[row] *= decay
            shares[row, step] += 1 - decay
    for row, exponent in enumerate(EXPONENTS):
        wanted = torch.arange(1, 401, dtype=torch.float64) ** exponent
        assert (shares[row] - wanted / wanted.sum()).abs().sum() < 0.03
    assert torch.allclose(shares.sum(1), torch.ones(2, dtype=torch.float64))


def test_what_is_made_of_two_is_near_to_the_average_of_that_length() -> None:
    times = torch.linspace(0, 1, 100_001, dtype=torch.float64)

    def profile(exponent: float) -> torch.Tensor:
        return (exponent + 1) * times**exponent

    assert [share_of_first(length) for length in LENGTHS] == pytest.approx([1.0, 0.0], abs=1e-9)
    for length in (0.04, 0.06, 0.08, 0.12):
        wanted, share = profile(exponent_of(length)), share_of_first(length)

        def error(share: float, wanted: torch.Tensor = wanted) -> float:
            made = share * profile(EXPONENTS[0]) + (1 - share) * profile(EXPONENTS[1])
            return ((made - wanted).square().mean() / wanted.square().mean()).sqrt().item()

        assert error(share) < 0.09
        assert error(share) <= min(error(share - 0.01), error(share + 0.01))


@pytest.mark.parametrize("length", [0.0, 0.039, 0.121, -1.0])
def test_a_length_that_cannot_be_made_is_refused(length: float) -> None:
    with pytest.raises(UsageError, match=r"choose one from 0\.04 to 0\.12"):
        share_of_first(length)


@pytest.mark.parametrize("compact", [False, True], ids=["full", "compact"])
@pytest.mark.parametrize("muon", [False, True], ids=["adamw", "muon"])
def test_both_averages_are_kept_published_and_checked(tmp_path: Path, *, compact: bool, muon: bool) -> None:
    parts = StateParts(muon=muon, two_averages=True)
    files, writer, reader = resume_format(compact=compact, parts=parts), state(0, parts), state(1, parts)
    weights, resume = files.write(tmp_path, writer)
    files.load(resume, reader, 10.0)
    for (name, one), (_, other) in zip(writer.tensors(), reader.tensors(), strict=True):
        assert torch.equal(one, other), name
    files.check(resume, SHAPES, COUNTERS, 10.0, weights)
    check_weights(weights, SHAPES, COUNTERS, parts)
    published = load_file(weights)
    for name in SHAPES:
        assert torch.equal(published[name], writer.ema[name].bfloat16())
        assert torch.equal(published[f"long.{name}"], writer.ema_long[name].bfloat16())
    read = {name: torch.empty(shape) for name, shape in SHAPES.items()}
    load_weights_into(weights, read)
    assert all(torch.equal(read[name], published[name].float()) for name in SHAPES)
    other = state(0, parts)
    other.ema_long["b"].add_(1)
    (tmp_path / "other").mkdir()
    foreign, _ = files.write(tmp_path / "other", other)
    with pytest.raises(CheckpointError, match=r"long\.b in .* is not the average"):
        files.check(resume, SHAPES, COUNTERS, 10.0, foreign)


def test_a_run_takes_only_as_many_averages_as_it_keeps(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    two, _ = resume_format(compact=True, parts=TWO).write(tmp_path, state())
    one, _ = resume_format(compact=True).write(tmp_path / "one", state(parts=PLAIN))
    with pytest.raises(CheckpointError, match="holds 2 averages, the run keeps 1"):
        check_weights(two, SHAPES, COUNTERS, PLAIN)
    with pytest.raises(CheckpointError, match="holds 1 averages, the run keeps 2"):
        check_weights(one, SHAPES, COUNTERS, TWO)
    with pytest.raises(UsageError, match="keeps one average"):
        write_of_length(one, SHAPES, 0.08, tmp_path / "out.safetensors")


@pytest.mark.parametrize("length", [0.05, 0.08, 0.10])
def test_weights_of_a_length_are_plain_ones_of_both(tmp_path: Path, length: float) -> None:
    weights, _ = resume_format(compact=False, parts=TWO).write(tmp_path, state())
    out = tmp_path / "out.safetensors"
    write_of_length(weights, SHAPES, length, out)
    check_weights(out, SHAPES, COUNTERS, PLAIN)
    both, made, share = load_file(weights), load_file(out), share_of_first(length)
    for name in SHAPES:
        mixed = share * both[name].float() + (1 - share) * both[f"long.{name}"].float()
        assert torch.equal(made[name], mixed.bfloat16())
