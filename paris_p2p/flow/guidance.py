"""Guides a mixture without a classifier (Ho and Salimans 2022, arXiv 2207.12598, Eq. 6), in two forms.

`per_expert`, as published: each expert is guided by itself, and one set of weights, from the router with
text, mixes the results.
`exact`: u(no text) + scale (u(text) - u(no text)), where each u is a mixture with its own posterior, from the
router without and with the text. Both give the conditional flow at scale 1 and agree when there is one
expert.
Legend: B clips, L text tokens, D token width, P pooled width, K experts, F features. t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.flow.mixture import ExpertPool, mixed_velocity

# (x [B ...], t [B], pooled [B P] or None[, first_features [B F]]) -> weights [B K]
Route = Callable[..., Tensor]


@dataclass(frozen=True)
class Condition:
    """Holds what is known of B clips: captions and, where the run was trained for them, first frames."""

    tokens: Tensor  # [B L D]
    mask: Tensor  # [B L], True where there is text
    pooled: Tensor | None  # [B P]
    first: Tensor | None = None  # [B C+1 1 H W], as experts take it (model/first_frame.py)
    first_features: Tensor | None = None  # [B F], as the router takes them

    def with_none(self) -> Condition:
        """Returns all clips, then the same clips without captions.

        An empty mask is what tells an expert that there is no text.
        """
        twice = {name: torch.cat([value] * 2) for name, value in self._known()}
        return replace(self, **(twice | {"mask": torch.cat([self.mask, torch.zeros_like(self.mask)])}))

    def pick(self, rows: Tensor) -> Condition:
        """Returns what is known of the clips `rows`, in their order; a row may come twice."""
        return replace(self, **{name: value[rows] for name, value in self._known()})

    def _known(self) -> Iterator[tuple[str, Tensor]]:
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ((name, value) for name, value in found if value is not None)


def guided_velocity(
    form: str, pool: ExpertPool, route: Route, condition: Condition, scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the velocity that a sampler asks for, (x, t) -> v; UsageError for an unknown form."""
    check_form(form)
    if scale == 1:
        return lambda x, t: conditional(pool, route, condition, x, t)
    return lambda x, t: FORMS[form](pool, route, condition, scale, x, t)


def conditional(pool: ExpertPool, route: Route, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    """Returns the velocity of the mixture with text, unguided: [B ...], [B] -> [B ...]."""
    return _mixed(pool, _routed(route, condition, x, t), condition, x, t)


def per_expert(
    pool: ExpertPool, route: Route, condition: Condition, scale: float, x: Tensor, t: Tensor
) -> Tensor:
    """Returns sum_k w_k (u_k(none) + scale (u_k(text) - u_k(none))), computed as one batch of 2 B.

    [B ...], [B] -> [B ...].
    """
    weights = _routed(route, condition, x, t)
    doubled = _mixed(
        pool, torch.cat([weights] * 2), condition.with_none(), torch.cat([x, x]), torch.cat([t, t])
    )
    # The mixture is linear, so guiding after it with the same weights is guiding inside it.
    text, none = doubled.chunk(2)
    return none + scale * (text - none)


def exact(pool: ExpertPool, route: Route, condition: Condition, scale: float, x: Tensor, t: Tensor) -> Tensor:
    """Returns u(none) + scale (u(text) - u(none)), each mixed by its own posterior, as one batch of 2 B.

    [B ...], [B] -> [B ...].
    """
    weights = torch.cat(
        [_routed(route, condition, x, t), _routed(route, replace(condition, pooled=None), x, t)]
    )
    text, none = _mixed(pool, weights, condition.with_none(), torch.cat([x, x]), torch.cat([t, t])).chunk(2)
    return none + scale * (text - none)


def _routed(route: Route, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    """Returns the weights [B K]; a first frame stays known where the text does not."""
    return route(
        x, t, condition.pooled, *(() if condition.first_features is None else (condition.first_features,))
    )


def _mixed(pool: ExpertPool, weights: Tensor, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    return mixed_velocity(
        pool, weights, x, t, condition.tokens, condition.mask, condition.pooled, condition.first
    )


def check_form(form: str) -> None:
    """Raises UsageError, with the forms there are, when `form` is none of them."""
    if form not in FORMS:
        raise UsageError(f"no guidance form is called {form!r}; choose one of {', '.join(FORMS)}")


FORMS: dict[str, Callable[[ExpertPool, Route, Condition, float, Tensor, Tensor], Tensor]] = {
    "per_expert": per_expert,
    "exact": exact,
}
