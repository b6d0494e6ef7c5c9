"""Gives a trained router one output more, which changes nothing of what it says (docs/protocol.md, "Growth").

The new output is its parent's: the same row, and ln 2 less on the bias of both, so that the two together have
the share that the parent had. All other numbers stay as they are, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from paris_p2p.model.checkpoint import TrainState

OUTPUTS = ("out.weight", "out.bias")  # [K D] and [K] of K experts


def grow_outputs(weights: Mapping[str, Tensor], parents: Sequence[int]) -> dict[str, Tensor]:
    """Returns a router's weights with one output more for each of `parents`, in their order.

    A parent may be an output that was added just before.
    """
    grown = dict(weights)
    for parent in parents:
        bias = grown["out.bias"].clone()
        bias[parent] -= math.log(2)
        grown |= _doubled(grown | {"out.bias": bias}, parent)
    return grown


def grow_router(state: TrainState, parents: Sequence[int]) -> TrainState:
    """Returns a router's training state with one output more for each of `parents`, in their order.

    Each of the two outputs gets half the gradients that the one had, so first moments are halved and second
    ones quartered: AdamW's next step is as long as before, and the moments still come from clipped gradients.
    """
    return TrainState(
        state.counters,
        grow_outputs(state.weights, parents),
        share_out(state.exp_avg, parents, 1 / 2),
        share_out(state.exp_avg_sq, parents, 1 / 4),
        grow_outputs(state.ema, parents),
        state.notes,
        grow_outputs(state.ema_long, parents) if state.ema_long else {},
    )


def without_outputs(shapes: Mapping[str, tuple[int, ...]], count: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a router's parameters before it got its last `count` outputs."""
    return {
        name: (shape[0] - count, *shape[1:]) if name in OUTPUTS else tuple(shape)
        for name, shape in shapes.items()
    }


def share_out(moments: Mapping[str, Tensor], parents: Sequence[int], share: float) -> dict[str, Tensor]:
    """Returns moments with each parent's row given to two outputs, `share` of it to each, in the order of
    `parents`.
    """
    grown = dict(moments)
    for parent in parents:
        scaled = {name: grown[name].clone() for name in OUTPUTS}
        for tensor in scaled.values():
            tensor[parent] *= share
        grown |= _doubled(scaled, parent)
    return grown


def _doubled(tensors: Mapping[str, Tensor], parent: int) -> dict[str, Tensor]:
    """Returns the outputs' tensors with the parent's row once more at the end."""
    return {name: torch.cat([tensors[name], tensors[name][parent : parent + 1]]) for name in OUTPUTS}
