"""Tests compact checkpoints as files: whole or not at all, read back exactly, refused where they lie."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from paris_p2p.errors import CheckpointError, DiskFullError, DivergedError
from paris_p2p.model.checkpoint import Counters, TrainState, load_resume, load_weights_into, write_checkpoint
from paris_p2p.model.compact_state import check_compact, load_compact, load_compact_weights, write_compact
from paris_p2p.model.resume_format import resume_format

COUNTERS = Counters("ab" * 32, "expert-0", 3, 12)
SHAPES: dict[str, tuple[int, ...]] = {"a.weight": (30, 20), "b": (), "odd": (5, 1), "long": (700,)}
Change = Callable[[dict[str, Tensor]], object]


def state(seed: int = 0, counters: Counters = COUNTERS) -> TrainState:
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> dict[str, Tensor]:
        made = {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        return made | {"odd": made["odd"].reshape(1, 5).T}  # not contiguous

    weights, moved, first = normal(0.02), normal(1e-3), normal(1e-3)
    second = {name: value.square() + 1e-6 for name, value in normal(1e-3).items()}
    ema = {name: weights[name] + moved[name] for name in SHAPES}
    return TrainState(counters, weights, first, second, ema)


def equal(one: TrainState, other: TrainState) -> bool:
    return all(torch.equal(a, b) for (_, a), (_, b) in zip(one.tensors(), other.tensors(), strict=True))


def changed(path: Path, change: Change) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors)
    target = path.with_name("changed.safetensors")
    save_file(tensors, target, metadata)
    return target


def test_who_reads_the_files_has_what_the_writer_goes_on_with(tmp_path: Path) -> None:
    writer, before, reader = state(), state(), state(1)
    weights, resume = write_compact(tmp_path, writer)
    assert not equal(writer, before)  # rounded
    for (name, a), (_, b) in zip(writer.tensors(), before.tensors(), strict=True):
        assert torch.allclose(a, b, rtol=0.13, atol=2e-4), name
    load_compact(resume, reader, 10.0)
    assert equal(reader, writer)
    check_compact(resume, SHAPES, COUNTERS, 10.0, weights)
    averages = load_file(weights)
    assert all(torch.equal(averages[name], writer.ema[name].bfloat16()) for name in SHAPES)


def test_a_parameter_takes_eight_bytes_with_the_weights_to_generate_with(tmp_path: Path) -> None:
    size = (1000, 1000)
    wide = [{"a": torch.full(size, 0.01)} for _ in range(4)]
    weights, resume = write_compact(tmp_path, TrainState(COUNTERS, *wide))
    assert (weights.stat().st_size + resume.stat().st_size) / 1e6 < 8.03
    weights, resume = write_checkpoint(tmp_path, TrainState(COUNTERS, *wide))
    assert (weights.stat().st_size + resume.stat().st_size) / 1e6 > 18


def test_the_same_state_makes_the_same_file_and_other_steps_round_otherwise(tmp_path: Path) -> None:
    made = []
    for folder, steps in (("one", 3), ("two", 3), ("three", 4)):
        (tmp_path / folder).mkdir()
        counters = Counters(COUNTERS.run, COUNTERS.slot, steps, 12)
        made.append(load_file(write_compact(tmp_path / folder, state(0, counters))[1]))
    one, two, three = ({name: value.tolist() for name, value in each.items()} for each in made)
    assert one == two
    assert {name.split(".")[0] for name in one if one[name] != three[name]} == {"exp_avg_sq", "exp_avg"}


def test_weights_and_average_alone_are_read_for_what_needs_no_moments(tmp_path: Path) -> None:
    for compact in (False, True):
        writer, shapes = state(), {name: torch.empty(shape) for name, shape in SHAPES.items()}
        files = resume_format(compact=compact)
        _, resume = files.write(tmp_path, writer)
        average = {name: torch.empty(shape) for name, shape in SHAPES.items()}
        files.load_weights(resume, shapes, COUNTERS, average)
        for name in SHAPES:
            assert torch.equal(shapes[name], writer.weights[name])
            assert torch.equal(average[name], writer.ema[name])


def test_a_run_takes_no_resume_state_of_the_other_kind(tmp_path: Path) -> None:
    for kind in (False, True):
        _, resume = resume_format(compact=kind).write(tmp_path, state())
        with pytest.raises(CheckpointError, match="they differ in"):
            resume_format(compact=not kind).load(resume, state(), 10.0)
        with pytest.raises(CheckpointError, match="they differ in"):
            load_weights_into(resume, dict(state().ema))


def test_loading_changes_nothing_when_the_file_is_refused(tmp_path: Path) -> None:
    _, resume = write_compact(tmp_path, state())
    after = state(5, Counters("ab" * 32, "expert-0", 4, 16))
    with pytest.raises(CheckpointError, match="steps = '3'"):
        load_compact(resume, after, 10.0)
    assert equal(after, state(5))


def put(name: str, place: int, *values: int) -> Change:
    """Returns a change that puts bytes at a place of a file's array."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[place : place + len(values)] = torch.tensor(values, dtype=torch.uint8)

    return change


INFINITE = (0x00, 0x80, 0x7F)  # in 24 bits


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("weights.long", 0, *INFINITE), "long in changed.safetensors is not finite"),
        (put("ema_scales.long", 0, 0, *INFINITE), "is not finite"),
        (put("ema_scales.long", 0, 1, *INFINITE), "is not finite"),
        (put("exp_avg_sq_tops.long", 0, 0xFF, 0xFF), "is not finite"),
        (put("exp_avg_sq_tops.long", 0, 0xF7, 0x07), "gradients of norm 10 give less"),
        (put("exp_avg.long", 0, 0x80), "cannot come from any gradients"),
        (lambda tensors: tensors.pop("ema.b"), "they differ in"),
        (lambda tensors: tensors.update({"ema.b": tensors["ema.b"].float()}), "the network needs U8"),
        (
            lambda tensors: tensors.update({"ema.long": tensors["ema.long"][:-1]}),
            r"the network needs U8 \[700",
        ),
    ],
    ids=["inf", "scale inf", "scale nan", "top nan", "sum", "ratio", "lacks", "type", "shape"],
)
def test_what_no_training_wrote_is_refused_with_words(tmp_path: Path, change: Change, words: str) -> None:
    weights, resume = write_compact(tmp_path, state())
    bad = changed(resume, change)
    with pytest.raises(CheckpointError, match=words):
        check_compact(bad, SHAPES, COUNTERS, 10.0, weights)
    reader = state(5)
    with pytest.raises(CheckpointError, match=words):
        load_compact(bad, reader, 10.0)
    assert equal(reader, state(5))


@pytest.mark.parametrize("name", ["weights.long", "ema_scales.long"])
def test_weights_that_are_not_finite_are_not_handed_out(tmp_path: Path, name: str) -> None:
    _, resume = write_compact(tmp_path, state())
    place = 0 if name.startswith("weights") else 1
    bad = changed(resume, put(name, place, *INFINITE))
    weights, average = ({key: torch.empty(shape) for key, shape in SHAPES.items()} for _ in range(2))
    with pytest.raises(CheckpointError, match="is not finite"):
        load_compact_weights(bad, weights, COUNTERS, average)


def test_weights_to_generate_with_that_are_not_the_average_are_refused(tmp_path: Path) -> None:
    weights, resume = write_compact(tmp_path, state())
    other = changed(weights, lambda tensors: tensors["long"].view(-1)[-1].add_(0.5))
    with pytest.raises(CheckpointError, match="do not belong together"):
        check_compact(resume, SHAPES, COUNTERS, 10.0, other)


def test_a_state_that_is_not_finite_is_neither_written_nor_rounded(tmp_path: Path) -> None:
    spoilt, as_it_was = state(), state()
    for each in (spoilt, as_it_was):
        each.exp_avg["long"][3] = float("nan")
    with pytest.raises(DivergedError, match=r"exp_avg\.long is not finite at step 3"):
        write_compact(tmp_path, spoilt)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(spoilt.weights["long"], as_it_was.weights["long"])


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskFullError, match="checkpoint"):
        write_compact(tmp_path, state())
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_runs_are_as_they_always_were(tmp_path: Path) -> None:
    before, after = state(), state(1)
    _, resume = write_checkpoint(tmp_path, before)
    assert equal(before, state())
    load_resume(resume, after, 10.0)
    assert equal(after, before)
