"""Fits our VideoDiT's steering by time (one small MLP for all blocks, a table each) to another transformer's.

DiT (arXiv 2212.09748) has an MLP of the time in every block. PixArt-alpha (arXiv 2310.00426, section 2.3)
replaced them by one MLP and learned tables, and started from DiT by choosing the tables so that at one time
both steer alike. Here the one MLP and the tables are the best in least squares over all times.
Legend: S times, D width, H hidden units, R right-hand sides, L blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from paris_p2p.model.layers import time_features

TIMES = 1001  # t = 0, 0.001 … 1: the steps with which such models were trained
RIDGE = 1e-7  # relative to the mean square of the hidden units


@dataclass(frozen=True)
class Steering:
    """Holds our steering, and how far it is from the other's.

    The error is the root mean square of the difference, over that of the other's steering.
    """

    time_in: tuple[Tensor, Tensor]
    time_out: tuple[Tensor, Tensor]
    tables: Tensor  # [L 6 D]
    last_table: Tensor  # [2 D]
    error: float


def embedded_times(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Returns what DiT makes of the times t = 0 … 1 before any block: [S D]."""
    times = torch.linspace(0, 1, TIMES)
    return F.linear(F.silu(F.linear(time_features(times), *first)), *second)


def fit_steering(
    blocks: Iterable[Tensor], last: Tensor, first: tuple[Tensor, Tensor], own_time_in: tuple[Tensor, Tensor]
) -> Steering:
    """Fits our steering to each block's [S 6 D] and the last layer's [S 2 D] at all times.

    `first` is the other's layer of the time's features, which becomes the first rows of ours; the other rows
    stay those of `own_time_in`.
    """
    shared, tables, block_error, power = _additive(blocks)
    weight, bias = (
        torch.cat([theirs.float(), ours[len(theirs) :]])
        for theirs, ours in zip(first, own_time_in, strict=True)
    )
    time_out = _fit(_hidden(weight, bias), shared.flatten(1))
    made = (_hidden(weight, bias) @ time_out[:-1] + time_out[-1]).reshape(shared.shape)
    fit_error = (made - shared).square().sum().item() * len(tables)
    last_table = (last.double() - made[:, :2]).mean(0)
    last_error = (made[:, :2] + last_table - last.double()).square().sum().item()
    power += last.double().square().sum().item()
    error = ((block_error + fit_error + last_error) / max(power, 1e-30)) ** 0.5
    out = (time_out[:-1].T.float().contiguous(), time_out[-1].float())
    return Steering((weight, bias), out, tables.float(), last_table.float(), error)


def _additive(blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor, float, float]:
    """Returns the best a(t) + b(block): (a [S 6 D], b [L 6 D], squared error, squared sum of the input).

    One block is in memory at a time.
    """
    total, means, power = torch.zeros((), dtype=torch.float64), [], 0.0
    for block in blocks:
        total = total + block.double()
        means.append(block.double().mean(0))
        power += block.double().square().sum().item()
    shared, per_block = total / len(means), torch.stack(means)
    grand = per_block.mean(0)
    explained = (
        len(means) * shared.square().sum()
        + TIMES * per_block.square().sum()
        - TIMES * len(means) * grand.square().sum()
    )
    return shared, per_block - grand, max(0.0, power - explained.item()), power


def _hidden(weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(F.linear(time_features(torch.linspace(0, 1, TIMES)), weight, bias)).double()  # [S H]


def _fit(hidden: Tensor, wanted: Tensor) -> Tensor:
    """Solves ridge regression with a constant, in its smaller form: [S H], [S R] -> [H+1 R]."""
    hidden = torch.cat([hidden, torch.ones(len(hidden), 1, dtype=hidden.dtype)], 1)
    small = RIDGE * hidden.square().mean().item() * len(hidden)
    if hidden.shape[1] > len(hidden):
        gram = hidden @ hidden.T
        fitted: Tensor = hidden.T @ torch.linalg.solve(
            gram + small * torch.eye(len(gram), dtype=gram.dtype), wanted
        )
        return fitted
    gram = hidden.T @ hidden
    fitted = torch.linalg.solve(gram + small * torch.eye(len(gram), dtype=gram.dtype), hidden.T @ wanted)
    return fitted
