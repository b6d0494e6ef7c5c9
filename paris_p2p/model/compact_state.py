"""Stores resume states in 6 bytes a parameter where runs have compact checkpoints ("paris-resume/2").

For each parameter the file holds five or six arrays of bytes (parameter_codes.py), for example
`weights.<name>`; the weights to generate with and all metadata are as in other runs (checkpoint.py). What is
written is less exact than what was trained, so writing rounds the trainer's own tensors to it: who goes on
and who resumes have the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paris_p2p.errors import CheckpointError
from paris_p2p.model.checkpoint import (
    MOMENT_FLOOR,
    MOMENT_RATIO,
    Counters,
    TrainState,
    checkpoint_paths,
    open_slot_file,
    refuse_momentum,
    refuse_not_finite,
    write_average,
)
from paris_p2p.model.parameter_codes import Numbers, chance_of, packed_shapes, round_and_pack, unpacked
from paris_p2p.model.state_parts import LONG, PLAIN, StateParts
from paris_p2p.model.tensor_file import Shapes, write_pieces
from paris_p2p.updates.rounding import Float32s, Uint8s

# A code of v is up to 12.5 % from the next, and v remembers a thousand steps, in which errors of several
# checkpoints may add up. Moments of twice the sum make steps shorter by no more than a factor of sqrt(2).
SUM_SLACK = 2.0
_NOTHING = np.empty(0, np.float32)


@dataclass(frozen=True)
class _Reader:
    """Reads single parameters of a file whose header was checked."""

    read: Callable[[str], Tensor]
    shapes: Shapes
    parts: StateParts

    def slices(self, name: str) -> Iterator[tuple[int, Numbers]]:
        """Yields (first number, numbers) of one parameter, slice by slice."""
        parts = _packed_shapes(name, self.shapes[name], self.parts)
        packed: dict[str, Uint8s] = {part: self.read(f"{part}.{name}").numpy() for part in parts}
        yield from unpacked(packed)


def write_compact(folder: Path, state: TrainState, parts: StateParts = PLAIN) -> tuple[Path, Path]:
    """Writes both files into `folder`, whole or not at all, and rounds the state to what they hold; returns
    (weights, resume).

    DivergedError, before anything is written, when a tensor is not finite; DiskFullError, ReadOnlyError.
    """
    refuse_not_finite(state)
    weights, resume = checkpoint_paths(folder, state.counters)
    metadata = state.counters.metadata("compact") | dict(state.notes)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.weights.items()}
    write_pieces(resume, metadata, torch.uint8, _file_shapes(shapes, parts), _rounded(state, parts))
    write_average(weights, state)
    return weights, resume


def check_compact(
    path: Path,
    shapes: Shapes,
    counters: Counters,
    max_grad_norm: float,
    weights_path: Path,
    parts: StateParts = PLAIN,
) -> None:
    """Raises CheckpointError unless the file is a resume state that belongs to `weights_path`.

    Its EMA, cast to bf16, must be what that file holds.
    """
    _check_numbers(path, shapes, counters, max_grad_norm, parts)
    with (
        _open(path, shapes, counters, parts) as reader,
        open_slot_file("weights", weights_path, shapes, counters) as weights,
    ):
        for name in shapes:
            for published in [name] + [LONG + name] * parts.two_averages:
                stored = weights(published).reshape(-1)
                for start, numbers in reader.slices(name):
                    average = torch.from_numpy(numbers.average if published == name else numbers.long)
                    if not torch.equal(average.to(torch.bfloat16), stored[start : start + len(average)]):
                        raise CheckpointError(
                            f"{published} in {weights_path.name} is not the average in {path.name}; "
                            "the files do not belong together"
                        )


def load_compact(path: Path, state: TrainState, max_grad_norm: float, parts: StateParts = PLAIN) -> None:
    """Copies a resume state into `state`'s tensors, once all of it is checked.

    CheckpointError, also when its counters are not `state.counters`.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.weights.items()}
    _check_numbers(path, shapes, state.counters, max_grad_norm, parts)
    with _open(path, shapes, state.counters, parts) as reader:
        for name in shapes:
            whole = _whole(reader, name)
            for field, tensor in _of(state, name).items():
                _put_one(tensor, getattr(whole, field))


def load_compact_weights(
    path: Path,
    weights: Mapping[str, Tensor],
    counters: Counters,
    average: Mapping[str, Tensor] | None = None,
    parts: StateParts = PLAIN,
) -> None:
    """Copies the weights that training goes on with into `weights`, and the average into `average`, where
    given. CheckpointError.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    with _open(path, shapes, counters, parts) as reader:
        for name, tensor in weights.items():
            numbers = _whole(reader, name)
            _refuse(path, name, finite=bool(np.isfinite(numbers.weights).all()))
            _put_one(tensor, numbers.weights)
            if average is not None:
                _refuse(path, name, finite=bool(np.isfinite(numbers.average).all()))
                _put_one(average[name], numbers.average)


def _rounded(state: TrainState, parts: StateParts) -> Iterator[memoryview]:
    """Yields the file's bytes, in the order of `_file_shapes`, while the state's tensors become the same."""
    counters = state.counters
    for name in state.weights:
        tensors = _of(state, name)
        flat = {
            field: tensor.detach().to("cpu").contiguous().reshape(-1).numpy()
            for field, tensor in tensors.items()
        }
        seed = chance_of(counters.run, counters.slot, counters.steps, name)
        packed = round_and_pack(Numbers(**{"v": _NOTHING, **flat}), seed, torch.get_num_threads())
        for field, tensor in tensors.items():
            if tensor.data_ptr() != flat[field].ctypes.data:  # a copy, of a GPU's tensor for example
                _put_one(tensor, flat[field])
        for part in _packed_shapes(name, tuple(state.weights[name].shape), parts):
            yield packed[part].data


def _check_numbers(
    path: Path, shapes: Shapes, counters: Counters, max_grad_norm: float, parts: StateParts
) -> None:
    """Raises CheckpointError unless all is finite and the moments can come from clipped gradients."""
    squares = momentum = 0.0
    with _open(path, shapes, counters, parts) as reader:
        for name, shape in shapes.items():
            for _, part in reader.slices(name):
                every = (part.weights, part.average, part.m, part.v, part.long)
                _refuse(path, name, finite=all(bool(np.isfinite(values).all()) for values in every))
                if parts.by_muon(name, shape):
                    momentum += float(np.square(part.m, dtype=np.float64).sum())
                    continue
                limit = np.float32(MOMENT_RATIO) * np.sqrt(part.v) + np.float32(MOMENT_FLOOR)
                if bool((np.abs(part.m) > limit).any()):
                    raise CheckpointError(
                        f"exp_avg.{name} and exp_avg_sq.{name} in {path.name} cannot come from any gradients"
                    )
                squares += float(part.v.sum(dtype=np.float64))
    if squares > SUM_SLACK * max_grad_norm**2:  # each step's gradients, together, are clipped to that norm
        raise CheckpointError(
            f"exp_avg_sq in {path.name} sums to {squares:.4g}, "
            f"gradients of norm {max_grad_norm:.4g} give less"
        )
    refuse_momentum(path, momentum, max_grad_norm)


def _packed_shapes(name: str, shape: tuple[int, ...], parts: StateParts) -> dict[str, tuple[int, ...]]:
    return packed_shapes(tuple(shape), muon=parts.by_muon(name, shape), long=parts.two_averages)


def _file_shapes(shapes: Shapes, parts: StateParts) -> dict[str, tuple[int, ...]]:
    return {
        f"{part}.{name}": size
        for name, shape in shapes.items()
        for part, size in _packed_shapes(name, shape, parts).items()
    }


@contextmanager
def _open(path: Path, shapes: Shapes, counters: Counters, parts: StateParts) -> Iterator[_Reader]:
    with open_slot_file("compact", path, _file_shapes(shapes, parts), counters) as read:
        yield _Reader(read, shapes, parts)


def _whole(reader: _Reader, name: str) -> Numbers:
    """Returns all numbers of one parameter."""
    count = prod(reader.shapes[name])
    absent = {"v": reader.parts.by_muon(name, reader.shapes[name]), "long": not reader.parts.two_averages}
    sizes = {each.name: 0 if absent.get(each.name) else count for each in fields(Numbers)}
    whole = Numbers(**{field: np.empty(size, np.float32) for field, size in sizes.items()})
    for start, part in reader.slices(name):
        for field in sizes:
            getattr(whole, field)[start : start + len(part.weights)] = getattr(part, field)
    return whole


def _of(state: TrainState, name: str) -> dict[str, Tensor]:
    """Returns one parameter's tensors by the field of Numbers that each is."""
    parts = {"weights": state.weights, "m": state.exp_avg, "v": state.exp_avg_sq, "average": state.ema}
    every = parts | {"long": state.ema_long}
    return {field: tensors[name] for field, tensors in every.items() if name in tensors}


def _put_one(tensor: Tensor, values: Float32s) -> None:
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))


def _refuse(path: Path, name: str, *, finite: bool) -> None:
    if not finite:
        raise CheckpointError(f"{name} in {path.name} is not finite")
