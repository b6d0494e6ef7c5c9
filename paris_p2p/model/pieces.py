"""Describes how one of our tensors is made from another family's checkpoint; tensors are read when made.

Images become clips as in I3D (arXiv 1705.07750, section 3.1): a patch over several frames gets the image's
weights divided by their number, so that a still clip gives what its image gave; every frame is read out as
the image was.
Legend: D width, C channels, F H W frames, height and width of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from paris_p2p.model.layers import Patch

SourceTensors = Mapping[str, Tensor]
AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Piece:
    """Makes one of our tensors from tensors of a checkpoint.

    `of` makes it of what is read; where making it took all of the checkpoint at once, it is `ready`.
    """

    theirs: tuple[str, ...]
    how: str
    of: Callable[..., Tensor] | None = None
    ready: Tensor | None = None

    def make(self, source: SourceTensors) -> Tensor:
        """Returns our tensor, in our shape if the checkpoint's had the right one.

        KeyError when one of the checkpoint's is missing.
        """
        if self.ready is not None:
            return self.ready
        read = [source[name] for name in self.theirs]
        return self.of(*read) if self.of is not None else read[0]


Pieces = dict[str, Piece]


def linear(ours: str, *theirs: str) -> Pieces:
    """Maps a layer's weight and bias; several layers are stacked, one below the other."""
    how, of = (AS_IT_IS, None) if len(theirs) == 1 else ("stacked", _stacked)
    return {
        f"{ours}.{part}": Piece(tuple(f"{name}.{part}" for name in theirs), how, of)
        for part in ("weight", "bias")
    }


def _stacked(*rows: Tensor) -> Tensor:
    return torch.cat(rows)


def both(*names: str) -> tuple[str, ...]:
    """Returns the names of the weights and biases of layers."""
    return tuple(f"{name}.{part}" for name in names for part in ("weight", "bias"))


def ends(network: Any, embed: tuple[str, str], out: tuple[str, str], order: str) -> Pieces:
    """Maps the first and the last layer, without variances.

    The last one's rows come in `order` (p q: within a patch, c: channels).
    """
    patch, channels = network.patch, int(network.config["channels"])
    grown = f", for {patch.frames} frames" if patch.frames > 1 else ""
    opened = partial(inflate_embed, channels=channels, patch=patch)
    closed = partial(inflate_out, channels=channels, patch=patch, order=order)
    return {
        f"{embed[0]}.weight": Piece((f"{embed[1]}.weight",), f"flat{grown}", opened),
        f"{embed[0]}.bias": Piece((f"{embed[1]}.bias",), AS_IT_IS),
        **{
            f"{out[0]}.{part}": Piece((f"{out[1]}.{part}",), f"from rows ordered {order}{grown}", closed)
            for part in ("weight", "bias")
        },
    }


def inflate_embed(weight: Tensor, channels: int, patch: Patch) -> Tensor:
    """Inflates [D C H W], or flat, to [D C·F·H·W]: each of F frames gives its share.

    Weights that do not hold an image's patches stay as they are.
    """
    flat = weight.flatten(1)
    if flat.shape[1] != channels * patch.height * patch.width:
        return flat
    inflated: Tensor = repeat(flat, "d (c a) -> d (c f a)", c=channels, f=patch.frames) / patch.frames
    return inflated


def inflate_out(rows: Tensor, channels: int, patch: Patch, order: str) -> Tensor:
    """Inflates [H·W·C' .] or [C·H·W .] to [C·F·H·W .]: every frame is read out as the image was.

    Of more channels than C the first C are taken, which leaves out the variances.
    """
    area = patch.height * patch.width
    if len(rows) % area or len(rows) // area not in (channels, 2 * channels):
        return rows
    image = rearrange(rows, "(a c) ... -> c a ..." if order == "p q c" else "(c a) ... -> c a ...", a=area)
    inflated: Tensor = repeat(image[:channels], "c a ... -> (c f a) ...", f=patch.frames)
    return inflated
