"""Makes experts that are formulas, and a router that is one."""

import torch
from torch import Tensor

from paris_p2p.flow.condition import Condition


class Toys:
    """Answers (k + 1) x for expert k, plus the text's sum where there is text.

    It counts the clips that each expert was asked for.
    """

    def __init__(self, factors: tuple[float, ...] = (1.0, 2.0, 3.0)):
        self.factors = factors
        self.asked: list[tuple[int, int]] = []
        self.pooled: list[Tensor] = []
        self.first: list[Tensor] = []

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.asked.append((k, len(x)))
        if condition.pooled is not None:
            self.pooled.append(condition.pooled)
        if condition.first is not None:
            self.first.append(condition.first)
        text = (condition.tokens * condition.mask[..., None]).sum((1, 2))
        return x * self.factors[k] + (text * self.factors[k] + t).reshape(-1, *[1] * (x.dim() - 1))


def clips(count: int = 4) -> tuple[Tensor, Tensor, Condition]:
    """Returns x, t, and captions without pooled text."""
    x, t = torch.randn(count, 2, 3, 4, 4), torch.rand(count)
    return x, t, Condition(torch.randn(count, 5, 6), torch.ones(count, 5, dtype=torch.bool), None)
