"""Stores checkpoints as two safetensors files: weights (EMA, bf16) to generate with, resume state (fp32).

The resume state, from which training goes on, holds four tensors for each parameter: `weights.<name>`,
`exp_avg.<name>`, `exp_avg_sq.<name>` and `ema.<name>` (state_parts.py says where a run has others); the
counters stand in both files' metadata. The files are written tensor by tensor, so that no second copy of a
large model is ever in memory, and in a fixed order, so that the same state makes the same blob. A run may
also give weights to start from: one tensor for each parameter, all bf16 or all fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris_p2p.errors import CheckpointError, DivergedError
from paris_p2p.model.state_parts import LONG, PARTS, PLAIN, StateParts
from paris_p2p.model.tensor_file import Shapes, open_tensors, write_tensors

BETAS = (0.9, 0.999)  # of AdamW
# By Cauchy and Schwarz m^2 <= v (1 - b1)^2 / ((1 - b2) (1 - b1^2 / b2)) for any gradients; rounded up, and
# above what underflows.
MOMENT_RATIO, MOMENT_FLOOR = 7.5, 1e-12

TWO_AVERAGES = {"averages": "2"}  # what weights to generate with say where they hold a longer average, too

_FORMAT = {
    "weights": "paris-weights/1",
    "resume": "paris-resume/1",
    "compact": "paris-resume/2",
    "merged": "paris-merged/1",
    "initial": "paris-initial/1",
}
_DTYPES = {
    "weights": (torch.bfloat16,),
    "resume": (torch.float32,),
    "compact": (torch.uint8,),
    "merged": (torch.uint8,),
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
        """Returns what the metadata of a file of this kind says."""
        counts = {"steps": str(self.steps), "clips": str(self.clips)}
        return {"format": "pt", "paris": _FORMAT[kind], "run": self.run, "slot": self.slot, **counts}


def no_note(average: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns nothing: most weights files say no more than their counters."""
    return {}


AverageNote = Callable[[Mapping[str, Tensor]], Mapping[str, str]]


@dataclass(frozen=True)
class TrainState:
    """Holds all that resuming needs: name -> float32 tensor.

    The tensors are the trainer's own, not copies.
    """

    counters: Counters
    weights: Mapping[str, Tensor]
    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]  # without the matrices that Muon trains
    ema: Mapping[str, Tensor]
    notes: Mapping[str, str] = field(default_factory=dict)  # more metadata of the resume state
    ema_long: Mapping[str, Tensor] = field(default_factory=dict)  # of runs that keep two averages
    # Says more metadata of the weights file, of the average as it is written there.
    average_note: AverageNote = no_note

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (part.name, tensor) in the order in which they are written."""
        for part in PARTS:
            for name, tensor in getattr(self, part).items():
                yield f"{part}.{name}", tensor


def empty_state(counters: Counters, shapes: Shapes, parts: StateParts = PLAIN) -> TrainState:
    """Returns a state with memory of its own, to be loaded into."""
    weights, first, second, ema, long = (
        {name: torch.empty(shape) for name, shape in shapes.items() if parts.has(part, name, shape)}
        for part in PARTS
    )
    return TrainState(counters, weights, first, second, ema, ema_long=long)


def copy_state(source: TrainState, target: TrainState) -> None:
    """Copies every tensor of a state into another's, which may be on another device."""
    with torch.no_grad():
        for (_, value), (_, tensor) in zip(source.tensors(), target.tensors(), strict=True):
            tensor.copy_(value)


def write_checkpoint(folder: Path, state: TrainState) -> tuple[Path, Path]:
    """Writes both files into `folder`, whole or not at all; returns (weights, resume).

    DivergedError, before anything is written, when a tensor is not finite; DiskFullError, ReadOnlyError.
    """
    refuse_not_finite(state)
    weights, resume = checkpoint_paths(folder, state.counters)
    metadata = state.counters.metadata("resume") | dict(state.notes)
    write_tensors(resume, metadata, torch.float32, dict(state.tensors()))
    write_average(weights, state)
    return weights, resume


def refuse_not_finite(state: TrainState) -> None:
    """Raises DivergedError when a tensor of the state is not finite."""
    for name, tensor in state.tensors():
        if not bool(tensor.isfinite().all()):
            raise DivergedError(
                f"{name} is not finite at step {state.counters.steps}; nothing was written; "
                "go on from the last one"
            )


def checkpoint_paths(folder: Path, counters: Counters) -> tuple[Path, Path]:
    """Returns the names of a checkpoint's files in a folder: (weights, resume)."""
    steps = counters.steps
    return folder / f"weights-{steps:09}.safetensors", folder / f"resume-{steps:09}.safetensors"


def write_average(path: Path, state: TrainState) -> None:
    """Writes a state's average, or both, as the weights to generate with; DiskFullError, ReadOnlyError."""
    metadata = state.counters.metadata("weights") | (TWO_AVERAGES if state.ema_long else {})
    metadata |= state.average_note(state.ema)
    long = {LONG + name: tensor for name, tensor in state.ema_long.items()}
    write_tensors(path, metadata, torch.bfloat16, dict(state.ema) | long)


def write_weights(
    path: Path, counters: Counters, tensors: Mapping[str, Tensor], note: Mapping[str, str] | None = None
) -> None:
    """Writes weights to generate with, with a note of the average; DiskFullError, ReadOnlyError."""
    write_tensors(path, counters.metadata("weights") | dict(note or {}), torch.bfloat16, tensors)


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
    write_tensors(path, {"format": "pt", "paris": _FORMAT["initial"]}, dtype, tensors)


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


def resume_note(path: Path, name: str) -> str:
    """Returns what a resume state's metadata say beside its counters; empty when nothing. CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get(name, ""))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is not a resume state ({str(error)[:160]})") from error


def check_weights(
    path: Path, shapes: Shapes, counters: Counters | None, parts: StateParts | None = None
) -> None:
    """Raises CheckpointError unless the file holds a slot's weights.

    Checked are names, shapes, bf16, finite values, and, when given, `counters` and whether there are as many
    averages as `parts` say.
    """
    two = has_two_averages(path)
    if parts is not None and two != parts.two_averages:
        raise CheckpointError(f"{path.name} holds {1 + two} averages, the run keeps {2 - two}")
    with open_slot_file("weights", path, shapes, counters) as read:
        for name in shapes:
            _finite(path, name, read(name))
            if two:
                _finite(path, LONG + name, read(LONG + name))


def has_two_averages(path: Path) -> bool:
    """Tells whether weights to generate with say that they hold two averages; CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).items() >= TWO_AVERAGES.items()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file: {str(error)[:160]}"
        ) from error


@contextmanager
def averages_of(path: Path, shapes: Shapes) -> Iterator[Callable[[str], Tensor] | None]:
    """Opens a reader of both averages in weights to generate with; None where there is one.

    CheckpointError.
    """
    if not has_two_averages(path):
        yield None
        return
    with open_slot_file("weights", path, shapes, None) as read:
        yield read


def check_resume(
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
    _check_resume_tensors(path, shapes, counters, max_grad_norm, parts)
    with (
        open_slot_file("resume", path, parts.shapes(shapes), counters) as resume,
        open_slot_file("weights", weights_path, shapes, counters) as weights,
    ):
        for name in shapes:
            pairs = [("ema", name)] + [("ema_long", LONG + name)] * parts.two_averages
            for part, published in pairs:
                if not torch.equal(resume(f"{part}.{name}").to(torch.bfloat16), weights(published)):
                    raise CheckpointError(
                        f"{published} in {weights_path.name} is not the average in {path.name}; "
                        "the files do not belong together"
                    )


def load_resume(path: Path, state: TrainState, max_grad_norm: float, parts: StateParts = PLAIN) -> None:
    """Copies a resume state into `state`'s tensors, once all of it is checked.

    CheckpointError, also when its counters are not `state.counters`.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.weights.items()}
    _check_resume_tensors(path, shapes, state.counters, max_grad_norm, parts)
    with torch.no_grad(), open_slot_file("resume", path, parts.shapes(shapes), state.counters) as read:
        for name, tensor in state.tensors():
            tensor.copy_(read(name))


def load_weights_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copies a slot's weights (bf16) into float32 `tensors`, one by one, checked. CheckpointError."""
    with (
        torch.no_grad(),
        open_slot_file(
            "weights", path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, None
        ) as read,
    ):
        for name, tensor in tensors.items():
            tensor.copy_(_finite(path, name, read(name)))


def load_initial_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Copies the weights that a run starts from (bf16 or fp32) into float32 `tensors`, once all are checked.

    CheckpointError.
    """
    with (
        torch.no_grad(),
        open_slot_file(
            "initial", path, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, None
        ) as read,
    ):
        for name in tensors:
            _finite(path, name, read(name))
        for name, tensor in tensors.items():
            tensor.copy_(read(name))


def load_resume_weights_into(
    path: Path,
    weights: Mapping[str, Tensor],
    counters: Counters,
    average: Mapping[str, Tensor] | None = None,
    parts: StateParts = PLAIN,
) -> None:
    """Copies the weights that training goes on with (fp32) into `weights`, and the average into `average`,
    where given. CheckpointError.
    """
    shapes = parts.shapes({name: tuple(tensor.shape) for name, tensor in weights.items()})
    with torch.no_grad(), open_slot_file("resume", path, shapes, counters) as read:
        for part, tensors in (("weights", weights), ("ema", average or {})):
            for name, tensor in tensors.items():
                tensor.copy_(_finite(path, name, read(f"{part}.{name}")))


def _check_resume_tensors(
    path: Path, shapes: Shapes, counters: Counters, max_grad_norm: float, parts: StateParts
) -> None:
    """Raises CheckpointError unless all is finite and the moments can come from clipped gradients.

    A forged moment would stall or blow up the successor's training.
    """
    squares = momentum = 0.0
    with open_slot_file("resume", path, parts.shapes(shapes), counters) as read:
        for name, shape in shapes.items():
            _finite(path, f"weights.{name}", read(f"weights.{name}"))
            _finite(path, f"ema.{name}", read(f"ema.{name}"))
            if parts.two_averages:
                _finite(path, f"ema_long.{name}", read(f"ema_long.{name}"))
            first = _finite(path, f"exp_avg.{name}", read(f"exp_avg.{name}"))
            if parts.by_muon(name, shape):
                momentum += float(first.double().square().sum())
                continue
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
    refuse_momentum(path, momentum, max_grad_norm)


def refuse_momentum(path: Path, squares: float, max_grad_norm: float) -> None:
    """Raises CheckpointError where Muon's momenta, whose squares sum to `squares`, are no mean of gradients
    of that norm.
    """
    if squares > 1.05 * max_grad_norm**2:  # of codes, too
        raise CheckpointError(
            f"the momentum in {path.name} has a norm of {squares**0.5:.4g}, "
            f"gradients of norm {max_grad_norm:.4g} give less"
        )


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{name} in {path.name} is not finite")
    return tensor


@contextmanager
def open_slot_file(
    kind: str, path: Path, shapes: Shapes, counters: Counters | None
) -> Iterator[Callable[[str], Tensor]]:
    """Opens a reader of single tensors, given only when the whole header is as it must be."""
    metadata = counters.metadata(kind) if counters else {"paris": _FORMAT[kind]}
    if kind == "weights" and has_two_averages(path):
        shapes = {**shapes, **{LONG + name: shape for name, shape in shapes.items()}}
    with open_tensors(path, shapes, _DTYPES[kind], metadata) as read:
        yield read
