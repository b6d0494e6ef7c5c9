"""Takes a slot's optimizer steps: AdamW for everything, or Muon for the matrices of the blocks.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) makes a step of a matrix's momentum by giving
all its singular values about the same length. Its steps are as long as AdamW's, so that both take the run's
learning rate and weight decay (Liu et al. 2025, arXiv 2502.16982, Eq. 4). The moments of both are this
module's own, so that a state can be written and read whole.
Legend: A x B a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from paris_p2p.model.checkpoint import BETAS
from paris_p2p.model.state_parts import StateParts
from paris_p2p.spec import TrainingSpec

EPSILON = 1e-8  # of AdamW
MOMENTUM = 0.95  # of Muon
# Jordan's quintic: five times this polynomial bring singular values from 0.01 up to between 0.7 and 1.2.
_QUINTIC, _TIMES = (3.4445, -4.7750, 2.0315), 5
_SMALLEST_NORM = 1e-7


class SlotOptimizer:
    """Holds the moments of a slot's parameters, from the start; a step changes the parameters in place.

    Matrices are made alike in length in `dtype`: bfloat16 where the device multiplies it fast. The products'
    last bits differ between machines, as those of the network itself do, and are the same on one.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], training: TrainingSpec, dtype: torch.dtype = torch.float32
    ):
        parts = StateParts.of_run(training)
        self._dtype, self._weight_decay = dtype, training.weight_decay
        matrices = {name for name, weight in weights.items() if parts.by_muon(name, tuple(weight.shape))}
        others = {name: weight for name, weight in weights.items() if name not in matrices}
        self._matrices = [weights[name] for name in weights if name in matrices]
        self._momenta = [torch.zeros_like(weight) for weight in self._matrices]
        self._adamw = _AdamW(list(others.values()), training.weight_decay)
        self.exp_avg: dict[str, Tensor] = {}
        self.exp_avg_sq: dict[str, Tensor] = {}
        self._restore_names(weights, others)

    def step(self, learning_rate: float) -> None:
        """Takes a step of the gradients that there are, all of them, and forgets them."""
        self._adamw.step(learning_rate)
        self._step_matrices(learning_rate)
        self.forget_gradients()

    def forget_gradients(self) -> None:
        self._adamw.forget_gradients()
        for weight in self._matrices:
            weight.grad = None

    def count_as(self, steps: int) -> None:
        """Takes the moments for those of so many steps, which AdamW's first steps divide by."""
        for moments in self._adamw.state.values():
            moments["step"].fill_(steps)

    def scale_to(self, steps: int) -> None:
        """Scales AdamW's moments so that what it divides by is the same when they count as of `steps`."""
        for moments in self._adamw.state.values():
            own_steps = float(moments["step"])
            for name, beta in zip(("exp_avg", "exp_avg_sq"), BETAS, strict=True):
                if own_steps:
                    moments[name] *= (1 - beta**steps) / (1 - beta**own_steps)
        self.count_as(steps)

    def restart(self) -> None:
        """Sets all moments to zero, as at the start."""
        for tensor in self._tensors():
            tensor.zero_()

    def _tensors(self) -> Iterator[Tensor]:
        yield from self._momenta
        for moments in self._adamw.state.values():
            yield from moments.values()

    def _restore_names(self, weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
        """Names the moments after their parameters, in the order of `weights`."""
        momenta = iter(self._momenta)
        for name, weight in weights.items():
            if name in others:
                self.exp_avg[name] = self._adamw.state[weight]["exp_avg"]
                self.exp_avg_sq[name] = self._adamw.state[weight]["exp_avg_sq"]
            else:
                self.exp_avg[name] = next(momenta)

    @torch.no_grad()
    def _step_matrices(self, learning_rate: float) -> None:
        for weight, momentum in zip(self._matrices, self._momenta, strict=True):
            gradient = weight.grad
            if gradient is None:
                continue
            momentum.lerp_(gradient, 1 - MOMENTUM)
            ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov's
            length = 0.2 * math.sqrt(max(weight.shape))
            weight.mul_(1 - learning_rate * self._weight_decay)
            weight.add_(evened(ahead, self._dtype), alpha=-learning_rate * length)


def evened(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns U S V^T of a matrix U Σ V^T, where all of S lie near 1, by Newton-Schulz steps: [A B]."""
    a, b, c = _QUINTIC
    x = matrix.to(dtype)
    wide = x if len(x) <= x.shape[1] else x.T
    wide = wide / wide.norm().clamp(min=_SMALLEST_NORM)
    for _ in range(_TIMES):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if len(x) <= x.shape[1] else wide.T


class _AdamW:
    """Takes steps of AdamW (Loshchilov and Hutter, arXiv 1711.05101), which decays matrices, not vectors.

    Its state exists from the start. The arithmetic is torch's; torch's own class would load its compiler,
    which nothing here needs, and which takes as long to load as all the rest of torch.
    """

    def __init__(self, weights: list[Tensor], weight_decay: float):
        self._groups = [
            ([weight for weight in weights if weight.dim() >= 2], weight_decay),
            ([weight for weight in weights if weight.dim() < 2], 0.0),
        ]
        self.state = {
            weight: {
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
                "step": torch.zeros((), device=weight.device),
            }
            for weight in weights
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Takes a step of the gradients that there are."""
        for group, weight_decay in self._groups:
            given = [(weight, weight.grad) for weight in group if weight.grad is not None]
            moments = [self.state[weight] for weight, _ in given]
            if not given:
                continue
            adamw(
                [weight for weight, _ in given],
                [gradient for _, gradient in given],
                [each["exp_avg"] for each in moments],
                [each["exp_avg_sq"] for each in moments],
                [],
                [each["step"] for each in moments],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=learning_rate,
                weight_decay=weight_decay,
                eps=EPSILON,
                maximize=False,
            )

    def forget_gradients(self) -> None:
        for weight in self.state:
            weight.grad = None
