"""Checkpoints are written whole or not at all, and read back exactly."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from paris_p2p.errors import CheckpointError, DiskFullError, ReadOnlyError
from paris_p2p.model.checkpoint import Counters, TrainState, load_resume, load_weights_into, write_checkpoint

COUNTERS = Counters("ab" * 32, "expert-0", 3, 12)


def state(scale: float = 1.0, counters: Counters = COUNTERS) -> TrainState:
    parts = {}
    for number, part in enumerate(("weights", "exp_avg", "exp_avg_sq", "ema")):
        values = {
            "a.weight": torch.arange(6.0).reshape(2, 3),
            "b": torch.tensor(2.0),
            "odd": torch.ones(1, 5).T,
        }
        parts[part] = {name: scale * 0.01 * (number + 1) * value for name, value in values.items()}
    return TrainState(counters=counters, **parts)


def test_what_is_written_is_read_back_exactly_by_us_and_by_safetensors(tmp_path: Path) -> None:
    before, after = state(), state(0.0)
    weights, resume = write_checkpoint(tmp_path, before)
    load_resume(resume, after, 10.0)
    for (name, a), (_, b) in zip(before.tensors(), after.tensors(), strict=True):
        assert torch.equal(a, b), name
    loaded = load_file(weights)
    assert {name: tensor.dtype for name, tensor in loaded.items()} == dict.fromkeys(
        before.ema, torch.bfloat16
    )
    assert all(torch.equal(loaded[name], tensor.bfloat16()) for name, tensor in before.ema.items())
    with safe_open(resume, framework="pt") as file:
        counts = {"steps": "3", "clips": "12"}
        assert file.metadata() == {
            "format": "pt",
            "paris": "paris-resume/1",
            "run": "ab" * 32,
            "slot": "expert-0",
            **counts,
        }


def test_loading_changes_nothing_when_the_file_is_refused(tmp_path: Path) -> None:
    _, resume = write_checkpoint(tmp_path, state())
    after = state(5.0, Counters("ab" * 32, "expert-0", 4, 16))
    with pytest.raises(CheckpointError, match="steps = '3'"):
        load_resume(resume, after, 10.0)
    assert all(
        torch.equal(a, b) for (_, a), (_, b) in zip(after.tensors(), state(5.0).tensors(), strict=True)
    )


def test_a_resume_state_is_not_taken_for_weights(tmp_path: Path) -> None:
    _, resume = write_checkpoint(tmp_path, state())
    with pytest.raises(CheckpointError, match="they differ in"):
        load_weights_into(resume, dict(state().ema))


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, DiskFullError), (errno.EROFS, ReadOnlyError)]
)
def test_a_full_or_broken_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(expected, match="checkpoint"):
        write_checkpoint(tmp_path, state())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_with_words(tmp_path: Path) -> None:
    with pytest.raises(ReadOnlyError, match="No such file"):
        write_checkpoint(tmp_path / "gone", state())
