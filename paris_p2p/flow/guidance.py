"""Guides a mixture without a classifier (Ho and Salimans 2022, arXiv 2207.12598, Eq. 6), in two forms.

`per_expert`, as published: each expert is guided by itself, and one set of weights, from the router with the
text, mixes the results: sum_k w_k(text) (u_k(other) + scale (u_k(text) - u_k(other))).
`exact`: u(other) + scale (u(text) - u(other)), where each u is a mixture with its own posterior, from the
router with the text and with the other: sum_k w_k(text) u_k(text) and sum_k w_k(other) u_k(other).
The other side is no text, or a negative prompt. Both forms give the conditional flow at scale 1 and agree
when there is one expert.
Legend: B clips, P pooled width, F features, K experts. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.mixture import ExpertPool, mixed_velocity

# (x [B ...], t [B], pooled [B P] or None[, first_features [B F]]) -> weights [B K]
Route = Callable[..., Tensor]


@dataclass(frozen=True)
class Guidance:
    """Holds what a guided flow is made of: the routed mixture, its two sides and the scale."""

    pool: ExpertPool
    route: Route
    text: Condition
    other: Condition  # without text, or with a negative prompt
    scale: float

    def combined(self, weights: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Returns other + scale (text - other), both sides mixed in one batch of 2 B.

        Weights [2 B K], x [B ...], t [B] -> [B ...].
        """
        both = self.text.followed_by(self.other)
        mixed = mixed_velocity(self.pool, weights, torch.cat([x, x]), torch.cat([t, t]), both)
        text, other = mixed.chunk(2)
        return other + self.scale * (text - other)


def guided_velocity(
    form: str,
    pool: ExpertPool,
    route: Route,
    condition: Condition,
    scale: float,
    negative: Condition | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the velocity that a sampler asks for, (x, t) -> v; UsageError for an unknown form.

    It is guided away from the captions of `negative`, or from no text where that is None.
    """
    check_form(form)
    if scale == 1:
        return lambda x, t: conditional(pool, route, condition, x, t)
    other = condition.without_text() if negative is None else condition.with_text_of(negative)
    guidance = Guidance(pool, route, condition, other, scale)
    return lambda x, t: FORMS[form](guidance, x, t)


def conditional(pool: ExpertPool, route: Route, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    """Returns the velocity of the mixture with text, unguided: [B ...], [B] -> [B ...]."""
    return mixed_velocity(pool, _routed(route, condition, x, t), x, t, condition)


def per_expert(guidance: Guidance, x: Tensor, t: Tensor) -> Tensor:
    """Returns sum_k w_k (u_k(other) + scale (u_k(text) - u_k(other))): [B ...], [B] -> [B ...]."""
    weights = _routed(guidance.route, guidance.text, x, t)
    # The mixture is linear, so guiding after it with the same weights is guiding inside it.
    return guidance.combined(torch.cat([weights, weights]), x, t)


def exact(guidance: Guidance, x: Tensor, t: Tensor) -> Tensor:
    """Returns u(other) + scale (u(text) - u(other)), each mixed by its own posterior.

    [B ...], [B] -> [B ...].
    """
    weights = _routed(guidance.route, guidance.text, x, t)
    away = _routed_if_worded(guidance.route, guidance.other, x, t)
    return guidance.combined(torch.cat([weights, away]), x, t)


def _routed_if_worded(route: Route, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    """Returns the router's weights [B K] with captions, and without where a clip has none."""
    worded = condition.mask.any(1)
    silent = replace(condition, pooled=None)
    if not bool(worded.any()):
        return _routed(route, silent, x, t)
    spoken = _routed(route, condition, x, t)
    if bool(worded.all()):
        return spoken
    return torch.where(worded[:, None], spoken, _routed(route, silent, x, t))


def _routed(route: Route, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    """Returns the weights [B K]; a first frame stays known where the text does not."""
    return route(
        x, t, condition.pooled, *(() if condition.first_features is None else (condition.first_features,))
    )


def check_form(form: str) -> None:
    """Raises UsageError when no guidance form has that name."""
    if form not in FORMS:
        raise UsageError(f"no guidance form is called {form!r}; choose one of {', '.join(FORMS)}")


FORMS: dict[str, Callable[[Guidance, Tensor, Tensor], Tensor]] = {"per_expert": per_expert, "exact": exact}
