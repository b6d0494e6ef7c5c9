"""A mixture of Gaussians on a line, whose experts, posterior and samples are known in closed form.

Two captions, c = 0 and 1, weigh three kinds k and move them. Legend: B clips, K kinds, each clip one number.
t = 1 is noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paris_p2p.flow.condition import Condition

MEANS = torch.tensor([[-1.2, 0.1, 1.0], [-0.8, 0.4, 1.5]], dtype=torch.float64)  # [C K]
STDS = torch.tensor([0.35, 0.5, 0.3], dtype=torch.float64)  # [K]
SHARES = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64)  # p(k | c) [C K]
KINDS = 3


def captions(c: Tensor) -> Condition:
    """Returns the captions [B] as networks are told of them."""
    known = c.double()[:, None]
    return Condition(known[:, None], torch.ones(len(c), 1, dtype=torch.bool), known)


def log_p(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """Returns log p(x_t | c, k) for x [B 1], t [B], c [B]: [B K]."""
    mean = (1 - t)[:, None] * MEANS[c]
    var = ((1 - t)[:, None] * STDS) ** 2 + t[:, None] ** 2
    return -0.5 * ((x - mean) ** 2 / var + torch.log(2 * math.pi * var))


def log_p_of_kind(x: Tensor, t: Tensor) -> Tensor:
    """Returns log p(x_t, k) over both captions, which are equally frequent: [B 1], [B] -> [B K]."""
    both = [log_p(x, t, torch.full_like(t, c).long()) + SHARES[c].log() for c in (0, 1)]
    return torch.stack(both).logsumexp(0) - math.log(2)


def velocity_of(log_density: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Returns the flow of a density from its logarithm's gradient: v = (-t grad log p - x) / (1 - t).

    For x_t = (1 - t) x0 + t eps the gradient is -E[eps | x_t] / t, and v = E[eps - x0 | x_t].
    """
    (score,) = torch.autograd.grad(log_density.sum(), x)
    return ((-t[:, None] * score - x) / (1 - t)[:, None]).detach()


def logits(x: Tensor | None, t: Tensor | None, pooled: Tensor | None) -> Tensor:
    """Returns what a perfect router says, log p(k | x_t, c) up to a constant; without x of the caption alone,
    without a caption of x alone.
    """
    if pooled is None:
        assert x is not None
        assert t is not None
        return log_p_of_kind(x, t.double())
    c = pooled[:, 0].long()
    prior = SHARES[c].log()
    return prior if x is None or t is None else prior + log_p(x, t.double(), c)


class PerfectExperts:
    """Each is the flow of its own kind, with the caption or over both."""

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Returns v [B 1] of kind k at x [B 1], t [B]."""
        t, told = t.double(), condition.mask.any(1)
        mean = MEANS[condition.tokens[:, 0, 0].long(), k][:, None]
        left, var = (1 - t)[:, None], (((1 - t) * STDS[k]) ** 2 + t**2)[:, None]
        v = (t[:, None] - left * STDS[k] ** 2) / var * (x - left * mean) - mean
        if bool(told.all()):
            return v
        x = x.double().requires_grad_()
        return torch.where(told[:, None], v, velocity_of(log_p_of_kind(x, t)[:, k], x, t))


def real(c: Tensor, generator: torch.Generator) -> Tensor:
    """Returns clips [B] of the captions c [B], drawn from the mixture itself."""
    k = torch.multinomial(SHARES[c], 1, generator=generator)[:, 0]
    noise = torch.randn(len(c), generator=generator, dtype=torch.float64)
    return MEANS[c, k] + STDS[k] * noise


def moments(c: Tensor) -> tuple[float, float, float]:
    """Returns mean, variance and fourth central moment of clips of the captions c."""
    shares = torch.stack([(c == each).double().mean() for each in (0, 1)])[:, None] * SHARES  # [C K]
    mean = (shares * MEANS).sum()
    away = MEANS - mean
    variance = (shares * (away**2 + STDS**2)).sum()
    fourth = (shares * (away**4 + 6 * away**2 * STDS**2 + 3 * STDS**4)).sum()
    return float(mean), float(variance), float(fourth)


def two_sample(one: Tensor, other: Tensor) -> float:
    """Returns the statistic of Kolmogorov and Smirnov: the largest difference of the cumulative shares."""
    both = torch.cat([one, other]).sort().values
    shares = [torch.searchsorted(each.sort().values, both, right=True) / len(each) for each in (one, other)]
    return float((shares[0] - shares[1]).abs().max())
