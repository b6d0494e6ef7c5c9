"""Draws one expert for each clip and keeps it: exact samples of a mixture, at the price of one expert a step.

A run's clips are a mixture, p(x0 | c) = sum_k p(k | c) p_k(x0 | c), and expert k's flow carries noise to
p_k(x0 | c). At t = 1 the noise says nothing of k, so p(k | x_1, c) = p(k | c): an expert drawn from that and
followed to t = 0 gives x0 of p_k(x0 | c), and the clips are a sample of p(x0 | c). The marginal flow
(flow/mixture.py, `full`) has the same law and asks all experts at each step. The most probable expert, chosen
anew at each step, is the flow of neither: clips are drawn to the commonest kind as long as the latent says
little, and clips whose kind is never the most probable one are not made at all.

A clip that followed its expert until t = T is a sample of sum_k p(k | c) p_k(x_T | c) = p(x_T | c), which is
the law of the marginal flow at T. What goes on exactly from there is the marginal flow, all experts by their
posterior, and not the most probable one.
Legend: B clips, K experts, `...` the rest of a clip. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def drawn_expert(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Returns weights [B K], each row one at the expert that was drawn from the softmax of its logits [B K].

    It is the inverse of the cumulative posterior at `uniforms` [B], in [0, 1), so a clip's number alone
    decides. A logit of -inf is never drawn: the posterior is that of the others.
    """
    shares = logits.double().softmax(1)
    reached = shares.cumsum(1)
    below = uniforms.to(shares)[:, None] * reached[:, -1:]
    drawn = torch.searchsorted(reached, below, right=True)  # [B 1], the first that is above
    # Rounding may take the number up to the last sum, above which there is none.
    last = shares.shape[1] - 1 - shares.flip(1).gt(0).int().argmax(1, keepdim=True)  # that can be drawn
    return torch.zeros_like(logits, dtype=torch.float32).scatter(1, drawn.minimum(last), 1.0)


def kept_until(kept: Tensor, until: float, after: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a route that gives the weights `kept` [B K] while t > until, and of `after` from then on."""

    def route(x: Tensor, t: Tensor, *known: Tensor | None) -> Tensor:
        early = t > until  # [B]
        if bool(early.all()):
            return kept
        return torch.where(early[:, None], kept, after(x, t, *known))

    return route
