"""Mixes experts' flows into the marginal flow: u(x, t) = sum_k p(k | x, t) u_k(x, t).

This is section 3 of DDM (arXiv 2501.05450). A routing turns the router's logits into weights; only experts
with weight are run, and only on the clips that gave it to them.
Legend: B clips, K experts, `...` the rest of a clip. t = 1 is noise. A logit of -inf stands for an absent
expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.flow.condition import Condition


class ExpertPool(Protocol):
    """Gives experts by number; a pool may bring an expert into memory only when it is asked for."""

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Returns expert k's v [B ...] at x [B ...], t [B], given what is known of the clips."""
        ...


@dataclass(frozen=True)
class Routing:
    """Says how logits become weights: a name in ROUTINGS, and the numbers that some of them take."""

    name: str = "top_k"
    top_k: int = 1
    threshold: float = 0.1  # a share of the posterior
    expert: int = 0  # of `single`

    def __post_init__(self) -> None:
        if self.name not in ROUTINGS:
            raise UsageError(f"no routing is called {self.name!r}; choose one of {', '.join(ROUTINGS)}")
        if not isinstance(self.top_k, int) or self.top_k < 1 or not 0 <= self.threshold <= 1:
            raise UsageError(
                "top-k must be 1 or more and the threshold between 0 and 1, "
                f"not {self.top_k} and {self.threshold}"
            )

    @property
    def needs_router(self) -> bool:
        """Says whether this routing asks the router."""
        return self.name in ("top_k", "full", "threshold")

    def check_router(self, there: bool, experts: int) -> None:
        """Raises UsageError when the router must choose among `experts` and is not there.

        Without a router any such choice would be arbitrary.
        """
        if self.needs_router and not there and experts > 1:
            raise UsageError(
                f"routing {self.name} asks the router which of {experts} experts to use, "
                "and the router has no weights here; wait until it has a checkpoint and fetch it, "
                "or choose the routing uniform (--routing uniform), which asks all experts alike"
            )

    def weights(self, logits: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Returns weights [B K] that sum to one, from logits [B K]; `oracle` takes the true `clusters` [B].

        UsageError when no expert is left that may get weight.
        """
        if not bool((logits > -torch.inf).any(1).all()):
            raise UsageError("no expert is there to route to")
        weights = ROUTINGS[self.name](self, logits.float(), clusters)
        if not bool(weights[logits == -torch.inf].eq(0).all()):
            raise UsageError(
                f"the routing {self.name} asks for an expert that is not there; "
                "use top_k, or fetch all experts"
            )
        return weights


def _top_k(routing: Routing, logits: Tensor, clusters: Tensor | None) -> Tensor:
    """Returns the k most probable, renormalised."""
    kept = logits.topk(min(routing.top_k, logits.shape[1]), dim=1)
    return torch.zeros_like(logits).scatter(1, kept.indices, kept.values.softmax(1))


def _full(routing: Routing, logits: Tensor, clusters: Tensor | None) -> Tensor:
    return logits.softmax(1)


def _threshold(routing: Routing, logits: Tensor, clusters: Tensor | None) -> Tensor:
    """Returns all at or above the threshold, and always the most probable, renormalised."""
    shares = logits.softmax(1)
    kept = (shares >= routing.threshold) & (shares > 0)
    kept.scatter_(1, shares.argmax(1, keepdim=True), True)
    return (shares * kept) / (shares * kept).sum(1, keepdim=True)


def _uniform(routing: Routing, logits: Tensor, clusters: Tensor | None) -> Tensor:
    """Returns equal weights for all experts that are there: a plain ensemble."""
    there = (logits > -torch.inf).float()
    return there / there.sum(1, keepdim=True)


def _oracle(routing: Routing, logits: Tensor, clusters: Tensor | None) -> Tensor:
    if clusters is None:
        raise UsageError("oracle routing needs the true cluster of every clip")
    return torch.zeros_like(logits).scatter(1, clusters[:, None], 1.0)


def _single(routing: Routing, logits: Tensor, clusters: Tensor | None) -> Tensor:
    if not 0 <= routing.expert < logits.shape[1]:
        raise UsageError(f"there is no expert {routing.expert}; there are {logits.shape[1]}, from 0 on")
    return torch.zeros_like(logits).index_fill(1, torch.tensor([routing.expert], device=logits.device), 1.0)


ROUTINGS: dict[str, Callable[[Routing, Tensor, Tensor | None], Tensor]] = {
    "top_k": _top_k,
    "full": _full,
    "threshold": _threshold,
    "uniform": _uniform,
    "oracle": _oracle,
    "single": _single,
}


def mixed_velocity(pool: ExpertPool, weights: Tensor, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """Returns sum_k w_k u_k(x, t) in float32, running each expert once, on the clips that route to it.

    Weights [B K], x [B ...], t [B] -> [B ...].
    """
    mixed = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for k in weights.any(0).nonzero().flatten().tolist():
        rows = weights[:, k].nonzero().flatten()  # clips that route to k
        v = pool.velocity(k, x[rows], t[rows], condition.pick(rows)).float()
        mixed.index_add_(0, rows, v * weights[rows, k].reshape(-1, *[1] * (x.dim() - 1)))
    return mixed


def only_present(logits: Tensor, present: list[int]) -> Tensor:
    """Sets the logits [B K] of all experts but those present to -inf.

    Weights made from them are then renormalised among the experts that are there.
    """
    there = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    there[present] = True
    return logits.masked_fill(~there, -torch.inf)
