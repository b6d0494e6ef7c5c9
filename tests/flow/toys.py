"""Makes experts that are formulas, and a router that is one."""

import torch
from torch import Tensor


class Toys:
    """Answers (k + 1) x for expert k, plus the text's sum where there is text.

    It counts the clips that each expert was asked for.
    """

    def __init__(self, factors: tuple[float, ...] = (1.0, 2.0, 3.0)):
        self.factors = factors
        self.asked: list[tuple[int, int]] = []
        self.pooled: list[Tensor] = []
        self.first: list[Tensor] = []

    def velocity(
        self,
        k: int,
        x: Tensor,
        t: Tensor,
        tokens: Tensor,
        mask: Tensor,
        pooled: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        self.asked.append((k, len(x)))
        if pooled is not None:
            self.pooled.append(pooled)
        if first is not None:
            self.first.append(first)
        text = (tokens * mask[..., None]).sum((1, 2))
        return x * self.factors[k] + (text * self.factors[k] + t).reshape(-1, *[1] * (x.dim() - 1))


def clips(count: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns x, t, tokens, mask."""
    return (
        torch.randn(count, 2, 3, 4, 4),
        torch.rand(count),
        torch.randn(count, 5, 6),
        torch.ones(count, 5, dtype=torch.bool),
    )
