"""Guides a mixture without a classifier (Ho and Salimans 2022, arXiv 2207.12598, Eq. 6), in two forms.

`per_expert`, as published: each expert is guided by itself, and one set of weights, from the router with the
text, mixes the results: sum_k w_k(text) (u_k(other) + scale (u_k(text) - u_k(other))).
`exact`: u(other) + scale (u(text) - u(other)), where each u is a mixture with its own posterior, from the
router with the text and with the other: sum_k w_k(text) u_k(text) and sum_k w_k(other) u_k(other).
The other side is no text, or a negative prompt. Both forms give the conditional flow at scale 1 and agree
when there is one expert.

When an expert k is drawn and kept (flow/kept.py), the flow with text is that of the condition (text, k). Then
`per_expert` guides by the text inside the kind k, along p(x | k) p(text | x, k)^scale: both sides are the
kept expert's. `exact` guides by the whole condition, along p(x) p(text, k | x)^scale: with scale 0 it is the
flow without text of the whole mixture, so its other side keeps its own posterior, over all experts, at each
step. Were k given to that side too, it would be `per_expert`.

Guidance may be for an interval of times alone (Kynkäänniemi et al. 2024, arXiv 2404.07724): at others
the scale is 1, and one side is computed. There the lower end is left out; here both ends count.
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
from paris_p2p.flow.sampler import Velocity

# (x [B ...], t [B], pooled [B P] or None[, first_features [B F]]) -> weights [B K]
Route = Callable[..., Tensor]
GuidedTimes = tuple[float, float]  # from the lower to the higher one, both in it
EVERYWHERE: GuidedTimes = (0.0, 1.0)


@dataclass(frozen=True)
class Guidance:
    """Holds what a guided flow is made of: the routed mixture, its two sides and the scale."""

    pool: ExpertPool
    route: Route
    text: Condition
    other: Condition  # without text, or with a negative prompt
    scale: float
    away: Route | None = None  # of the other side in the exact form; None: as `route`

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
    away: Route | None = None,
) -> Velocity:
    """Returns the velocity that a sampler asks for, (x, t) -> v; UsageError for an unknown form.

    It is guided away from the captions of `negative`, or from no text where that is None. In the exact form
    that side is routed by `away` where it is given.
    """
    check_form(form)
    if scale == 1:
        return lambda x, t: conditional(pool, route, condition, x, t)
    other = condition.without_text() if negative is None else condition.with_text_of(negative)
    guidance = Guidance(pool, route, condition, other, scale, away)
    return lambda x, t: FORMS[form](guidance, x, t)


def within(interval: GuidedTimes, inside: Velocity, outside: Velocity) -> Velocity:
    """Returns the velocity that is `inside` at times of the interval and `outside` at others.

    A batch has one time, as a sampler's has.
    """
    low, high = interval
    # Compared as t is: 0.6 as it is typed lies below the float32 that is nearest to it.
    return lambda x, t: (inside if bool((t[0] >= low) & (t[0] <= high)) else outside)(x, t)


def check_interval(interval: GuidedTimes) -> None:
    """Raises UsageError unless the interval is one of times, lower end first."""
    if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise UsageError(
            f"guidance in the interval {','.join(f'{time:g}' for time in interval)}: give two times between "
            "0, the clip, and 1, noise, the lower one first"
        )


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
    away = _routed_if_worded(guidance.away or guidance.route, guidance.other, x, t)
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
