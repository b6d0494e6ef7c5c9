"""Averages weights by a power of the time, so that the average's length can be chosen after training.

Source: EDM2 (Karras et al. 2024, arXiv 2312.02696), section 3. After s steps, the weights of step i count in
proportion to i^g: the average grows with the training. Its length is the standard deviation of these shares,
as a share of the training (Eq. 17 there):

    length = sqrt(g + 1) / ((g + 2) sqrt(g + 3))

Two averages are kept, of LENGTHS. Any other is c times the first and 1 - c times the second, with the c whose
profile is nearest in least squares to that of the length. There, unlike here, copies are kept from all
through the training, so that more lengths can be made: of two at one time those from SHORTEST to LONGEST,
within 9 %.
"""

from __future__ import annotations

from pathlib import Path

import torch

from paris_p2p.errors import CheckpointError, UsageError
from paris_p2p.model.calibration import calibration_of
from paris_p2p.model.checkpoint import averages_of, counters_of, write_weights
from paris_p2p.model.state_parts import LONG
from paris_p2p.model.tensor_file import Shapes

LENGTHS = (0.05, 0.10)
SHORTEST, LONGEST = 0.04, 0.12


def exponent_of(length: float) -> float:
    """Returns the g of a profile of this length, between 0 and 0.28; it is found by halving."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        longer = (middle + 1) ** 0.5 / ((middle + 2) * (middle + 3) ** 0.5) > length
        low, high = (middle, high) if longer else (low, middle)
    return low


EXPONENTS = exponent_of(LENGTHS[0]), exponent_of(LENGTHS[1])


def power_decays(step: int) -> tuple[float, float]:
    """Returns the two averages' decays at step `step` (from 0): (1 - 1 / s)^(g + 1) after s steps.

    The first is zero, so that nothing is left of the initialisation.
    """
    share = 1 - 1 / (step + 1)
    return share ** (EXPONENTS[0] + 1), share ** (EXPONENTS[1] + 1)


def share_of_first(length: float) -> float:
    """Returns the c by which the two averages make one of this length; UsageError where they cannot."""
    if not SHORTEST <= length <= LONGEST:
        raise UsageError(
            f"an average of length {length:g} cannot be made of those of {LENGTHS[0]:g} and {LENGTHS[1]:g}; "
            f"choose one from {SHORTEST:g} to {LONGEST:g}"
        )
    first, second, wanted = *EXPONENTS, exponent_of(length)
    difference = _alike(first, first) - 2 * _alike(first, second) + _alike(second, second)
    toward = _alike(wanted, first) - _alike(wanted, second) - _alike(first, second) + _alike(second, second)
    return toward / difference


def _alike(a: float, b: float) -> float:
    """Returns the integral over [0, 1] of the product of the profiles (a + 1) t^a and (b + 1) t^b."""
    return (a + 1) * (b + 1) / (a + b + 1)


def write_of_length(path: Path, shapes: Shapes, length: float, out: Path) -> None:
    """Writes a slot's weights with the average of this length for the one that was published, as plain ones.

    UsageError where the run keeps one average alone; CheckpointError, DiskFullError, ReadOnlyError.
    """
    share = share_of_first(length)
    with averages_of(path, shapes) as read:
        if read is None:
            raise UsageError(
                "the run keeps one average of its weights, whose length --ema-decay or --ema-clips set; "
                "--ema-length is for runs that were created with --ema-profile power"
            )
        mixed = {}
        for name in shapes:
            first, second = read(name).float(), read(f"{LONG}{name}").float()
            mixed[name] = (share * first + (1 - share) * second).to(torch.bfloat16)
            if not bool(mixed[name].isfinite().all()):
                raise CheckpointError(f"{name} in {path.name} is not finite; fetch it again")
    calibration = calibration_of(path)  # of the published average, and near enough for its neighbours
    write_weights(out, counters_of(path), mixed, calibration.note() if calibration else {})
