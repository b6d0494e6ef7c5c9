"""Deals groups of clips into random parts, as the control of a partition that means nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def deal_groups(groups: Sequence[str], wanted: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns the part of each row [N]: whole groups go in random order, each to the part that lacks most."""
    names, of_row, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    missing = np.asarray(wanted, dtype=np.float64)
    part = np.zeros(len(names), dtype=np.int64)
    for group in rng.permutation(len(names)):
        part[group] = int(missing.argmax())
        missing[part[group]] -= counts[group]
    return part[of_row]
