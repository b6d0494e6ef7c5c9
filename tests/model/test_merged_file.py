"""Tests that a merged state's files give back the rounded state bit for bit, and refuse what is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from paris_p2p.errors import CheckpointError
from paris_p2p.model.checkpoint import Counters, check_weights
from paris_p2p.model.merged_file import read_merged, write_merged
from paris_p2p.updates.full_round import round_state
from paris_p2p.updates.layout import Layout
from paris_p2p.updates.merged_state import state_hash
from paris_p2p.updates.outer_step import OuterState

COUNTERS = Counters("ab" * 32, "expert-0", 300, 2400)
SHAPES: dict[str, tuple[int, ...]] = {"b": (), "a.weight": (301, 20), "long": (5000,)}
PARAMETERS = Layout.of(SHAPES).parameters
Change = Callable[[dict[str, Tensor], dict[str, str]], object]


def rounded_state() -> OuterState:
    rng = np.random.default_rng(0)
    weights, momentum, moved = rng.standard_normal((3, PARAMETERS)).astype(np.float32)
    momentum[1000:1600] = 0  # a whole block of nothing
    weights[:6] = [0.0, -0.0, 1e-40, -1e-40, 1e30, -1e-30]
    average = weights + np.float32(1e-3) * moved
    average[10:12] = [0.0, -0.0]
    made = OuterState(weights, momentum, average, steps=300, clips=2400)
    round_state(made)
    return made


def changed(path: Path, change: Change) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, metadata)
    target = path.with_name("changed.safetensors")
    save_file(tensors, target, metadata)
    return target


def test_what_is_read_is_the_rounded_state_bit_for_bit(tmp_path: Path) -> None:
    before = rounded_state()
    weights, resume = write_merged(tmp_path, COUNTERS, SHAPES, before, {"calibration": "x"})
    after = read_merged(resume, weights, COUNTERS, SHAPES)
    for one, other in zip(
        (before.weights, before.momentum, before.average),
        (after.weights, after.momentum, after.average),
        strict=True,
    ):
        assert np.array_equal(one.view(np.uint32), other.view(np.uint32))
    run, slot = COUNTERS.run, COUNTERS.slot
    assert state_hash(run, slot, after) == state_hash(run, slot, before)
    with safe_open(weights, framework="pt") as file:
        assert file.metadata()["calibration"] == "x"


def test_the_weights_file_is_a_slots_own_with_the_nearest_bfloat16(tmp_path: Path) -> None:
    made = rounded_state()
    weights, _ = write_merged(tmp_path, COUNTERS, SHAPES, made)
    check_weights(weights, SHAPES, COUNTERS)
    stored, averages = load_file(weights), Layout.of(SHAPES).views(made.average)
    for name, array in averages.items():
        other = torch.from_numpy(array.copy()).bfloat16()
        ties = torch.from_numpy(array.copy()).view(torch.int32).bitwise_and(0xFFFF) == 0x8000
        assert torch.equal(stored[name][~ties], other[~ties])  # ties go away from zero here
        assert torch.allclose(stored[name].float(), torch.from_numpy(array.copy()), rtol=2.0**-8, atol=1e-38)


def test_both_files_take_seven_bytes_a_parameter(tmp_path: Path) -> None:
    count = 1_000_000
    made = OuterState(*(np.zeros(count, np.float32) for _ in range(3)), steps=300, clips=2400)
    files = write_merged(tmp_path, COUNTERS, {"a": (1000, 1000)}, made)
    assert sum(path.stat().st_size for path in files) / count < 7.02


def test_a_state_that_was_not_rounded_is_not_written(tmp_path: Path) -> None:
    for part in ("weights", "momentum", "average"):
        made = rounded_state()
        getattr(made, part)[77] = np.float32(0.1)
        getattr(made, part)[78] = np.float32(0.7)
        with pytest.raises(ValueError, match="is not rounded"):
            write_merged(tmp_path, COUNTERS, SHAPES, made)
    assert list(tmp_path.iterdir()) == []


def put(name: str, place: int, *values: int) -> Change:
    """Returns a change that puts bytes at a place of a file's array."""

    def change(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        tensors[name].view(-1)[place : place + len(values)] = torch.tensor(values, dtype=torch.uint8)

    return change


INFINITE = (0x00, 0x80, 0x7F)  # in 24 bits


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("weights", 3, *INFINITE), "is not finite"),
        (put("momentum_scales", 0, 0, *INFINITE), "codes that nobody writes"),
        (put("momentum_scales", 4, 1, *INFINITE), "codes that nobody writes"),
        (put("momentum_scales", 3, 0xBF), "codes that nobody writes"),  # negative
        (put("momentum", 5, 0x80), "codes that nobody writes"),
        (lambda tensors, metadata: tensors.pop("ema"), "they differ in"),
        (lambda tensors, metadata: tensors.update({"ema": tensors["ema"].float()}), "needs U8"),
        (lambda tensors, metadata: tensors.update({"ema": tensors["ema"][1:]}), "the network needs U8"),
        (lambda tensors, metadata: metadata.update({"steps": "9" * 400}), "steps = '999"),
        (lambda tensors, metadata: metadata.update({"slot": "expert-1"}), "slot = 'expert-1'"),
        (lambda tensors, metadata: metadata.update({"paris": "paris-resume/2"}), "paris = 'paris-resume/2'"),
    ],
    ids=[
        "inf",
        "scale inf",
        "scale nan",
        "scale below 0",
        "code",
        "lacks",
        "type",
        "shape",
        "steps",
        "slot",
        "kind",
    ],
)
def test_a_file_that_no_crew_wrote_is_refused_with_words(tmp_path: Path, change: Change, words: str) -> None:
    weights, resume = write_merged(tmp_path, COUNTERS, SHAPES, rounded_state())
    with pytest.raises(CheckpointError, match=words):
        read_merged(changed(resume, change), weights, COUNTERS, SHAPES)


def test_weights_that_are_not_finite_or_of_other_counters_are_refused(tmp_path: Path) -> None:
    weights, resume = write_merged(tmp_path, COUNTERS, SHAPES, rounded_state())

    def endless(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        tensors["long"][0] = float("inf")

    with pytest.raises(CheckpointError, match="is not finite"):
        read_merged(resume, changed(weights, endless), COUNTERS, SHAPES)
    (tmp_path / "later").mkdir()
    later = replace(COUNTERS, steps=301)
    other, _ = write_merged(tmp_path / "later", later, SHAPES, rounded_state())
    with pytest.raises(CheckpointError, match="steps = '301'"):
        read_merged(resume, other, COUNTERS, SHAPES)


def test_a_low_byte_that_no_average_has_is_refused(tmp_path: Path) -> None:
    weights, resume = write_merged(tmp_path, COUNTERS, SHAPES, rounded_state())
    bad = changed(resume, put("ema", 10, 0x80))  # below zero, which has no number of that sign
    with pytest.raises(CheckpointError, match="is not finite"):
        read_merged(bad, weights, COUNTERS, SHAPES)
