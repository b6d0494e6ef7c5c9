"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, Eq. 6) of a mixture, in its two forms (RECIPE: maths).

`per_expert`, as published: each expert is guided by itself, and one set of weights, of the router with text, mixes the results.
`exact`: u(no text) + scale (u(text) - u(no text)), each a mixture with its own posterior, of the router without and with the text.
Both give the conditional flow at scale 1 and agree when there is one expert. Legend: B clips, L text tokens. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.flow.mixture import ExpertPool, mixed_velocity

Route = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x [B ...], t [B], pooled [B P] or None) -> weights [B K]


@dataclass(frozen=True)
class Condition:
    """The captions of B clips."""

    tokens: Tensor  # [B L D]
    mask: Tensor  # [B L], True where there is text
    pooled: Tensor | None  # [B P]

    def with_none(self) -> Condition:
        """All captions, then as many clips without one: an empty mask is what tells an expert that there is no text."""
        pooled = None if self.pooled is None else torch.cat([self.pooled] * 2)
        return Condition(torch.cat([self.tokens] * 2), torch.cat([self.mask, torch.zeros_like(self.mask)]), pooled)

    def pick(self, rows: Tensor) -> Condition:
        """The captions of clips `rows`, in their order; one may come twice."""
        return Condition(self.tokens[rows], self.mask[rows], None if self.pooled is None else self.pooled[rows])


def guided_velocity(
    form: str, pool: ExpertPool, route: Route, condition: Condition, scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity a sampler asks for, (x, t) -> v; UsageError for an unknown form."""
    if form not in FORMS:
        raise UsageError(f"no guidance form is called {form!r}; choose one of {', '.join(FORMS)}")
    if scale == 1:
        return lambda x, t: conditional(pool, route, condition, x, t)
    return lambda x, t: FORMS[form](pool, route, condition, scale, x, t)


def conditional(pool: ExpertPool, route: Route, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    """The mixture with text, unguided: [B ...], [B] -> [B ...]."""
    return mixed_velocity(pool, route(x, t, condition.pooled), x, t, condition.tokens, condition.mask, condition.pooled)


def per_expert(pool: ExpertPool, route: Route, condition: Condition, scale: float, x: Tensor, t: Tensor) -> Tensor:
    """sum_k w_k (u_k(none) + scale (u_k(text) - u_k(none))), as one batch of 2 B: [B ...], [B] -> [B ...]."""
    weights = route(x, t, condition.pooled)
    both = condition.with_none()
    doubled = mixed_velocity(pool, torch.cat([weights] * 2), torch.cat([x, x]), torch.cat([t, t]), both.tokens, both.mask, both.pooled)
    text, none = doubled.chunk(2)  # the mixture is linear, so guiding after it with the same weights is guiding inside it
    return none + scale * (text - none)


def exact(pool: ExpertPool, route: Route, condition: Condition, scale: float, x: Tensor, t: Tensor) -> Tensor:
    """u(none) + scale (u(text) - u(none)), each mixed by its own posterior, as one batch of 2 B: [B ...], [B] -> [B ...]."""
    weights = torch.cat([route(x, t, condition.pooled), route(x, t, None)])
    both = condition.with_none()
    text, none = mixed_velocity(pool, weights, torch.cat([x, x]), torch.cat([t, t]), both.tokens, both.mask, both.pooled).chunk(2)
    return none + scale * (text - none)


FORMS: dict[str, Callable[[ExpertPool, Route, Condition, float, Tensor, Tensor], Tensor]] = {"per_expert": per_expert, "exact": exact}
