"""Stores checkpoints as two safetensors files: weights (EMA, bf16) to generate with, resume state (fp32).

The resume state, from which training goes on, holds four tensors for each parameter: `weights.<name>`,
`exp_avg.<name>`, `exp_avg_sq.<name>` and `ema.<name>`; the counters stand in both files' metadata. The files
are written tensor by tensor, so that no second copy of a large model is ever in memory, and in a fixed order,
so that the same state makes the same blob. A run may also give weights to start from: one tensor for each
parameter, all bf16 or all fp32.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris_p2p.disk import NO_ROOM, replacing
from paris_p2p.errors import CheckpointError, DiskFullError, DivergedError, ReadOnlyError

BETAS = (0.9, 0.999)  # of AdamW
# By Cauchy and Schwarz m^2 <= v (1 - b1)^2 / ((1 - b2) (1 - b1^2 / b2)) for any gradients; rounded up, and
# above what underflows.
MOMENT_RATIO, MOMENT_FLOOR = 7.5, 1e-12
PARTS = ("weights", "exp_avg", "exp_avg_sq", "ema")

Shapes = Mapping[str, tuple[int, ...]]
_FORMAT = {"weights": "paris-weights/1", "resume": "paris-resume/1", "initial": "paris-initial/1"}
_WORDS = {torch.bfloat16: "BF16", torch.float32: "F32"}
_DTYPES = {
    "weights": (torch.bfloat16,),
    "resume": (torch.float32,),
    "initial": (torch.bfloat16, torch.float32),
}


@dataclass(frozen=True)
class Counters:
    """Says where in which lineage a state stands."""

    run: str
    slot: str
    steps: int
    clips: int

    def metadata(self, kind: str) -> dict[str, str]:
        counts = {"steps": str(self.steps), "clips": str(self.clips)}
        return {"format": "pt", "paris": _FORMAT[kind], "run": self.run, "slot": self.slot, **counts}


@dataclass(frozen=True)
class TrainState:
    """Holds all that resuming needs: name -> float32 tensor.

    The tensors are the trainer's own, not copies.
    """

    counters: Counters
    weights: Mapping[str, Tensor]
    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for part in PARTS:
            for name, tensor in getattr(self, part).items():
                yield f"{part}.{name}", tensor


def write_checkpoint(folder: Path, state: TrainState) -> tuple[Path, Path]:
    """Writes both files into `folder`, whole or not at all; returns (weights, resume).

    DivergedError, before anything is written, when a tensor is not finite; DiskFullError, ReadOnlyError.
    """
    for name, tensor in state.tensors():
        if not bool(tensor.isfinite().all()):
            raise DivergedError(
                f"{name} is not finite at step {state.counters.steps}; nothing was written; "
                "go on from the last one"
            )
    steps = state.counters.steps
    weights, resume = folder / f"weights-{steps:09}.safetensors", folder / f"resume-{steps:09}.safetensors"
    _write(resume, state.counters.metadata("resume"), torch.float32, dict(state.tensors()))
    _write(weights, state.counters.metadata("weights"), torch.bfloat16, dict(state.ema))
    return weights, resume


def write_initial(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Writes the weights that a run starts from, bf16 or fp32.

    DivergedError when one is not finite, DiskFullError, ReadOnlyError.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise DivergedError(
                f"{name} would not be finite in the first weights; nothing was written; "
                "use a checkpoint that is whole"
            )
    _write(path, {"format": "pt", "paris": _FORMAT["initial"]}, dtype, tensors)


def counters_of(path: Path) -> Counters:
    """Returns where a slot's weights stand, as their file says.

    CheckpointError when it says nothing readable.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("paris") != _FORMAT["weights"]:
            raise ValueError("no weights of a slot")
        counters = Counters(metadata["run"], metadata["slot"], int(metadata["steps"]), int(metadata["clips"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} does not say how far it was trained ({str(error)[:160]}); fetch it again"
        ) from error
    if not (0 <= counters.steps < 1 << 53 and 0 <= counters.clips < 1 << 53):
        raise CheckpointError(
            f"{path.name} says {counters.steps} steps and {counters.clips} clips, which cannot be; "
            "fetch it again"
        )
    return counters


def check_weights(path: Path, shapes: Shapes, counters: Counters | None) -> None:
    """Raises CheckpointError unless the file holds a slot's weights.

    Checked are names, shapes, bf16, finite values, and `counters` when given.
    """
    with _open("weights", path, shapes, counters) as read:
        for name in shapes:
            _finite(path, name, read(name))


def check_resume(
    path: Path, shapes: Shapes, counters: Counters, max_grad_norm: float, weights_path: Path
) -> None:
    """Raises CheckpointError unless the file is a resume state that belongs to `weights_path`.

    Its EMA, cast to bf16, must be what that file holds.
    """
    _check_resume_tensors(path, shapes, counters, max_grad_norm)
    with (
        _open("resume", path, _resume_shapes(shapes), counters) as resume,
        _open("weights", weights_path, shapes, counters) as weights,
    ):
        for name in shapes:
            if not torch.equal(resume(f"ema.{name}").to(torch.bfloat16), weights(name)):
                raise CheckpointError(
                    f"{name} in {weights_path.name} is not the average in {path.name}; "
                    "the files do not belong together"
                )


def load_resume(path: Path, state: TrainState, max_grad_norm: float) -> None:
    """Copies a resume state into `state`'s tensors, once all of it is checked.

    CheckpointError, also when its counters are not `state.counters`.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.weights.items()}
    _check_resume_tensors(path, shapes, state.counters, max_grad_norm)
    with torch.no_grad(), _open("resume", path, _resume_shapes(shapes), state.counters) as read:
        for name, tensor in state.tensors():
            tensor.copy_(read(name))


def load_weights_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copies a slot's weights (bf16) into float32 `tensors`, one by one, checked. CheckpointError."""
    with (
        torch.no_grad(),
        _open("weights", path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, None) as read,
    ):
        for name, tensor in tensors.items():
            tensor.copy_(_finite(path, name, read(name)))


def load_initial_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copies the weights that a run starts from (bf16 or fp32) into float32 `tensors`, once all are checked.

    CheckpointError.
    """
    with (
        torch.no_grad(),
        _open("initial", path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, None) as read,
    ):
        for name in tensors:
            _finite(path, name, read(name))
        for name, tensor in tensors.items():
            tensor.copy_(read(name))


def load_resume_weights_into(path: Path, tensors: Mapping[str, Tensor], counters: Counters) -> None:
    """Copies the weights that training goes on with (fp32) into `tensors`. CheckpointError."""
    shapes = _resume_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    with torch.no_grad(), _open("resume", path, shapes, counters) as read:
        for name, tensor in tensors.items():
            tensor.copy_(_finite(path, name, read(f"weights.{name}")))


def _check_resume_tensors(path: Path, shapes: Shapes, counters: Counters, max_grad_norm: float) -> None:
    """Raises CheckpointError unless all is finite and the moments can come from clipped gradients.

    A forged moment would stall or blow up the successor's training.
    """
    squares = 0.0
    with _open("resume", path, _resume_shapes(shapes), counters) as read:
        for name in shapes:
            _finite(path, f"weights.{name}", read(f"weights.{name}"))
            _finite(path, f"ema.{name}", read(f"ema.{name}"))
            first = _finite(path, f"exp_avg.{name}", read(f"exp_avg.{name}"))
            second = _finite(path, f"exp_avg_sq.{name}", read(f"exp_avg_sq.{name}"))
            if bool((second < 0).any()) or bool(
                (first.abs() > MOMENT_RATIO * second.clamp_min(0).sqrt() + MOMENT_FLOOR).any()
            ):
                raise CheckpointError(
                    f"exp_avg.{name} and exp_avg_sq.{name} in {path.name} cannot come from any gradients"
                )
            squares += float(second.double().sum())
    if squares > 1.01 * max_grad_norm**2:  # each step's gradients, together, are clipped to that norm
        raise CheckpointError(
            f"exp_avg_sq in {path.name} sums to {squares:.4g}, "
            f"gradients of norm {max_grad_norm:.4g} give less"
        )


def _resume_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {f"{part}.{name}": shape for part in PARTS for name, shape in shapes.items()}


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{name} in {path.name} is not finite")
    return tensor


@contextmanager
def _open(
    kind: str, path: Path, shapes: Shapes, counters: Counters | None
) -> Iterator[Callable[[str], Tensor]]:
    """Opens a reader of single tensors, given only when the whole header is as it must be."""
    try:
        with safe_open(path, framework="pt") as file:
            _check_header(kind, path, file, shapes, counters)
            yield file.get_tensor
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file: {str(error)[:160]}"
        ) from error


def _check_header(kind: str, path: Path, file: Any, shapes: Shapes, counters: Counters | None) -> None:
    names = set(file.keys())
    if names != set(shapes):
        odd = sorted(names ^ set(shapes))
        few = [name[:80] for name in odd[:3]]
        raise CheckpointError(
            f"{path.name} has {len(names)} tensors, the network {len(shapes)}; they differ in {few}"
        )
    words = [_WORDS[dtype] for dtype in _DTYPES[kind]]
    for name, shape in shapes.items():
        part = file.get_slice(name)
        if part.get_dtype() not in words or tuple(part.get_shape()) != tuple(shape):
            found = f"{part.get_dtype()} {part.get_shape()}"
            raise CheckpointError(
                f"{name} in {path.name} is {found}, the network needs {' or '.join(words)} {list(shape)}"
            )
    metadata = file.metadata() or {}
    expected = counters.metadata(kind) if counters else {"paris": _FORMAT[kind]}
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise CheckpointError(
                f"{path.name} says {key} = {str(metadata.get(key))[:80]!r}, its card and run say {value!r}"
            )


def _write(
    path: Path, metadata: Mapping[str, str], dtype: torch.dtype, tensors: Mapping[str, Tensor]
) -> None:
    """One safetensors file, atomically; a temporary file is removed when that fails."""
    try:
        with replacing(path) as file:
            file.write(_header(metadata, dtype, tensors))
            for tensor in tensors.values():
                plain = tensor.detach().to("cpu", dtype).contiguous()
                file.write(plain.flatten().view(torch.uint8).numpy().data)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(
                f"no space left for the checkpoint {path}; free some, or lower --max-disk"
            ) from error
        raise ReadOnlyError(f"cannot write the checkpoint {path}: {error.strerror}") from error


def _header(metadata: Mapping[str, str], dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in tensors.items():
        size_bytes = tensor.numel() * dtype.itemsize
        entries[name] = {
            "dtype": _WORDS[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + size_bytes],
        }
        at += size_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data stays aligned
    return len(text).to_bytes(8, "little") + text
