"""Holds what flows are conditioned on: captions and first frames of a batch of clips.

Legend: B clips, L text tokens, D token width, P pooled width, C H W latents, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Holds what is known of B clips: captions and, where the run was trained for them, first frames."""

    tokens: Tensor  # [B L D]
    mask: Tensor  # [B L], True where there is text
    pooled: Tensor | None  # [B P]
    first: Tensor | None = None  # [B C+1 1 H W], as experts take it (model/first_frame.py)
    first_features: Tensor | None = None  # [B F], as the router takes them

    def without_text(self) -> Condition:
        """Returns the same clips without captions.

        An empty mask is what tells an expert that there is no text.
        """
        return replace(self, mask=torch.zeros_like(self.mask))

    def with_text_of(self, other: Condition) -> Condition:
        """Returns the same clips with the other's captions."""
        return replace(self, tokens=other.tokens, mask=other.mask, pooled=other.pooled)

    def followed_by(self, other: Condition) -> Condition:
        """Returns all clips of this condition, then all of the other."""
        after = dict(other._known())
        return replace(self, **{name: torch.cat([value, after[name]]) for name, value in self._known()})

    def pick(self, rows: Tensor) -> Condition:
        """Returns what is known of the clips `rows`, in their order; a row may come twice."""
        return replace(self, **{name: value[rows] for name, value in self._known()})

    def part(self, rows: slice) -> Condition:
        """Returns what is known of a stretch of the clips, without copying it."""
        return replace(self, **{name: value[rows] for name, value in self._known()})

    def _known(self) -> Iterator[tuple[str, Tensor]]:
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ((name, value) for name, value in found if value is not None)
