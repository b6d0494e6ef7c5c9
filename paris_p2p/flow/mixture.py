"""Mixes experts' flows into the marginal flow: u(x, t) = sum_k p(k | x, t) u_k(x, t).

This is section 3 of DDM (arXiv 2501.05450). A routing turns the router's logits into weights; only experts
with weight are run, and only on the clips that gave it to them. Two routings ask the router once, before the
first step, and keep its answer: `kept` draws an expert (flow/kept.py), `text` takes the most probable one.
Legend: B clips, K experts, `...` the rest of a clip. t = 1 is noise. A logit of -inf stands for an absent
expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from paris_p2p.errors import UsageError
from paris_p2p.flow.condition import Condition
from paris_p2p.flow.kept import drawn_expert


class ExpertPool(Protocol):
    """Gives experts by number; a pool may bring an expert into memory only when it is asked for."""

    def velocity(self, k: int, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Returns expert k's v [B ...] at x [B ...], t [B], given what is known of the clips."""
        ...


class Told(NamedTuple):
    """What some routings are told of each clip beside the logits."""

    clusters: Tensor | None = None  # [B], the true ones
    uniforms: Tensor | None = None  # [B], in [0, 1)


@dataclass(frozen=True)
class Routing:
    """Says how logits become weights: a name in ROUTINGS, and the numbers that some of them take."""

    name: str = "top_k"
    top_k: int = 1
    threshold: float = 0.1  # a share of the posterior
    expert: int = 0  # of `single`
    kept_until: float = 0.0  # of `kept`: from this t on all experts go on by their posterior; 0: never

    def __post_init__(self) -> None:
        if self.name not in ROUTINGS:
            raise UsageError(f"no routing is called {self.name!r}; choose one of {', '.join(ROUTINGS)}")
        if self.kept_until and self.name != "kept":
            raise UsageError(
                f"the time {self.kept_until} until which an expert is kept goes with the routing kept, "
                f"and the routing is {self.name}; choose kept (--routing kept)"
            )
        if not 0 <= self.kept_until < 1:
            raise UsageError(
                f"an expert is kept until a time between 0, the clip, and 1, noise, not {self.kept_until}"
            )
        if not isinstance(self.top_k, int) or self.top_k < 1 or not 0 <= self.threshold <= 1:
            raise UsageError(
                "top-k must be 1 or more and the threshold between 0 and 1, "
                f"not {self.top_k} and {self.threshold}"
            )

    @property
    def needs_router(self) -> bool:
        """Says whether this routing asks the router."""
        return self.name in ("top_k", "full", "threshold", *KEPT)

    @property
    def is_kept(self) -> bool:
        """Says whether the weights are those of t = 1, where the latent is noise, from there on."""
        return self.name in KEPT

    @property
    def needs_uniforms(self) -> bool:
        """Says whether a number in [0, 1) is drawn for each clip."""
        return self.name == "kept"

    @property
    def follows(self) -> Routing:
        """Returns the routing of what is not kept: later times, and the other side of exact guidance."""
        return Routing("full") if self.is_kept else self

    def in_words(self) -> str:
        """Returns the name, with the numbers that count for it, and what it does."""
        more = {
            "top_k": f": the {self.top_k} most probable at each step",
            "threshold": f": those of a posterior share of {self.threshold:g} or more, at each step",
            "kept": ": one expert a clip, drawn before the first step and kept",
            "text": ": the caption's most probable expert, kept",
        }
        later = f" until t = {self.kept_until:g}, then all by their posterior" if self.kept_until else ""
        return self.name + more.get(self.name, "") + later

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

    def weights(
        self, logits: Tensor, clusters: Tensor | None = None, uniforms: Tensor | None = None
    ) -> Tensor:
        """Returns weights [B K] that sum to one, from logits [B K]; `oracle` takes the true `clusters` [B],
        `kept` a number in [0, 1) for each clip, `uniforms` [B].

        UsageError when no expert is left that may get weight.
        """
        if not bool((logits > -torch.inf).any(1).all()):
            raise UsageError("no expert is there to route to")
        weights = ROUTINGS[self.name](self, logits.float(), Told(clusters, uniforms))
        if not bool(weights[logits == -torch.inf].eq(0).all()):
            raise UsageError(
                f"the routing {self.name} asks for an expert that is not there; "
                "use top_k, or fetch all experts"
            )
        return weights


def _top_k(routing: Routing, logits: Tensor, told: Told) -> Tensor:
    """Returns the k most probable, renormalised."""
    kept = logits.topk(min(routing.top_k, logits.shape[1]), dim=1)
    return torch.zeros_like(logits).scatter(1, kept.indices, kept.values.softmax(1))


def _full(routing: Routing, logits: Tensor, told: Told) -> Tensor:
    return logits.softmax(1)


def _threshold(routing: Routing, logits: Tensor, told: Told) -> Tensor:
    """Returns all at or above the threshold, and always the most probable, renormalised."""
    shares = logits.softmax(1)
    kept = (shares >= routing.threshold) & (shares > 0)
    kept.scatter_(1, shares.argmax(1, keepdim=True), True)
    return (shares * kept) / (shares * kept).sum(1, keepdim=True)


def _uniform(routing: Routing, logits: Tensor, told: Told) -> Tensor:
    """Returns equal weights for all experts that are there: a plain ensemble."""
    there = (logits > -torch.inf).float()
    return there / there.sum(1, keepdim=True)


def _oracle(routing: Routing, logits: Tensor, told: Told) -> Tensor:
    if told.clusters is None:
        raise UsageError("oracle routing needs the true cluster of every clip")
    return torch.zeros_like(logits).scatter(1, told.clusters[:, None], 1.0)


def _single(routing: Routing, logits: Tensor, told: Told) -> Tensor:
    if not 0 <= routing.expert < logits.shape[1]:
        raise UsageError(f"there is no expert {routing.expert}; there are {logits.shape[1]}, from 0 on")
    return torch.zeros_like(logits).index_fill(1, torch.tensor([routing.expert], device=logits.device), 1.0)


def _kept(routing: Routing, logits: Tensor, told: Told) -> Tensor:
    """Returns one expert a clip, drawn from the posterior."""
    if told.uniforms is None:
        raise UsageError(
            "kept routing needs a number in [0, 1) for every clip, from which its expert is drawn"
        )
    return drawn_expert(logits, told.uniforms)


def _text(routing: Routing, logits: Tensor, told: Told) -> Tensor:
    """Returns the most probable expert."""
    return torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1.0)


KEPT = ("kept", "text")  # routings of which the weights at t = 1 stay
ROUTINGS: dict[str, Callable[[Routing, Tensor, Told], Tensor]] = {
    "top_k": _top_k,
    "full": _full,
    "threshold": _threshold,
    "uniform": _uniform,
    "oracle": _oracle,
    "single": _single,
    "kept": _kept,
    "text": _text,
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
