"""Adds to an expert's answer the noisy patch itself, each of its numbers times a learned gate of the time.

A network that is narrower than its patches cannot pass their noise on, which the velocity holds. Of all
linear functions of x_t = (1 - t) x0 + t eps, with independent x0 and eps of variances s0^2 and 1, the nearest
to v = eps - x0 is c(t) x_t with

    c(t) = E[v x_t] / E[x_t^2] = (t - (1 - t) s0^2) / (t^2 + (1 - t)^2 s0^2),

which runs from -1 at t = 0 to 1 at t = 1 where s0 is 1, and where s0 is small, as in the finest detail, is
near 1 / t. The gates start at zero, where the network answers as without them, and find it for each number of
a patch. Nearest to this is the preconditioning of EDM (Karras et al. 2022, arXiv 2206.00364, Eq. 7), whose
skip is computed and not learned.
Legend: B clips, N patches, P numbers of a patch. t = 1 is noise.
"""

from __future__ import annotations

from torch import Tensor, nn

from paris_p2p.model.layers import TIME_FEATURES, time_features, zero


class TimeSkip(nn.Module):
    """Holds the gates of one patch's numbers, which all patches share."""

    def __init__(self, numbers: int):
        super().__init__()
        self.gate = nn.Linear(TIME_FEATURES, numbers)
        zero(self.gate)

    def forward(self, answer: Tensor, patches: Tensor, t: Tensor) -> Tensor:
        """Returns the answer [B N P] with the patches [B N P] added as the times t [B] have it."""
        gates: Tensor = self.gate(time_features(t).to(self.gate.weight.dtype))  # [B P]
        return answer + gates[:, None].to(patches.dtype) * patches


def best_gate(t: Tensor, data_variance: float) -> Tensor:
    """Returns c(t) of noise with variance one: what a gate should become for a number of such a variance."""
    rest = (1 - t) * data_variance
    return (t - rest) / (t.square() + (1 - t) * rest)
