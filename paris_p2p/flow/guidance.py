"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, Eq. 6) of a mixture, in its two forms.

`per_expert`, as published: each expert is guided by itself, and one set of weights, of the router with the
text, mixes the results: sum_k w_k(text) (u_k(other) + scale (u_k(text) - u_k(other))).
`exact`: u(other) + scale (u(text) - u(other)), each a mixture with its own posterior, of the router with
the text and with the other: sum_k w_k(text) u_k(text) and sum_k w_k(other) u_k(other).
The other side is no text, or a negative prompt. Both forms give the conditional flow at scale 1 and agree
when there is one expert. Legend: B clips, L text tokens. t = 1 is noise.
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
    """What is known of B clips: their captions and, where the run was trained for it, their first frames."""

    tokens: Tensor  # [B L D]
    mask: Tensor  # [B L], True where there is text
    pooled: Tensor | None  # [B P]
    first: Tensor | None = None  # [B C+1 1 H W], as experts take it (model/first_frame.py)
    first_features: Tensor | None = None  # [B F], as the router takes them

    def without_text(self) -> Condition:
        """The same clips without captions: an empty mask is what tells an expert that there is no text."""
        return replace(self, mask=torch.zeros_like(self.mask))

    def with_text_of(self, other: Condition) -> Condition:
        """The same clips with the other's captions."""
        return replace(self, tokens=other.tokens, mask=other.mask, pooled=other.pooled)

    def followed_by(self, other: Condition) -> Condition:
        """All clips of this condition, then all of the other."""
        theirs = dict(other._known())
        return replace(self, **{name: torch.cat([value, theirs[name]]) for name, value in self._known()})

    def pick(self, rows: Tensor) -> Condition:
        """What is known of clips `rows`, in their order; one may come twice."""
        return replace(self, **{name: value[rows] for name, value in self._known()})

    def part(self, rows: slice) -> Condition:
        """What is known of a stretch of the clips, without copying it."""
        return replace(self, **{name: value[rows] for name, value in self._known()})

    def _known(self) -> Iterator[tuple[str, Tensor]]:
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ((name, value) for name, value in found if value is not None)


def guided_velocity(
    form: str,
    pool: ExpertPool,
    route: Route,
    condition: Condition,
    scale: float,
    negative: Condition | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the velocity a sampler asks for, (x, t) -> v, guided away from the captions of `negative`, or
    from no text where there is none; UsageError for an unknown form.
    """
    check_form(form)
    if scale == 1:
        return lambda x, t: conditional(pool, route, condition, x, t)
    return lambda x, t: FORMS[form](pool, route, condition, scale, x, t, negative)


def conditional(pool: ExpertPool, route: Route, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    """The mixture with text, unguided: [B ...], [B] -> [B ...]."""
    return _mixed(pool, _routed(route, condition, x, t), condition, x, t)


def per_expert(
    pool: ExpertPool,
    route: Route,
    condition: Condition,
    scale: float,
    x: Tensor,
    t: Tensor,
    negative: Condition | None = None,
) -> Tensor:
    """Returns sum_k w_k (u_k(other) + scale (u_k(text) - u_k(other))), as one batch of 2 B: [B ...], [B] ->
    [B ...].
    """
    weights = _routed(route, condition, x, t)
    # the mixture is linear, so guiding after it with the same weights is guiding inside it
    return _guided(pool, weights, weights, condition, _other(condition, negative), scale, x, t)


def exact(
    pool: ExpertPool,
    route: Route,
    condition: Condition,
    scale: float,
    x: Tensor,
    t: Tensor,
    negative: Condition | None = None,
) -> Tensor:
    """Returns u(other) + scale (u(text) - u(other)), each mixed by its own posterior, as one batch of 2 B:
    [B ...], [B] -> [B ...].
    """
    other = _other(condition, negative)
    weights = _routed(route, condition, x, t)
    return _guided(pool, weights, _routed_if_worded(route, other, x, t), condition, other, scale, x, t)


def _other(condition: Condition, negative: Condition | None) -> Condition:
    return condition.without_text() if negative is None else condition.with_text_of(negative)


def _guided(
    pool: ExpertPool,
    with_text: Tensor,
    with_other: Tensor,
    condition: Condition,
    other: Condition,
    scale: float,
    x: Tensor,
    t: Tensor,
) -> Tensor:
    """Both mixtures in one batch of 2 B, and the guided sum of them: weights [B K] twice -> [B ...]."""
    weights = torch.cat([with_text, with_other])
    both = condition.followed_by(other)
    text, away = _mixed(pool, weights, both, torch.cat([x, x]), torch.cat([t, t])).chunk(2)
    return away + scale * (text - away)


def _routed_if_worded(route: Route, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    """Weights [B K] of the router with the captions, and without where a clip has none."""
    worded = condition.mask.any(1)
    silent = replace(condition, pooled=None)
    if not bool(worded.any()):
        return _routed(route, silent, x, t)
    spoken = _routed(route, condition, x, t)
    if bool(worded.all()):
        return spoken
    return torch.where(worded[:, None], spoken, _routed(route, silent, x, t))


def _routed(route: Route, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    """Weights [B K]; a first frame stays known where the text does not."""
    return route(
        x, t, condition.pooled, *(() if condition.first_features is None else (condition.first_features,))
    )


def _mixed(pool: ExpertPool, weights: Tensor, condition: Condition, x: Tensor, t: Tensor) -> Tensor:
    return mixed_velocity(
        pool, weights, x, t, condition.tokens, condition.mask, condition.pooled, condition.first
    )


def check_form(form: str) -> None:
    """Raises UsageError when no guidance form has that name."""
    if form not in FORMS:
        raise UsageError(f"no guidance form is called {form!r}; choose one of {', '.join(FORMS)}")


FORMS: dict[str, Callable[..., Tensor]] = {
    "per_expert": per_expert,
    "exact": exact,
}
