"""Turns experts trained to predict noise on the cosine schedule into velocities at flow time t.

The schedule is Eq. 17 of Nichol and Dhariwal 2021 (arXiv 2102.09672), continuous in s, without their cap on
beta: s = 0 is data and s = 1 noise, x_s = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1. The straight path
has the same noise-to-data ratio where sigma / alpha = t / (1 - t), and there x_s = (alpha + sigma) x_t; so
the conversion is exact, for any schedule that keeps variance.
Legend: B clips, `...` the rest of a clip. t = 1 is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Epsilon = Callable[[Tensor, Tensor], Tensor]  # (x_s [B ...], s [B]) -> eps [B ...]

_OFFSET = 0.008  # keeps the noise of the first steps from vanishing (section 3.2 of that paper)
_START = _OFFSET / (1 + _OFFSET) * math.pi / 2  # the angle at s = 0
_TURN = math.pi / 2 / (1 + _OFFSET)  # by how much it grows until s = 1


@dataclass(frozen=True)
class Clamp:
    """Keeps a wrong epsilon from exploding near t = 1, where x0 is divided by almost nothing.

    The defaults are the published 20 and 0.01.
    """

    x0: float = 20.0
    alpha: float = 0.01


def cosine(s: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (alpha, sigma) of the cosine schedule at s, in float64: [B] -> [B], [B]."""
    turned = s.double() * _TURN
    # 1 - alpha^2 as a product of sines: the difference itself would lose all digits near s = 0.
    square = torch.sin(turned) * torch.sin(turned + 2 * _START)
    return torch.cos(turned + _START) / math.cos(_START), square.clamp(min=0).sqrt() / math.cos(_START)


def scales(t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (alpha, sigma) of unit length with sigma / alpha = t / (1 - t), in float64: [B] -> [B], [B]."""
    t = t.double()
    length = torch.hypot(1 - t, t)
    return (1 - t) / length, t / length


def cosine_time(t: Tensor) -> Tensor:
    """Returns the s whose `cosine` equals `scales` of t, in float64: [B] -> [B]."""
    alpha, sigma = scales(t)
    angle = torch.atan2(torch.hypot(sigma, alpha * math.sin(_START)), alpha * math.cos(_START))
    # The sine of the turn, as a quotient for the same reason as in `cosine`.
    sine = sigma**2 * math.cos(_START) ** 2 / torch.sin(angle + _START)
    return (torch.atan2(sine, torch.cos(angle - _START)) / _TURN).clamp(0, 1)


def flow_time(s: Tensor) -> Tensor:
    """Returns the t whose `scales` equal `cosine` of s; inverts `cosine_time`, in float64: [B] -> [B]."""
    alpha, sigma = cosine(s)
    return sigma / (alpha.clamp(min=0) + sigma)


def diffuse(x0: Tensor, eps: Tensor, s: Tensor) -> Tensor:
    """Returns x_s = alpha x0 + sigma eps, in which a noise predictor learns to find eps.

    [B ...], [B ...], [B] -> [B ...].
    """
    alpha, sigma = (_rows(scale, x0) for scale in cosine(s))
    return alpha * x0 + sigma * eps


def predicted_data(x_t: Tensor, eps: Tensor, t: Tensor, least_alpha: float = 0.0) -> Tensor:
    """Returns x0 = ((alpha + sigma) x_t - sigma eps) / alpha, dividing by no less than `least_alpha`.

    [B ...], [B ...], [B] -> [B ...].
    """
    alpha, sigma = scales(t)
    divisor = _rows(alpha.clamp(min=least_alpha), x_t)
    return (_rows(alpha + sigma, x_t) * x_t - _rows(sigma, x_t) * eps) / divisor


def epsilon_velocity(epsilon: Epsilon, x_t: Tensor, t: Tensor, clamp: Clamp | None = None) -> Tensor:
    """Returns v = eps - x0 at x_t [B ...], t [B] of a network that predicts eps at (x_s, s): [B ...].

    Without a clamp the result is exact for t < 1 and not finite at t = 1, where x_t says nothing of the data.
    """
    alpha, sigma = scales(t)
    eps = epsilon(_rows(alpha + sigma, x_t) * x_t, cosine_time(t).to(t.dtype)).to(x_t.dtype)
    if clamp is None:
        return eps - predicted_data(x_t, eps, t)
    return eps - predicted_data(x_t, eps, t, clamp.alpha).clamp(-clamp.x0, clamp.x0)


def _rows(values: Tensor, x: Tensor) -> Tensor:
    """Shapes one number for each clip so that it multiplies x: [B] -> [B 1 ... 1]."""
    return values.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
